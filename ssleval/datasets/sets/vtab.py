"""vtab:PATH, a set of VTAB-1k in the layout of NOAH: train800val200.txt and test.txt, lines of PATH LABEL.

PATH is the folder of a set, such as vtab-1k/cifar. One of the 19 names alone, such as vtab:cifar, is the
folder of that name in vtab-1k/ below the data root, with the published number of images and classes. Heads
are fitted on train800val200; train800.txt and val200.txt, where they are there, must be its two parts.
"""

from pathlib import Path

import numpy as np

from ssleval.core import Dataset, DatasetCard, DatasetOptions, Split, datasets
from ssleval.datasets.files.images import file_split
from ssleval.datasets.files.places import leads_out, places
from ssleval.datasets.published import read_lines
from ssleval.errors import ConfigError, DataError

_FOLDER = "vtab-1k"
PUBLISHED = {
    "caltech101": (6_084, 102), "cifar": (10_000, 100), "dtd": (1_880, 47), "oxford_flowers102": (6_149, 102),
    "oxford_iiit_pet": (3_669, 37), "svhn": (26_032, 10), "sun397": (21_750, 397),
    "patch_camelyon": (32_768, 2), "eurosat": (5_400, 10), "resisc45": (6_300, 45),
    "diabetic_retinopathy": (42_670, 5), "clevr_count": (15_000, 8), "clevr_dist": (15_000, 6),
    "dmlab": (22_735, 6), "kitti": (711, 4), "dsprites_loc": (73_728, 16), "dsprites_ori": (73_728, 16),
    "smallnorb_azi": (12_150, 18), "smallnorb_ele": (12_150, 9),
}  # fmt: skip
"""Test images and classes of every set; all have 1,000 training images.

Source: Zhai et al. 2019, arXiv:1910.04867; Jia et al. 2022, arXiv:2203.12119, app. A.
"""
_SOURCE = "Zhai et al. 2019, arXiv:1910.04867, in the layout of https://github.com/ZhangYuanhan-AI/NOAH"


@datasets.register("vtab")
def vtab(location: str, options: DatasetOptions) -> Dataset:
    """Open one set of VTAB-1k."""
    if not location:
        raise ConfigError("vtab: needs a set; write vtab:cifar or vtab:PATH, the folder of one")
    known = PUBLISHED.get(location)
    root = (
        Path(location).expanduser() if known is None else options.data_root.expanduser() / _FOLDER / location
    )
    _refuse_no_set(location, root)
    rows = {"train": _rows(root / "train800val200.txt"), "test": _rows(root / "test.txt")}
    _refuse_other_parts(root, rows["train"])
    _refuse_shared(root, rows)
    labels = {label for listed in rows.values() for label in listed.values()}
    classes = max(labels) + 1
    if len(labels) < classes:
        missing = min(set(range(classes)) - labels)
        raise DataError(f"vtab:{location}: labels up to {classes - 1}, and none is {missing}")
    if known is not None and (len(rows["train"]), len(rows["test"]), classes) != (1_000, *known):
        found, expected = (
            f"{train:,} and {test:,} images of {count} classes"
            for train, test, count in ((len(rows["train"]), len(rows["test"]), classes), (1_000, *known))
        )
        raise DataError(f"vtab:{location}: {found}, expected {expected}; {_SOURCE}")

    def open_split(split: str) -> Split:
        listed = rows[split]
        targets = np.array([*listed.values()], np.int64)
        return file_split(root, [*listed], targets, full_hash=options.full_hash)

    lengths = {split: len(listed) for split, listed in rows.items()}
    return Dataset(
        DatasetCard(f"vtab:{location}", classes=classes, lengths=lengths, source=_SOURCE), open_split
    )


def _refuse_no_set(location: str, root: Path) -> None:
    if (root / "test.txt").is_file():
        return
    inside = [name for name in PUBLISHED if (root / name / "test.txt").is_file()]
    if inside:
        raise DataError(
            f"vtab:{location}: {len(inside)} sets; name one, as vtab:{root / inside[0]}, or measure all 19 "
            f"by --suite vtab_1k with {_FOLDER}/ in --data-root"
        )
    raise DataError(f"vtab:{location}: no {root / 'test.txt'}; {_SOURCE}")


def _rows(listed: Path) -> dict[str, int]:
    rows: dict[str, int] = {}
    place_of, seen = places(listed.parent), set[str]()
    for number, line in enumerate(read_lines(listed), 1):
        path, label = (part.strip() for part in line.rpartition(" ")[::2])
        where = f"{listed}: line {number}"
        if not (path and label.isascii() and label.isdecimal() and len(label) < 5):
            raise DataError(f"{where}: {line[:80]!r}; expected PATH LABEL, a label from 0 to 9999")
        if leads_out(path):
            raise DataError(f"{where}: {path} leads out of the folder of the set")
        if (place := place_of(path)) in seen:
            raise DataError(f"{where}: {path} is listed twice")
        seen.add(place)
        rows[path] = int(label)
    if not rows:
        raise DataError(f"{listed}: no image is listed")
    return rows


def _refuse_other_parts(root: Path, whole: dict[str, int]) -> None:
    parts = [root / "train800.txt", root / "val200.txt"]
    if not all(part.is_file() for part in parts):
        return
    first, second = map(_rows, parts)
    if first.keys() & second.keys() or first | second != whole:
        raise DataError(f"vtab:{root}: train800.txt and val200.txt are not the parts of train800val200.txt")


def _refuse_shared(root: Path, rows: dict[str, dict[str, int]]) -> None:
    place_of = places(root)
    trained = set(map(place_of, rows["train"]))
    if shared := [path for path in rows["test"] if place_of(path) in trained]:
        raise DataError(f"vtab:{root}: {shared[0]} is in train800val200.txt and in test.txt")
