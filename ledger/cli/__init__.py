"""`forge-ledger`: verify, read, prove and carry a ledger, offline."""
