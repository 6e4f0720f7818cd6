"""Plug-ins of `forge-ledger`: what auditing a ledger needs of the network and of the engine."""
