"""Logs on disk: the SQLite file, what may be written into it, and what our own key may still sign."""
