"""One test class for every way to tamper with a ledger that the issue names."""
