"""Everything replayed from its bytes, log by log, by processes side by side; the first fault of each log named."""
