"""Metrics of trained networks: features and distances, regular patterns and halos, and tables of the results."""
