"""Features of frozen backbones: one pass over the images for all tasks, stored once."""

from ssleval.features.extract import Extracted
from ssleval.features.shard import alone, current_shard, local_device
from ssleval.features.source import FeatureSource

__all__ = ["Extracted", "FeatureSource", "alone", "current_shard", "local_device"]
