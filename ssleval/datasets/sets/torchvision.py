"""torchvision:NAME, a classification set of torchvision.datasets, with the data root as its root.

Only classes that take a known split are opened: `FORMS` says how each spells its splits. The sets
of the usual transfer tables are here by plain name as well, each under its own folder.
"""

import hashlib
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from ssleval.core import Dataset, DatasetCard, DatasetOptions, Split, datasets
from ssleval.core.registry import suggestion
from ssleval.datasets.files.images import file_split, fingerprint
from ssleval.datasets.published import Copy, Published
from ssleval.errors import DataError, UnknownNameError

Arguments: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Form:
    """How one class of torchvision.datasets is to be called."""

    splits: Mapping[str, Sequence[Arguments]]
    """Our name of a split: the arguments that give its parts, in order."""
    labels: str = ""
    """Attribute with the labels, where images are held in memory; '' where they are files."""
    download: str = ""
    """Size of the download; '' where torchvision cannot fetch it."""
    license: str = "not stated"


def _named(*names: str) -> dict[str, list[Arguments]]:
    return {name: [{"split": name}] for name in names}


_FLAG: dict[str, list[Arguments]] = {"train": [{"train": True}], "test": [{"train": False}]}
_THREE = {**_named("train", "val", "test"), "trainval": [{"split": "train"}, {"split": "val"}]}

FORMS: Mapping[str, Form] = {
    "CIFAR10": Form(_FLAG, "targets", "170 MB"),
    "CIFAR100": Form(_FLAG, "targets", "169 MB"),
    "Country211": Form(
        {"train": [{"split": "train"}], "val": [{"split": "valid"}], "test": [{"split": "test"}]},
        download="11 GB",
        license="Creative Commons, per image (YFCC100M)",
    ),
    "DTD": Form(_THREE, download="625 MB", license="research only"),
    "FashionMNIST": Form(_FLAG, "targets", "31 MB", "MIT"),
    "FGVCAircraft": Form(
        _named("train", "val", "trainval", "test"), download="2.8 GB", license="non-commercial research"
    ),
    "Flowers102": Form(_THREE, download="345 MB"),
    "Food101": Form(_named("train", "test"), download="5.0 GB", license="images of Foodspotting, fair use"),
    "Imagenette": Form(
        _named("train", "val"), download="1.6 GB", license="ImageNet's, non-commercial research"
    ),
    "KMNIST": Form(_FLAG, "targets", "21 MB", "CC-BY-SA-4.0"),
    "MNIST": Form(_FLAG, "targets", "12 MB", "CC-BY-SA-3.0"),
    "STL10": Form(_named("train", "test"), "labels", "2.6 GB", "ImageNet's, non-commercial research"),
    "StanfordCars": Form(_named("train", "test"), license="ImageNet's, non-commercial research"),
    "SVHN": Form(_named("train", "test"), "labels", "246 MB", "non-commercial"),
}


@dataclass(frozen=True, slots=True)
class _Decoded:
    """Images held in memory by the library's object; survives pickling."""

    data: Any

    def __call__(self, index: int) -> Image.Image:
        return self.data[index][0].convert("RGB")


@datasets.register("torchvision")
def torchvision(location: str, options: DatasetOptions) -> Dataset:
    """Open a class of torchvision.datasets by name.

    Raises:
        UnknownNameError: no such class, or none whose splits we know.
        DataError: the files are absent, and may not or cannot be fetched.
    """
    if location not in FORMS:
        raise UnknownNameError(
            f"torchvision:{location}: no class of known splits has that name; {suggestion(location, FORMS)}"
        )
    form = FORMS[location]
    copy = _read(location, f"torchvision:{location}", options.data_root, options)
    card = DatasetCard(
        name=f"torchvision:{location}",
        class_names=copy.class_names,
        lengths={split: len(copy.open(split)) for split in form.splits},
        train_split="trainval" if "trainval" in form.splits else "train",
        test_split="test" if "test" in form.splits else "val",
        license=form.license,
        source=f"torchvision.datasets.{location}",
    )
    return Dataset(card, copy.open)


def _read(kind: str, name: str, root: Path, options: DatasetOptions) -> Copy:
    root = root.expanduser()
    form = FORMS[kind]

    @cache
    def parts(split: str) -> list[Any]:
        return [_construct(kind, name, root, options, arguments) for arguments in form.splits[split]]

    @cache
    def open_split(split: str) -> Split:
        if form.labels:
            return _from_memory(parts(split)[0], form.labels)
        return _from_files(root, parts(split), full_hash=options.full_hash)

    return Copy(_class_names(parts(next(iter(form.splits)))[0], form), open_split)


def _construct(kind: str, name: str, root: Path, options: DatasetOptions, arguments: Arguments) -> Any:
    import torchvision.datasets as library

    form = FORMS[kind]
    chosen = dict(arguments)
    if options.download and form.download:
        chosen["download"] = True
    if not form.labels:
        # The path itself instead of the image: labels are read without decoding anything.
        chosen["loader"] = str
    try:
        with redirect_stdout(sys.stderr):
            return getattr(library, kind)(str(root), **chosen)
    except (RuntimeError, OSError) as error:
        get = f"--download fetches it ({form.download})" if form.download else "it must be fetched by hand"
        raise DataError(
            f"{name}: not whole in {root} ({error}); {get}; licence: {form.license}; "
            f"see torchvision.datasets.{kind}"
        ) from error


def _class_names(data: Any, form: Form) -> tuple[str, ...]:
    names = getattr(data, "classes", None)
    if names is None:
        return tuple(str(label) for label in range(int(np.max(np.asarray(getattr(data, form.labels)))) + 1))
    # Imagenette gives tuples of synonyms.
    return tuple(name if isinstance(name, str) else ", ".join(name) for name in names)


def _from_memory(data: Any, labels: str) -> Split:
    targets = np.asarray(getattr(data, labels)).astype(np.int64)
    pixels = np.asarray(data.data)
    content = hashlib.sha256(pixels.tobytes()).hexdigest()
    return Split(
        ids=[f"{index:06d}" for index in range(len(targets))],
        image=_Decoded(data),
        targets=targets,
        fingerprint=fingerprint([[content, list(pixels.shape)], targets.tolist()]),
    )


def _from_files(root: Path, parts: Sequence[Any], *, full_hash: bool) -> Split:
    items = [part[index] for part in parts for index in range(len(part))]
    paths = [Path(path).relative_to(root).as_posix() for path, _ in items]
    return file_split(root, paths, np.array([int(label) for _, label in items]), full_hash=full_hash)


PUBLISHED: Mapping[str, DatasetCard] = {
    "CIFAR10": DatasetCard(
        "cifar10",
        classes=10,
        lengths={"train": 50_000, "test": 10_000},
        source="Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html",
    ),
    "CIFAR100": DatasetCard(
        "cifar100",
        classes=100,
        lengths={"train": 50_000, "test": 10_000},
        source="Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html",
    ),
    "DTD": DatasetCard(
        "dtd",
        classes=47,
        lengths={"train": 1_880, "val": 1_880, "test": 1_880, "trainval": 3_760},
        train_split="trainval",
        source="Cimpoi et al. 2014, partition 1, https://www.robots.ox.ac.uk/~vgg/data/dtd/",
    ),
    "FGVCAircraft": DatasetCard(
        "aircraft",
        classes=100,
        lengths={"train": 3_334, "val": 3_333, "trainval": 6_667, "test": 3_333},
        train_split="trainval",
        metric="mean_per_class",
        source="Maji et al. 2013, variants, https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
    ),
    "Flowers102": DatasetCard(
        "flowers102",
        classes=102,
        lengths={"train": 1_020, "val": 1_020, "test": 6_149, "trainval": 2_040},
        train_split="trainval",
        metric="mean_per_class",
        source="Nilsback and Zisserman 2008, https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
    ),
    "Food101": DatasetCard(
        "food101",
        classes=101,
        lengths={"train": 75_750, "test": 25_250},
        source="Bossard et al. 2014, https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
    ),
    "StanfordCars": DatasetCard(
        "cars",
        classes=196,
        lengths={"train": 8_144, "test": 8_041},
        source="Krause et al. 2013; the first host is gone: put stanford_cars/ of a mirror there, laid out "
        "as torchvision.datasets.StanfordCars says",
    ),
}
"""Cards of the sets with a plain name, whose folder holds what torchvision would put there."""

for _kind, _card in PUBLISHED.items():
    datasets.register(_card.name)(
        Published(
            replace(_card, license=FORMS[_kind].license),
            partial(_read, _kind, _card.name),
            downloads=bool(FORMS[_kind].download),
        )
    )
