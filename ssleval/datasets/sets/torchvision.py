"""torchvision:NAME, a classification set of torchvision.datasets, with the data root as its root.

Only the classes in `FORMS` can be opened, for each class spells its splits in its own way. The sets of the
usual transfer tables also have a plain name, each with a folder of its own.
"""

import hashlib
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, TypeAlias

import numpy as np
from PIL import Image

from ssleval.core import Dataset, DatasetCard, DatasetOptions, Split, datasets
from ssleval.core.registry import suggestion
from ssleval.datasets.files.images import file_split, fingerprint, is_stray
from ssleval.datasets.published import Copy, published
from ssleval.errors import DataError, UnknownNameError

Arguments: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Form:
    """How to call one class of torchvision.datasets."""

    splits: Mapping[str, Sequence[Arguments]]
    """For our name of a split, the arguments of its parts, in order."""
    labels: str = ""
    """Attribute with the labels of images held in memory; '' where images are files."""
    download: str = ""
    """Size of the download; '' if torchvision cannot fetch it."""
    license: str = "not stated"
    places: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """Where files and folders that torchvision expects in one place lie in copies that were unpacked by hand
    or come from a mirror, in order of preference; the first one that is there is read."""


def _named(*names: str) -> dict[str, list[Arguments]]:
    return {name: [{"split": name}] for name in names}


_FLAG: dict[str, list[Arguments]] = {"train": [{"train": True}], "test": [{"train": False}]}
_THREE = {**_named("train", "val", "test"), "trainval": [{"split": "train"}, {"split": "val"}]}


def _cars_places() -> dict[str, tuple[str, ...]]:
    # Mirrors nest cars_train/cars_train/, and the development kit in car_devkit/.
    tops, home = ("stanford_cars/", ""), "stanford_cars"
    nested = {name: (f"{name}/{name}", name) for name in ("cars_train", "cars_test")}
    nested |= {"devkit": ("devkit", "car_devkit/devkit", "devkit/devkit")}
    test = "cars_test_annos_withlabels.mat"
    nested |= {test: (test, f"devkit/{test}", f"car_devkit/devkit/{test}")}
    return {
        f"{home}/{name}": tuple(top + place for top in tops for place in places)
        for name, places in nested.items()
    }


FORMS: Mapping[str, Form] = {
    "CIFAR10": Form(_FLAG, "targets", "170 MB"),
    "CIFAR100": Form(_FLAG, "targets", "169 MB"),
    "Country211": Form(
        {"train": [{"split": "train"}], "val": [{"split": "valid"}], "test": [{"split": "test"}]},
        download="11 GB",
        license="Creative Commons, per image (YFCC100M)",
    ),
    "DTD": Form(
        _THREE,
        download="625 MB",
        license="research only",
        places={"dtd/dtd/labels": ("dtd/labels", "labels"), "dtd/dtd/images": ("dtd/images", "images")},
    ),
    "FashionMNIST": Form(_FLAG, "targets", "31 MB", "MIT"),
    "FGVCAircraft": Form(
        _named("train", "val", "trainval", "test"),
        download="2.8 GB",
        license="non-commercial research",
        places={"fgvc-aircraft-2013b/data": ("data",)},
    ),
    "Flowers102": Form(
        _THREE,
        download="345 MB",
        places={f"flowers-102/{name}": (name,) for name in ("jpg", "imagelabels.mat", "setid.mat")},
    ),
    "Food101": Form(
        _named("train", "test"),
        download="5.0 GB",
        license="images of Foodspotting, fair use",
        places={f"food-101/{name}": (name,) for name in ("meta", "images")},
    ),
    "Imagenette": Form(
        _named("train", "val"), download="1.6 GB", license="ImageNet's, non-commercial research"
    ),
    "KMNIST": Form(_FLAG, "targets", "21 MB", "CC-BY-SA-4.0"),
    "MNIST": Form(_FLAG, "targets", "12 MB", "CC-BY-SA-3.0"),
    "STL10": Form(_named("train", "test"), "labels", "2.6 GB", "ImageNet's, non-commercial research"),
    "StanfordCars": Form(
        _named("train", "test"), license="ImageNet's, non-commercial research", places=_cars_places()
    ),
    "SVHN": Form(_named("train", "test"), "labels", "246 MB", "non-commercial"),
}


@datasets.register("torchvision")
def torchvision(location: str, options: DatasetOptions) -> Dataset:
    """Open a class of torchvision.datasets by name."""
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
    moved = _moved(root, form)

    @cache
    def parts(split: str) -> list[Any]:
        with _as_expected(root, moved) as home:
            return [
                _construct(kind, name, (root, home), options, arguments) for arguments in form.splits[split]
            ]

    @cache
    def open_split(split: str) -> Split:
        if form.labels:
            return _from_memory(parts(split)[0], form.labels)
        return _from_files(root, parts(split), moved, full_hash=options.full_hash)

    return Copy(_class_names(parts(next(iter(form.splits)))[0], form), open_split)


def _moved(root: Path, form: Form) -> dict[str, str]:
    """Return where everything lies that torchvision expects elsewhere; nothing where all is in its place."""
    there: dict[str, str] = {}
    for expected, elsewhere in form.places.items():
        nested = [place for place in elsewhere if place.startswith(f"{expected}/")]
        places = [*nested, expected, *elsewhere]
        there[expected] = next((place for place in places if (root / place).exists()), expected)
    return there if any(place != expected for expected, place in there.items()) else {}


@contextmanager
def _as_expected(root: Path, moved: Mapping[str, str]) -> Generator[Path]:
    """Give torchvision a folder of links in its layout; it reads lists when constructed, and no image."""
    if not moved:
        yield root
        return
    with TemporaryDirectory() as name:
        for expected, place in moved.items():
            link = Path(name) / expected
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to((root / place).resolve())
        yield Path(name)


def _construct(
    kind: str, name: str, places: tuple[Path, Path], options: DatasetOptions, arguments: Arguments
) -> Any:
    """Call torchvision's class; ``places`` are the copy, which messages name, and where the class looks."""
    import torchvision.datasets as library
    from scipy.io.matlab import MatReadError

    (root, home), form = places, FORMS[kind]
    # The loader returns the path in place of the image: labels are read without decoding anything.
    loader = {} if form.labels else {"loader": str}
    download = {"download": True} if options.download and form.download else {}
    try:
        with redirect_stdout(sys.stderr):
            return getattr(library, kind)(str(home), **arguments, **loader, **download)
    except (RuntimeError, OSError, ValueError, LookupError, TypeError, MatReadError) as error:
        reason = str(error).replace(str(home), str(root))
        get = f"--download fetches it ({form.download})" if form.download else "it must be fetched by hand"
        raise DataError(
            f"{name}: not whole in {root} ({reason}); {get}; licence: {form.license}; "
            f"see torchvision.datasets.{kind}"
        ) from error


def _class_names(data: Any, form: Form) -> tuple[str, ...]:
    names = getattr(data, "classes", None)
    if names is None:
        return tuple(str(label) for label in range(int(np.max(np.asarray(getattr(data, form.labels)))) + 1))
    # Imagenette gives tuples of synonyms.
    return tuple(name if isinstance(name, str) else ", ".join(name) for name in names)


def _decoded(data: Any, index: int) -> Image.Image:
    return data[index][0].convert("RGB")


def _from_memory(data: Any, labels: str) -> Split:
    targets = np.asarray(getattr(data, labels)).astype(np.int64)
    pixels = np.asarray(data.data)
    content = hashlib.sha256(pixels.tobytes()).hexdigest()
    mark = fingerprint([[content, list(pixels.shape)], targets.tolist()])
    return Split([f"{index:06d}" for index in range(len(targets))], partial(_decoded, data), targets, mark)


def _from_files(root: Path, parts: Sequence[Any], moved: Mapping[str, str], *, full_hash: bool) -> Split:
    items = [(part[index], Path(part.root)) for part in parts for index in range(len(part))]
    items = [(*item, home) for item, home in items if not is_stray(Path(item[0]).name)]
    paths = [_place(Path(path).relative_to(home).as_posix(), moved) for path, _, home in items]
    items = [(path, label) for path, label, _ in items]
    return file_split(root, paths, np.array([int(label) for _, label in items]), full_hash=full_hash)


def _place(path: str, moved: Mapping[str, str]) -> str:
    for expected, place in moved.items():
        if path.startswith(f"{expected}/"):
            return place + path.removeprefix(expected)
    return path


def _publish(
    kind: str,
    name: str,
    classes: int,
    lengths: Mapping[str, int],
    source: str,
    *tree: str,
    metric: Literal["top1", "mean_per_class"] = "top1",
) -> None:
    """Register a set with a plain name, whose folder has the layout that torchvision expects.

    ``tree`` is as torchvision leaves it behind; `Form.places` says where else files are found.
    """
    form, train = FORMS[kind], "trainval" if "trainval" in lengths else "train"
    card = DatasetCard(
        name, classes=classes, lengths=lengths, train_split=train, metric=metric, license=form.license,
        source=f"{source} ({form.download or '2 GB'})",
    )  # fmt: skip
    published(card, *tree, downloads=bool(form.download))(partial(_read, kind, name))


_CIFAR = {"train": 50_000, "test": 10_000}
_CIFAR_PAGE = "Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html"
_OXFORD = "https://www.robots.ox.ac.uk/~vgg/data/"

_publish(
    "CIFAR10", "cifar10", 10, _CIFAR, _CIFAR_PAGE,
    "cifar-10-batches-py/data_batch_1",
    "cifar-10-batches-py/test_batch",
)  # fmt: skip
_publish(
    "CIFAR100", "cifar100", 100, _CIFAR, _CIFAR_PAGE,
    "cifar-100-python/train",
    "cifar-100-python/test",
    "cifar-100-python/meta",
)  # fmt: skip
_publish(
    "DTD", "dtd", 47, {"train": 1_880, "val": 1_880, "test": 1_880, "trainval": 3_760},
    f"Cimpoi et al. 2014, partition 1, {_OXFORD}dtd/",
    "dtd/images/banded/banded_0002.jpg",
    "dtd/labels/train1.txt (or below dtd/dtd/)",
)  # fmt: skip
_publish(
    "FGVCAircraft", "aircraft", 100, {"train": 3_334, "val": 3_333, "trainval": 6_667, "test": 3_333},
    f"Maji et al. 2013, variants, {_OXFORD}fgvc-aircraft/",
    "fgvc-aircraft-2013b/data/images/0034309.jpg",
    "fgvc-aircraft-2013b/data/variants.txt",
    "fgvc-aircraft-2013b/data/images_variant_trainval.txt",
    metric="mean_per_class",
)  # fmt: skip
_publish(
    "Flowers102", "flowers102", 102, {"train": 1_020, "val": 1_020, "test": 6_149, "trainval": 2_040},
    f"Nilsback and Zisserman 2008, {_OXFORD}flowers/102/",
    "flowers-102/jpg/image_00001.jpg",
    "flowers-102/imagelabels.mat",
    "flowers-102/setid.mat (or all three in the folder itself)",
    metric="mean_per_class",
)  # fmt: skip
_publish(
    "Food101", "food101", 101, {"train": 75_750, "test": 25_250},
    "Bossard et al. 2014, https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
    "food-101/images/apple_pie/1005649.jpg",
    "food-101/meta/train.json",
    "food-101/meta/test.json",
)  # fmt: skip
_publish(
    "StanfordCars", "cars", 196, {"train": 8_144, "test": 8_041},
    "Krause et al. 2013; the first host is gone: stanford_cars/ of a mirror, see "
    "https://github.com/pytorch/vision/issues/7545",
    "stanford_cars/cars_train/00001.jpg",
    "stanford_cars/cars_test/00001.jpg",
    "stanford_cars/devkit/cars_train_annos.mat",
    "stanford_cars/devkit/cars_meta.mat",
    "stanford_cars/cars_test_annos_withlabels.mat",
)  # fmt: skip
