"""Bytes named by their Merkle root: kept, pinned, evicted, fetched in verified chunks."""
