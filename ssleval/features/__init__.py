"""Features of frozen backbones: one pass over the images for all tasks, stored once. The door of this room.

`FeatureSource` gives stored features, `MemorySource` those of a model in training, `Live` runs the model on
images as they come. Tasks, checks, pictures and the trainer use nothing of this room but what is named here.
"""

from ssleval.features.decode import KeptImages
from ssleval.features.extract import Extracted
from ssleval.features.fitting import FitImages, classified_by, fitted_on, trained_on
from ssleval.features.group import PeerError
from ssleval.features.live import Live, pixels_of
from ssleval.features.memory import MemorySource
from ssleval.features.passes import Pass, fingerprints_of
from ssleval.features.shard import Shard, alone, current_shard, local_device, watching_peers
from ssleval.features.source import FeatureSource, prepare_together

__all__ = [
    "Extracted", "FeatureSource", "FitImages", "KeptImages", "Live", "MemorySource", "Pass", "PeerError",
    "Shard", "alone", "classified_by", "current_shard", "fingerprints_of", "fitted_on", "local_device",
    "pixels_of", "prepare_together", "trained_on", "watching_peers",
]  # fmt: skip
