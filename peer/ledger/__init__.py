"""The daemon's side of the ledger: appending, cosignatures, replication, payments."""
