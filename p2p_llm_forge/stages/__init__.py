"""A model cut into stages that different peers hold."""
