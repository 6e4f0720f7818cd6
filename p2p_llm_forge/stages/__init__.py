"""Models larger than any peer: a model in pieces that several peers hold."""
