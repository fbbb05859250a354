"""Datasets, one source or set a module. Importing a module registers it."""
