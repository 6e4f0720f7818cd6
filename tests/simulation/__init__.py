"""The simulator of whole runs: its model, its schemes, its command line."""
