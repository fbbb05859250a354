"""Rendered pictures of simple things with every kind of ground truth: the default dataset.

Twenty categories that differ in geometry, rendered by `ssleval.datasets.scenes` at first use. The location
after the colon selects the target; the pictures are the same.

    scenes                      category; also the split `unlabelled`
    scenes:material|color|size|count   attributes of the subject, and how many things there are
    scenes:mask                 classes of `MASK_CLASSES` [H W], 255 where a pixel holds several
    scenes:instances            0 background, 1 the subject, 2... [H W]
    scenes:depth                metres along the camera's axis [H W], 0 unknown
    scenes:normals              unit vectors, x right, y down, z forward [H W 3], 0 unknown
    scenes:retrieval            `Groups`: rows of the split `gallery` that answer a query
    scenes:exhibits             instance, -1 for none of the hundred in the split `database`
    scenes:copies               `Groups`: the row of the original in the split `database`, by kind of edit
    scenes:video                instances of every frame; the id is CLIP/FRAME
    scenes:pairs                `KeyPoints`: the second view and the points that both views show
    scenes:captions             a long and a short caption
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ssleval.core import Dataset, DatasetCard, DatasetOptions, Split, datasets, digest
from ssleval.core.registry import suggestion
from ssleval.datasets.scenes import targets
from ssleval.datasets.scenes.categories import CATEGORIES
from ssleval.datasets.scenes.edits import EDITS
from ssleval.datasets.scenes.items import SPLITS
from ssleval.datasets.scenes.palette import COLORS, MATERIALS, SIZES
from ssleval.datasets.scenes.render import MASK_CLASSES
from ssleval.datasets.scenes.retrieval import exhibit_rows
from ssleval.datasets.scenes.store import VERSION, array, golden, open_split
from ssleval.errors import UnknownNameError

CARD = DatasetCard(
    name="scenes",
    class_names=CATEGORIES,
    lengths={name: SPLITS[name].length for name in ("train", "test", "unlabelled")},
    license="Apache-2.0",
    source=f"{VERSION}, rendered by ssleval.datasets.scenes",
)


@dataclass(frozen=True, slots=True)
class _Kind:
    """One kind of target."""

    target: Any
    """``target`` of the card."""
    splits: Mapping[str, str] = field(default_factory=lambda: {"train": "train", "test": "test"})
    """Name of a split for tasks, to its name in `SPLITS`."""
    classes: tuple[str, ...] = ()
    labels: Callable[[Path], np.ndarray] | None = None
    """All labels of a split."""
    dense: Callable[[Path, int], Any] | None = None
    """Target of one item."""
    test_split: str = "test"
    train_split: str = "train"
    max_depth: float = 0.0
    graded: bool = False
    views: int = 1
    """Stored pictures per item; the first is the image of the item."""
    parts: Mapping[str, Callable[[int], np.ndarray]] = field(default_factory=dict[str, Any])
    """For a split that is part of a stored one, the function from its length to the rows."""

    def length(self, name: str) -> int:
        """Return the number of items of a split."""
        length = SPLITS[self.splits[name]].length // self.views
        return len(self.parts[name](length)) if name in self.parts else length


def _attribute(column: int, names: tuple[str, ...]) -> _Kind:
    return _Kind("label", classes=names, labels=lambda folder: array(folder, "attributes")[:, column])


_KINDS: Mapping[str, _Kind] = {
    "": _Kind("label", {name: name for name in CARD.lengths}, CATEGORIES, partial(array, name="label")),
    "material": _attribute(0, MATERIALS),
    "color": _attribute(1, tuple(COLORS)),
    "size": _attribute(2, tuple(SIZES)),
    "count": _attribute(3, ("1", "2", "3", "4")),
    "mask": _Kind("mask", classes=MASK_CLASSES, dense=partial(targets.stored, "mask")),
    "instances": _Kind("instances", dense=partial(targets.stored, "instances")),
    "depth": _Kind("depth", dense=targets.depth, max_depth=10.0),
    "normals": _Kind("normals", dense=targets.normals),
    "retrieval": _Kind(
        "groups",
        {"queries": "retrieval_queries", "gallery": "retrieval_gallery"},
        dense=targets.sightings,
        test_split="queries",
        train_split="gallery",
        graded=True,
    ),
    "exhibits": _Kind(
        "open_set",
        # The database has one picture of each instance; queries are other pictures, of these or of others.
        {
            "database": "retrieval_queries",
            "val": "retrieval_gallery",
            "test": "retrieval_gallery",
            "whitening": "train",
        },
        labels=partial(array, name="instance"),
        train_split="database",
        parts={name: partial(exhibit_rows, name) for name in ("val", "test")},
    ),
    "copies": _Kind(
        "groups",
        # Descriptors are whitened on pictures that are in no database.
        {"queries": "copies_queries", "database": "copies_database", "whitening": "train"},
        classes=tuple(EDITS),
        dense=targets.originals,
        test_split="queries",
        train_split="database",
    ),
    "video": _Kind("video", {"test": "video"}, dense=partial(targets.stored, "instances")),
    "pairs": _Kind("pairs", {"test": "pairs"}, dense=targets.key_points, views=2),
    "captions": _Kind("captions", {"test": "test"}, dense=targets.described),
}


@dataclass(frozen=True, slots=True)
class _Pictures:
    folder: Path
    views: int

    def __call__(self, index: int) -> Image.Image:
        return Image.fromarray(np.array(array(self.folder, "image")[index * self.views]))


@dataclass(frozen=True, slots=True)
class _Targets:
    folder: Path
    kind: str

    def __call__(self, index: int) -> Any:
        dense = _KINDS[self.kind].dense
        assert dense is not None, self.kind
        return dense(self.folder, index)


@datasets.register("scenes")
def scenes(location: str, options: DatasetOptions) -> Dataset:
    """Open the rendered set; a copy in the data root takes precedence over the cache.

    Raises:
        UnknownNameError: there is no target of this name.
    """
    if location not in _KINDS:
        raise UnknownNameError(
            f"scenes: no target {location!r}; {suggestion(location, filter(None, _KINDS))}"
        )
    kind = _KINDS[location]
    root = options.data_root if (options.data_root / VERSION).is_dir() else options.cache
    card = replace(
        CARD,
        name=f"scenes:{location}" if location else "scenes",
        target=kind.target,
        class_names=kind.classes,
        lengths={name: kind.length(name) for name in kind.splits},
        test_split=kind.test_split,
        train_split=kind.train_split,
        max_depth=kind.max_depth,
        graded=kind.graded,
    )
    return Dataset(card, lambda name: _open(root, name, location), pictures=VERSION)


def _open(root: Path, name: str, location: str) -> Split:
    kind = _KINDS[location]
    split = kind.splits[name]
    folder, length = open_split(root, split), SPLITS[split].length // kind.views
    labelled = kind.labels is not None and name not in {"unlabelled", "whitening"}
    # Only queries have groups; the images of the gallery have no target.
    dense = kind.dense is not None and (kind.target != "groups" or split.endswith("_queries"))
    stored = Split(
        ids=targets.names(split, length),
        image=_Pictures(folder, kind.views),
        targets=np.asarray(kind.labels(folder)) if labelled and kind.labels else None,
        fingerprint=digest([VERSION, split, golden()[split], location]),
        target=_Targets(folder, location) if dense else None,
        pictures=digest([VERSION, split, golden()[split]]),
    )
    return stored.subset(kind.parts[name](length)) if name in kind.parts else stored
