"""Anybody's weights: found, downloaded, read safely, every tensor accounted for."""
