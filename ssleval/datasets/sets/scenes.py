"""Rendered pictures of simple things with every kind of ground truth: the default dataset.

Twenty categories that differ in geometry, rendered by `ssleval.datasets.scenes` at first use. The location
after the colon selects the target; the pictures are the same.

    scenes                      category; also the split `unlabelled`
    scenes:material|color|size|count   attributes of the subject, and how many things there are
    scenes:domains              category; splits colour, grey, sketch: a third of the test pictures each
    scenes:mask                 classes of `MASK_CLASSES` [H W], 255 where a pixel holds several
    scenes:instances            0 background, 1 the subject, 2... [H W]
    scenes:objects              `Objects`: all things with their categories, boxes and masks
    scenes:depth                metres along the camera's axis [H W], 0 unknown
    scenes:normals              unit vectors, x right, y down, z forward [H W 3], 0 unknown
    scenes:retrieval            `Groups`: rows of the split `gallery` that answer a query
    scenes:exhibits             instance, -1 for none of the hundred in the split `database`
    scenes:copies               `Groups`: the row of the original in the split `database`, by kind of edit
    scenes:actions              clips of eight frames, by what slides and to which side
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
from PIL import Image, ImageFilter, ImageOps

from ssleval.core import Dataset, DatasetCard, DatasetOptions, Split, datasets, digest
from ssleval.core.registry import suggestion
from ssleval.datasets.scenes import targets
from ssleval.datasets.scenes.categories import CATEGORIES
from ssleval.datasets.scenes.clips import ACTION_FRAMES, ACTIONS, action_rows
from ssleval.datasets.scenes.edits import EDITS
from ssleval.datasets.scenes.items import SPLITS
from ssleval.datasets.scenes.palette import COLORS, MATERIALS, SIZES
from ssleval.datasets.scenes.render import MASK_CLASSES
from ssleval.datasets.scenes.retrieval import exhibit_rows
from ssleval.datasets.scenes.store import VERSION, array, golden, open_split
from ssleval.errors import UnknownNameError

CARD = DatasetCard(
    name="scenes",
    license="Apache-2.0",
    source=f"{VERSION}, rendered by ssleval.datasets.scenes",
)


@dataclass(frozen=True, slots=True)
class _Kind:
    card: Mapping[str, Any]
    """Fields of the card that differ from those of `CARD`."""
    splits: Mapping[str, str] = field(default_factory=lambda: {"train": "train", "test": "test"})
    """Name of a split for tasks, to its name in `SPLITS`."""
    labels: Callable[[Path], np.ndarray] | None = None
    """All labels of a split."""
    dense: Callable[[Path, int], Any] | None = None
    """Target of one item."""
    views: int = 1
    """Stored pictures per item; the first is the image of the item."""
    parts: Mapping[str, Callable[[int], np.ndarray]] = field(default_factory=dict[str, Any])
    """For a split that is part of a stored one, the function from its length to the rows."""
    looks: Mapping[str, Callable[[Image.Image], Image.Image]] = field(default_factory=dict[str, Any])
    """For a split whose pictures look otherwise, the function that makes them so."""

    def length(self, name: str) -> int:
        """Return the number of items of a split."""
        length = SPLITS[self.splits[name]].length // self.views
        return len(self.parts[name](length)) if name in self.parts else length


def _attribute(column: int, names: tuple[str, ...]) -> _Kind:
    return _Kind({"class_names": names}, labels=lambda folder: array(folder, "attributes")[:, column])


def _third(place: int, length: int) -> np.ndarray:
    return np.arange(place, length, 3)


def _grey(picture: Image.Image) -> Image.Image:
    return picture.convert("L").convert("RGB")


def _sketch(picture: Image.Image) -> Image.Image:
    return ImageOps.invert(picture.convert("L").filter(ImageFilter.FIND_EDGES)).convert("RGB")


def _looking(load: Any, look: Callable[[Image.Image], Image.Image], index: int) -> Image.Image:
    return look(load(index))


_LOOKS = {"colour": Image.Image.copy, "grey": _grey, "sketch": _sketch}

_KINDS: Mapping[str, _Kind] = {
    "": _Kind(
        {"class_names": CATEGORIES},
        {name: name for name in ("train", "test", "unlabelled")},
        partial(array, name="label"),
    ),
    "material": _attribute(0, MATERIALS),
    "color": _attribute(1, tuple(COLORS)),
    "size": _attribute(2, tuple(SIZES)),
    "count": _attribute(3, ("1", "2", "3", "4")),
    "domains": _Kind(
        {"class_names": CATEGORIES, "test_split": "colour", "domains": tuple(_LOOKS)},
        dict.fromkeys(_LOOKS, "test"),
        partial(array, name="label"),
        parts={name: partial(_third, place) for place, name in enumerate(_LOOKS)},
        looks=_LOOKS,
    ),
    "mask": _Kind({"target": "mask", "class_names": MASK_CLASSES}, dense=partial(targets.stored, "mask")),
    "instances": _Kind({"target": "instances"}, dense=partial(targets.stored, "instances")),
    "objects": _Kind({"target": "objects", "class_names": CATEGORIES}, dense=targets.objects),
    "depth": _Kind({"target": "depth", "max_depth": 10.0}, dense=targets.depth),
    "normals": _Kind({"target": "normals"}, dense=targets.normals),
    "retrieval": _Kind(
        {"target": "groups", "test_split": "queries", "train_split": "gallery", "graded": True},
        {"queries": "retrieval_queries", "gallery": "retrieval_gallery"},
        dense=targets.sightings,
    ),
    "exhibits": _Kind(
        {"target": "open_set", "train_split": "database"},
        # The database has one picture of each instance; queries are other pictures, of these or of others.
        {
            "database": "retrieval_queries",
            "val": "retrieval_gallery",
            "test": "retrieval_gallery",
            "whitening": "train",
        },
        labels=partial(array, name="instance"),
        parts={name: partial(exhibit_rows, name) for name in ("val", "test")},
    ),
    "copies": _Kind(
        {"target": "groups", "class_names": tuple(EDITS), "test_split": "queries", "train_split": "database"},
        # Descriptors are whitened on pictures that are in no database.
        {"queries": "copies_queries", "database": "copies_database", "whitening": "train"},
        dense=targets.originals,
    ),
    "video": _Kind({"target": "video"}, {"test": "video"}, dense=partial(targets.stored, "instances")),
    "actions": _Kind(
        {"target": "clips", "class_names": ACTIONS},
        {"train": "actions", "test": "actions"},
        lambda folder: array(folder, "label")[::ACTION_FRAMES],
        views=ACTION_FRAMES,
        parts={name: partial(action_rows, name) for name in ("train", "test")},
    ),
    "pairs": _Kind({"target": "pairs"}, {"test": "pairs"}, dense=targets.key_points, views=2),
    "captions": _Kind({"target": "captions"}, {"test": "test"}, dense=targets.described),
}


@datasets.register("scenes")
def scenes(location: str, options: DatasetOptions) -> Dataset:
    """Open the rendered set; a copy in the data root takes precedence over the cache."""
    if location not in _KINDS:
        raise UnknownNameError(
            f"scenes: no target {location!r}; {suggestion(location, filter(None, _KINDS))}"
        )
    kind = _KINDS[location]
    root = options.data_root if (options.data_root / VERSION).is_dir() else options.cache
    card = replace(
        CARD,
        name=f"scenes:{location}" if location else "scenes",
        lengths={name: kind.length(name) for name in kind.splits},
        **kind.card,
    )
    return Dataset(card, lambda name: _open(root, name, location), pictures=VERSION)


def _open(root: Path, name: str, location: str) -> Split:
    kind = _KINDS[location]
    split = kind.splits[name]
    folder, length = open_split(root, split), SPLITS[split].length // kind.views
    labelled = name not in {"unlabelled", "whitening"}
    # Only queries have groups; the images of the gallery have no target.
    answered = kind.card.get("target") != "groups" or split.endswith("_queries")
    stored = Split(
        ids=targets.names(split, length),
        image=targets.Clip(folder)
        if split == "actions"
        else partial(targets.picture, folder, step=kind.views),
        targets=np.asarray(kind.labels(folder)) if kind.labels and labelled else None,
        fingerprint=digest([VERSION, split, golden()[split], location]),
        target=partial(kind.dense, folder) if kind.dense and answered else None,
        pictures=digest([VERSION, split, golden()[split]]),
    )
    part = stored.subset(kind.parts[name](length)) if name in kind.parts else stored
    if name not in kind.looks:
        return part
    hashes = {field: digest([getattr(part, field), name]) for field in ("fingerprint", "pictures")}
    return replace(part, image=partial(_looking, part.image, kind.looks[name]), **hashes)
