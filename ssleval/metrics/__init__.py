"""Pure functions of samples: what turns per-item outcomes into numbers."""
