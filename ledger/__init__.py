"""Signed Merkle logs, credits and their verification; knows nothing of training or of the network.

The files, each importing only files named before it:
errors codec keys merkle notes values spec receipt entries rules balances fold_log fold genesis database logs store
witness replica report verify tiles describe cli.
"""
