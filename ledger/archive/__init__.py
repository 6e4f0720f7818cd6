"""Ledgers as folders of tlog-tiles that other tools read, and back."""
