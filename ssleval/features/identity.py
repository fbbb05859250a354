"""What decides features: stored ones are used only where all of it matches."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ssleval.core import COMPUTING_FIELDS, digest
from ssleval.core.backbone import Backbone

EXTRACTOR_VERSION = 1
"""Raised when a change to this package moves features."""


def model_identity(backbone: Backbone, precision: str) -> dict[str, Any]:
    """Return what decides features on the side of the model, as JSON can hold it."""
    card, definition = asdict(backbone.card), dict(backbone.definition)
    identity: dict[str, Any] = {
        "weights_sha256": backbone.weights_sha256,
        "card": {name: card[name] for name in COMPUTING_FIELDS},
        "code_sha256": definition.pop("code", ""),
        "precision": precision,
        "extractor_version": EXTRACTOR_VERSION,
    }
    # Absent for most models, whose keys are those of earlier versions.
    return identity | {f"{name}_sha256": value for name, value in definition.items()}


def fingerprints_of(identity: Mapping[str, Any]) -> dict[str, str]:
    """Return every part of an identity in a few digits, for people to compare."""
    return {
        name: (value if isinstance(value, str) else digest(value))[:12] for name, value in identity.items()
    }
