"""What decides features: stored ones are used only where all of it matches."""

import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ssleval.core import COMPUTING_FIELDS, Geometry, RandomView, Split
from ssleval.core.backbone import Backbone
from ssleval.core.files import file_sha256

EXTRACTOR_VERSION = 1
"""Raised when a change to this package moves features."""


def model_identity(backbone: Backbone, precision: str) -> dict[str, Any]:
    """Return what decides features on the side of the model, as JSON can hold it."""
    card = asdict(backbone.card)
    return {
        "weights_sha256": backbone.weights_sha256,
        "card": {name: card[name] for name in COMPUTING_FIELDS},
        "code_sha256": _code(backbone),
        "precision": precision,
        "extractor_version": EXTRACTOR_VERSION,
    }


def pass_identity(
    model: Mapping[str, Any],
    dataset: str,
    split_name: str,
    split: Split,
    geometry: Geometry | RandomView,
) -> dict[str, Any]:
    """Return everything that decides the features of one split; ``model`` is a `model_identity`.

    The names of dataset and split are among it: folders of equally named bitmaps of one size have the same
    fingerprint. Sets that share their images share their features.
    """
    name, images = ("", split.pictures) if split.pictures else (dataset, split.fingerprint)
    return {**model, "geometry": geometry.recorded(), "dataset": [name, split_name, images, len(split)]}


def _code(backbone: Backbone) -> str:
    """Hash the file of a backbone class that is not ours: its code may change under equal weights."""
    module = type(backbone).__module__
    file = getattr(sys.modules[module], "__file__", None)
    ours = module.startswith("ssleval.")
    return "" if ours or file is None or not Path(file).exists() else file_sha256(file)
