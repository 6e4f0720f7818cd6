"""Signed Merkle logs, credits and their verification; knows nothing of training or of the network.

The files, each importing only files named before it:
errors codec keys merkle notes entries rules fold genesis tiles store witness replica verify cli.
"""
