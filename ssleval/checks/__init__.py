"""Checks of models: wired correctly (doctor), no worse than another (gate)."""
