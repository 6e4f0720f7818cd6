"""Replication as a machine without IO: whom to ask for what, and what to take."""
