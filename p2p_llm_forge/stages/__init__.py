"""A model across peers: pipeline stages, what travels between them, and what a replica of one does."""
