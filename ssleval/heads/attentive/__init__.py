"""Attentive probes: heads that learn where in the grid of patch tokens to look."""
