"""Signed Merkle logs, credits and their verification; knows nothing of training or of the network.

In which order its files stand, each importing only files before it, is written in `tests/test_architecture.py`.
"""
