"""Requests of all tasks, merged into as few passes over images as there can be.

What decides features is their identity: stored ones are used only where all of it matches.
"""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ssleval.core import COMPUTING_FIELDS, Geometry, RandomView, Readout, Split, digest
from ssleval.core.backbone import Backbone
from ssleval.features.readouts import row_shape
from ssleval.features.store import KEY_DIGITS, Column

EXTRACTOR_VERSION = 1
"""Raised when a change to this package moves features."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One split, seen once at one geometry, for all readouts anyone asked for."""

    dataset: str
    split_name: str
    split: Split
    geometry: Geometry | RandomView
    readouts: tuple[Readout, ...]
    """Canonical ones, in the order first asked for."""
    identity: dict[str, Any]
    """All that decides its features."""
    key: str
    """Digest of the identity: the name of its folder."""

    @property
    def label(self) -> str:
        """Name for people."""
        return f"{self.dataset}/{self.split_name}"

    @property
    def view(self) -> Hashable:
        """What decides the images that a model sees: equal for passes that may share their decoding."""
        return tuple(self.identity["dataset"]), self.geometry

    def columns(self, backbone: Backbone) -> dict[Readout, Column]:
        """Return how its readouts are stored."""
        return {readout: column_of(readout, backbone, self.geometry) for readout in self.readouts}


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


def pass_of(
    backbone: Backbone,
    model: Mapping[str, Any],
    dataset: str,
    split_name: str,
    split: Split,
    geometry: Geometry | RandomView,
) -> Pass:
    """Return the pass over one split at one geometry, without a readout; ``model`` is a `model_identity`.

    The names of dataset and split are part of its key: folders of equally named bitmaps of one size have the
    same fingerprint. Sets that share their images share their features.
    """
    if isinstance(geometry, Geometry):
        geometry = geometry.on_grid(backbone.card.patch_size)
    name, images = ("", split.pictures) if split.pictures else (dataset, split.fingerprint)
    identity = {**model, "geometry": geometry.recorded(), "dataset": [name, split_name, images, len(split)]}
    return Pass(dataset, split_name, split, geometry, (), identity, digest(identity)[:KEY_DIGITS])


def merge(passes: Iterable[Pass]) -> tuple[Pass, ...]:
    """Return one pass for each key, with the readouts of all that share it."""
    merged: dict[str, Pass] = {}
    for single in passes:
        before = merged[single.key].readouts if single.key in merged else ()
        merged[single.key] = replace(single, readouts=tuple(dict.fromkeys(before + single.readouts)))
    return tuple(merged.values())


def column_of(readout: Readout, backbone: Backbone, geometry: Geometry | RandomView) -> Column:
    """Return how a canonical readout is stored: patch grids in half the bytes, all else in float32."""
    name = str(readout).replace("[", "-").replace("]", "").replace(":", "-")
    dtype = "float16" if readout.kind == "patches" else "float32"
    return Column(name, row_shape(readout, backbone, geometry), dtype)
