"""Heads on patch grids: a class or a depth for every pixel."""
