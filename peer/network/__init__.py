"""libp2p: one p2pd, calls and signed records, limits for every remote peer."""
