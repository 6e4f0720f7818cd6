"""Runs whose model is cut into stages: the machines of the leader, the replicas and the drivers."""
