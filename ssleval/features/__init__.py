"""Features of frozen backbones: one pass over the images for all tasks, stored once."""

from ssleval.features.source import FeatureSource

__all__ = ["FeatureSource"]
