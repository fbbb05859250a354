"""AmsterTime: an old photograph and a street view of each of 1,231 places in Amsterdam.

Every image is a query for its partner among the images of the other kind; those of its own kind are junk.
The split ``images`` holds queries in both directions, ``old`` and ``new`` those in one (``--split old``).
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Int

from ssleval.core import DatasetCard, DatasetOptions, Split, digest
from ssleval.core.targets import Groups
from ssleval.datasets.files.images import class_files, file_split
from ssleval.datasets.published import Copy, published
from ssleval.errors import DataError

CARD = DatasetCard(
    name="amstertime",
    target="groups",
    lengths={"images": 2_462, "old": 1_231, "new": 1_231},
    train_split="images",
    test_split="images",
    license="not stated; research",
    source="Yildiz et al. 2022, arXiv:2203.16291, https://doi.org/10.4121/19580806 (size not stated): "
    "old/ and new/ in amstertime/",
)


def _partner(rows: Int[np.ndarray, " n"], places: int, index: int) -> Groups:
    # In the gallery, all old images come first, then the new ones in the same order of places.
    side, place = divmod(int(rows[index]), places)
    partner, same_side = (1 - side) * places + place, side * places + np.arange(places)
    return Groups(np.array([partner], np.int64), np.zeros(0, np.int64), same_side, group=side)


@published(CARD, "old/1.jpg", "new/1.jpg")
def read(root: Path, options: DatasetOptions) -> Copy:
    """Read the two folders; partners have one name, whatever its extension."""
    sides = {name: list(class_files(root, (name,))[0]) for name in ("old", "new")}
    old, new = ([Path(path).stem for path in paths] for paths in sides.values())
    if old != new:
        alone = sorted(set(old) ^ set(new)) or old
        raise DataError(f"{root}: {alone[0]} is not once in old/ and once in new/; fetch the set again")

    def open_split(split: str) -> Split:
        paths = [*sides["old"], *sides["new"]] if split == "images" else sides[split]
        rows = np.arange(len(paths)) + (len(old) if split == "new" else 0)
        files = file_split(root, paths, rows, full_hash=options.full_hash)
        mark = digest([files.fingerprint, len(old)])
        return replace(files, targets=None, fingerprint=mark, target=partial(_partner, rows, len(old)))

    return Copy((), open_split)
