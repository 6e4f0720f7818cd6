"""Mixtures of experts whose experts live on other peers, while the model keeps its own router."""
