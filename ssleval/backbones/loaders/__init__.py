"""Backbone loaders, one library a module. Importing a module registers it."""
