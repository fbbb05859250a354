"""ObjectNet, ImageNet-9 and Dollar Street: relatives of ImageNet-1k, each of whose classes is several of its.

Which ones is read from files that are published with the images. Every class they name is looked up among the
1,000 of ImageNet, in the order of WordNet ids. Nothing is fitted on these sets.

Source:
    Barbu et al. 2019 (ObjectNet); Xiao et al. 2021, arXiv:2006.09994 (ImageNet-9); Gaviria Rojas et al. 2022
    (Dollar Street).
"""

import json
import math
import re
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ssleval.core import DatasetCard, DatasetOptions, Split, digest
from ssleval.core.text import some
from ssleval.datasets.files.images import class_folders, file_split
from ssleval.datasets.files.listing import list_classes
from ssleval.datasets.files.tables import read_texts
from ssleval.datasets.prompts import imagenet_names
from ssleval.datasets.published import Copy, first_folder, published, read_json, read_lines
from ssleval.errors import DataError

_LARGEST = 2**26
"""Bytes of a table that is read."""


# ObjectNet ----------------------------------------------------------------------------------------


# Size: tasklist.yml of github.com/mlfoundations/datacomp.
OBJECTNET = DatasetCard(
    name="objectnet",
    classes=113,
    lengths={"test": 18_574},
    license="CC BY 4.0, with two clauses: nothing is tuned on it, the web shows it with its border",
    source="Barbu et al. 2019, https://objectnet.dev (size not stated): objectnet-1.0/ in objectnet/",
)


@published(
    OBJECTNET,
    "objectnet-1.0/images/alarm_clock/NAME.png",
    "objectnet-1.0/mappings/ with folder_to_objectnet_label.json, objectnet_to_imagenet_1k.json, "
    "pytorch_to_imagenet_2012_id.json and imagenet_to_label_2012_v2",
    fitted_on="imagenet1k",
)
def _objectnet(root: Path, options: DatasetOptions) -> Copy:
    """Read the folders whose labels have counterparts in ImageNet, without the border of their images."""
    base = first_folder(root, (".", "objectnet-1.0"), "images", "mappings")
    place = base / "mappings"
    label_of, named = _table(place, "folder_to_objectnet_label"), _table(place, "objectnet_to_imagenet_1k")
    if strange := sorted(set(named) - set(label_of.values())):
        raise DataError(f"{place}: no folder is labelled {some(strange)}")
    folders = sorted(folder for folder, label in label_of.items() if label in named)
    if strange := [folder for folder in folders if "/" in folder or not _is_plain(folder)]:
        raise DataError(f"{place}: {some(strange)} is no name of a folder; fetch its files again")
    outputs = _apart(place, _wnids(place, [named[label_of[folder]].split("; ") for folder in folders]))

    def open_split(split: str) -> Split:  # noqa: ARG001
        whole = list_classes(base / "images", folders, options).split()
        mark = digest([whole.fingerprint, outputs, _BORDER])
        return replace(whole, image=_Inside(whole.image), fingerprint=mark)

    return Copy(tuple(label_of[folder].lower() for folder in folders), open_split, outputs=outputs)


def _wnids(place: Path, groups: list[list[str]]) -> list[list[str]]:
    """Return the WordNet ids of the labels that ObjectNet's files give classes of ImageNet."""
    every, known = read_lines(_bounded(place / "imagenet_to_label_2012_v2")), imagenet_names()
    number_of, numbers = _table(place, "pytorch_to_imagenet_2012_id"), list(range(len(known)))
    output_of = {number: int(output) for output, number in number_of.items()}
    if not sorted(output_of) == sorted(output_of.values()) == list(range(len(every))) == numbers:
        raise DataError(f"{place}: its files do not number {len(known):,} classes from 0")
    used, times = list(chain(*groups)), Counter(every)
    if unknown := [label for label in used if times[label] != 1]:
        raise DataError(f"{place}: {some(unknown)}: none of ImageNet's classes, or several")
    wnid_of = {label: list(known)[output_of[number]] for number, label in enumerate(every)}
    # A few labels share no word with the name of their class; in another order hardly any does.
    if sum(bool(_words(label) & _words(known[wnid_of[label]])) for label in used) < len(used) / 2:
        raise DataError(f"{place}: its numbers are not those of {some(used)}; fetch its files again")
    return [[wnid_of[label] for label in group] for group in groups]


def _words(text: str) -> set[str]:
    return set(re.findall(r"[^\W\d_]+", text.lower()))


_BORDER = 2
"""Pixels: its terms speak of a red border of one, published code cuts two."""


@dataclass(frozen=True, slots=True)
class _Inside:
    """Decodes image i and cuts its border; can be pickled. Of these images there are no files as they are."""

    load: Callable[[int], Image.Image]

    def __call__(self, index: int) -> Image.Image:
        image = self.load(index)
        if min(image.size) <= 2 * _BORDER:
            raise DataError(f"objectnet: image {index} is nothing but border; fetch it again")
        return image.crop((_BORDER, _BORDER, image.width - _BORDER, image.height - _BORDER))


# ImageNet-9 ---------------------------------------------------------------------------------------

_MEMBERS = (116, 52, 42, 36, 35, 27, 26, 20, 16)
"""Classes of ImageNet in each of its own (Xiao et al. 2021, appendix)."""


_VARIATIONS = (
    "original", "mixed_same", "mixed_rand", "mixed_next", "only_fg", "no_fg", "only_bg_b", "only_bg_t"
)  # fmt: skip
# Sizes: 450 images of each of nine classes in each variation, in the release of its authors.
IMAGENET9 = DatasetCard(
    name="imagenet9",
    classes=9,
    lengths=dict.fromkeys(_VARIATIONS, 4_050),
    test_split="original",
    license="none stated; images of ImageNet",
    source="Xiao et al. 2021, https://github.com/MadryLab/backgrounds_challenge (280 MB): "
    "bg_challenge/ of its release and in_to_in9.json of the repository in imagenet9/",
)


@published(IMAGENET9, "in_to_in9.json", "bg_challenge/original/val/00_dog/NAME.JPEG", fitted_on="imagenet1k")
def _imagenet9(root: Path, options: DatasetOptions) -> Copy:
    """Read the variations; a class is the number before the name of its folder."""
    base = first_folder(root, (".", "bg_challenge"), "original")
    names = class_folders(base / "original/val")
    if [name[:3] for name in names] != [f"{label:02d}_" for label in range(len(names))]:
        raise DataError(f"{base}/original/val: folders {some(names)}; expected 00_dog to 08_fish")
    label_of, wnids = _table(root, "in_to_in9"), list(imagenet_names())
    labels = [label_of[str(number)] for number in range(len(wnids))]
    members = [[wnid for wnid, own in zip(wnids, labels, strict=True) if own == one] for one in range(9)]
    if tuple(map(len, members)) != _MEMBERS or len(label_of) != len(wnids):
        raise DataError(f"{root}/in_to_in9.json: other numbers of classes than published; fetch it again")

    def open_split(split: str) -> Split:
        folder = base / split / "val"
        if class_folders(folder) != names:
            raise DataError(f"{folder}: other class folders than those of original")
        whole = list_classes(folder, names, options).split()
        # Files of one name are other images in each variation, if by chance of one size.
        return replace(whole, fingerprint=digest([whole.fingerprint, members, split]))

    return Copy(tuple(name[3:] for name in names), open_split, outputs=_apart(root, members))


# Dollar Street ------------------------------------------------------------------------------------

_REGIONS = {"af": "africa", "am": "americas", "as": "asia", "eu": "europe"}
_INCOMES = ("low_income", "medium_income", "high_income")
_LIMITS = (math.exp(4.5), math.exp(7.5))
"""Dollars a month, 90 and 1,808, that part them: where a third of the logarithm rounds to 1, 2 and 3.

Source:
    projects/fairness_indicators/geographical_diversity of github.com/facebookresearch/vissl.
"""


# Size: rows of images_v2_imagenet_test.csv.
DOLLAR_STREET = DatasetCard(
    name="dollar_street",
    target="multilabel",
    classes=1000,
    lengths={"test": 4_308},
    license="Creative Commons, as its page says",
    source="Gaviria Rojas et al. 2022, https://www.kaggle.com/datasets/mlcommons/"
    "the-dollar-street-dataset (size not stated): dataset_dollarstreet/ in dollar_street/",
)


@published(
    DOLLAR_STREET,
    "dataset_dollarstreet/images_v2_imagenet_test.csv",
    "dataset_dollarstreet/assets/ID/ID.jpg",
    fitted_on="imagenet1k",
)
def _dollar_street(root: Path, options: DatasetOptions) -> Copy:
    """Read the images that show classes of ImageNet; an id begins with region and income."""
    listed = "images_v2_imagenet_test.csv"
    base, wnids = first_folder(root, (".", "dataset_dollarstreet"), listed, "assets"), tuple(imagenet_names())

    def open_split(split: str) -> Split:  # noqa: ARG001
        columns = ("imageRelPath", "region.id", "income", "imagenet_sysnet_id")
        rows = list(read_texts(_bounded(base / listed), "dollar_street", columns))
        targets, ids = np.zeros((len(rows), len(wnids)), dtype=bool), list[str]()
        for where, (path, region, income, numbers) in rows:
            targets[len(ids), _numbers(where, numbers, len(wnids))] = True
            ids.append(f"{_household(where, region, income)}/{path}")
        paths = [path for _, (path, *_) in rows]
        if strange := [path for path in paths if not _is_plain(path)]:
            raise DataError(f"{base / listed}: {some(strange)} is no plain path below it; fetch it again")
        if twice := _repeated(paths):
            raise DataError(f"{base / listed}: {some(twice)} is listed twice")
        whole = file_split(base, paths, targets, full_hash=options.full_hash)
        return replace(whole, ids=ids, fingerprint=digest([whole.fingerprint, ids]))

    return Copy(wnids, open_split)


def _numbers(where: str, text: str, classes: int) -> list[int]:
    """Return the numbers of ImageNet's classes in a list such as ``[861, 999]``."""
    try:
        numbers: Any = json.loads(text)
    except (ValueError, RecursionError):
        numbers = None
    known = isinstance(numbers, list) and all(type(one) is int and 0 <= one < classes for one in numbers)
    if not known or not numbers:
        raise DataError(f"{where}: imagenet_sysnet_id {text[:80]!r}; expected numbers below {classes:,}")
    return numbers


def _household(where: str, region: str, income: str) -> str:
    """Return region and income of a household, as ``africa/low_income``."""
    if region not in _REGIONS:
        raise DataError(f"{where}: region.id {region[:80]!r}; expected one of {', '.join(_REGIONS)}")
    dollars = float(income) if re.fullmatch(r"\d{1,9}(\.\d*)?", income) else 0.0
    if not dollars:
        raise DataError(f"{where}: income {income[:80]!r}; expected dollars a month")
    return f"{_REGIONS[region]}/{_INCOMES[bisect(_LIMITS, dollars)]}"


# Tables -------------------------------------------------------------------------------------------


def _table(folder: Path, name: str) -> dict[str, Any]:
    content = read_json(_bounded(folder / f"{name}.json"))
    if not isinstance(content, dict):
        raise DataError(f"{folder}/{name}.json: expected a table of names; fetch it again")
    return content


def _is_plain(path: str) -> bool:
    """Return whether a path leads to one place below a folder, and is its only spelling."""
    return "\\" not in path and {"", ".", ".."}.isdisjoint(path.split("/"))


def _bounded(path: Path) -> Path:
    """Return the path of a table; DataError where it is too large to be one."""
    if path.is_file() and path.stat().st_size > _LARGEST:
        raise DataError(f"{path}: {path.stat().st_size:,} bytes, at most {_LARGEST:,} are read")
    return path


def _apart(place: Path, groups: list[list[str]]) -> tuple[tuple[str, ...], ...]:
    """Return the ids that stand for each class; DataError where one stands for two."""
    if twice := _repeated(chain(*groups)):
        raise DataError(f"{place}: {some(twice)} stands for two classes")
    return tuple(map(tuple, groups))


def _repeated(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]
