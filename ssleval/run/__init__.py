"""Run: what is measured, in which order, and what it would cost."""
