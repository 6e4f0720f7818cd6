"""The round machines on a virtual clock, over a network that loses, delays and repeats, with kills and restarts."""
