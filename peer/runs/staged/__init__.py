"""Runs whose model is cut into stages."""
