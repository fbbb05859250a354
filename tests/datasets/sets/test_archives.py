"""Every published set is read from a miniature of its official archive, also after macOS and Windows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision.datasets as library

from ssleval.core import Dataset, DatasetCard
from ssleval.core.targets import Groups, KeyPoints, Objects
from ssleval.datasets.catalog import list_datasets
from tests.datasets.sets.archives import ARCHIVES, Archive, Expected

OpenReduced = Callable[..., Dataset]
LISTS = (".txt", ".csv", ".json")
THEIRS = {"aircraft", "cars", "cifar10", "cifar100", "dtd", "flowers102", "food101", "dollar_street"}
"""Sets whose lists torchvision reads, in plain UTF-8 alone, or whose table has no blanks behind a value."""


def after_macos(root: Path, name: str) -> None:
    """Leave behind what Finder and its archiver write into every folder."""
    del name
    for path in [*root.rglob("*")]:
        (path.parent / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
        (path.parent / f"._{path.name}").write_bytes(b"\0\5\26\7 AppleDouble")
    (root / "__MACOSX").mkdir()
    (root / "__MACOSX" / "._a.jpg").write_bytes(b"\0\5\26\7")


def after_windows(root: Path, name: str) -> None:
    """Save every list with a mark, blanks and other line ends; leave caches of pictures behind."""
    mark, blanks = (b"", b"") if name in THEIRS else (b"\xef\xbb\xbf", b" \t")
    for path in [*root.rglob("*"), *root.parent.glob("imagenet1k/*")]:
        if path.suffix in LISTS:
            path.write_bytes(mark + path.read_bytes().replace(b"\n", blanks + b"\r\n"))
        (path.parent / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
        (path.parent / "desktop.ini").write_bytes(b"[.ShellClassInfo]")


def target(stated: Any) -> Any:
    """Return a target as plain values: of a mask or depth its largest, of others what tells them apart."""
    if isinstance(stated, Groups):
        return stated.easy.tolist()
    if isinstance(stated, Objects):
        return [stated.boxes.tolist(), stated.labels.tolist(), (~stated.counted).tolist()]
    if isinstance(stated, KeyPoints):
        return stated.category
    if isinstance(stated, np.ndarray) and stated.ndim == 2:
        return stated.max().item()
    return None if stated is None else np.asarray(stated).tolist()


def contents(dataset: Dataset) -> Expected:
    found = Expected()
    for name in dataset.card.lengths:
        split = dataset.split(name)
        items = [split[row] for row in range(len(split))]
        found[name] = [
            (round(np.asarray(item.image)[0, 0, 0] / 10) * 10, target(item.target)) for item in items
        ]
    return found


def opened(
    name: str, tmp_path: Path, patch: pytest.MonkeyPatch, open_reduced: OpenReduced, after: Any = None
) -> tuple[Dataset, Expected]:
    expected = ARCHIVES[name](Archive(tmp_path / name, patch))
    if after is not None:
        after(tmp_path / name, name)
    card = list_datasets()[name]
    assert isinstance(card, DatasetCard)
    labels = [label for rows in expected.values() for _, label in rows if isinstance(label, int)]
    fixed = {"camvid": 11, "cityscapes": 19, "spair71k": 18, "voc2007": 20, "voc2012": 21, "voc2012_aug": 21,
             "ade20k": 3, "ecssd": 2, "cifar10": 3, "cifar100": 3, "flowers102": 102,
             "imagenet_real": 2, "voc2012_detection": 20, "voc2012_instances": 20, "coco2017": 2,
             "dollar_street": 1000}  # fmt: skip
    classes = fixed.get(name, max(labels, default=-1) + 1 if card.num_classes else 0)
    return open_reduced(name, classes, {split: len(rows) for split, rows in expected.items()}), expected


def test_every_published_set_has_a_miniature() -> None:
    published = {name for name, card in list_datasets().items() if isinstance(card, DatasetCard)}
    # Part of scikit-learn, and two whose files have tests of their own.
    assert published - ARCHIVES.keys() == {"digits", "nyuv2_normals", "sunrgbd"}


@pytest.mark.parametrize("after", [None, after_macos, after_windows])
@pytest.mark.parametrize("name", sorted(ARCHIVES))
def test_the_official_archive_is_read(
    name: str, after: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_reduced: OpenReduced
) -> None:
    dataset, expected = opened(name, tmp_path, monkeypatch, open_reduced, after)
    assert contents(dataset) == expected


LINKS: dict[str, dict[str, str]] = {
    "dtd": {"dtd/dtd": "dtd"},
    "flowers102": {"flowers-102": "."},
    "pets": {"oxford-iiit-pet": "."},
    "cars": {
        "stanford_cars/devkit": "stanford_cars/car_devkit/devkit",
        "stanford_cars/cars_test_annos_withlabels.mat": "stanford_cars/cars_test_annos_withlabels.mat",
        "stanford_cars/cars_train": "stanford_cars/cars_train/cars_train",
        "stanford_cars/cars_test": "stanford_cars/cars_test/cars_test",
    },
}
"""Where torchvision looks for what a miniature has elsewhere."""


def _named(kind: str, *splits: str) -> Callable[[str], dict[str, Any]]:
    return lambda root: {split: getattr(library, kind)(root, split=split) for split in splits}


READERS: dict[str, Callable[[str], dict[str, Any]]] = {
    "aircraft": _named("FGVCAircraft", "train", "val", "trainval", "test"),
    "cars": _named("StanfordCars", "train", "test"),
    "cifar10": lambda root: {"train": library.CIFAR10(root), "test": library.CIFAR10(root, train=False)},
    "cifar100": lambda root: {"train": library.CIFAR100(root), "test": library.CIFAR100(root, train=False)},
    "cityscapes": lambda root: {
        split: library.Cityscapes(root, split, mode="fine", target_type="semantic")
        for split in ("train", "val")
    },
    "dtd": _named("DTD", "train", "val", "test"),
    "flowers102": _named("Flowers102", "train", "val", "test"),
    "food101": _named("Food101", "train", "test"),
    "imagenet1k": lambda root: {"train": library.ImageFolder(f"{root}/train")},
    "imagenet_a": lambda root: {"test": library.ImageFolder(f"{root}/imagenet-a")},
    "imagenet_sketch": lambda root: {"test": library.ImageFolder(f"{root}/sketch")},
    "pets": _named("OxfordIIITPet", "trainval", "test"),
    "voc2012": lambda root: {
        split: library.VOCSegmentation(root, image_set=split) for split in ("train", "val")
    },
}


def _plain(label: Any, name: str) -> Any:
    if name == "cityscapes":
        return {kind.id: kind.train_id for kind in library.Cityscapes.classes}[np.asarray(label).max().item()]
    return np.asarray(label).max().item() if name == "voc2012" else label


@pytest.mark.parametrize("name", sorted(READERS))
def test_torchvision_reads_the_same(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_reduced: OpenReduced
) -> None:
    dataset, _ = opened(name, tmp_path, monkeypatch, open_reduced)
    home = tmp_path / ("theirs" if name in LINKS else name)
    for link, place in LINKS.get(name, {}).items():
        (home / link).parent.mkdir(parents=True, exist_ok=True)
        (home / link).symlink_to(tmp_path / name / place)
    for split, theirs in READERS[name](str(home)).items():
        ours = dataset.split(split)
        items = [ours[row] for row in range(len(ours))]
        found = [(np.asarray(item.image)[0, 0, 0], target(item.target)) for item in items]
        assert found == [(np.asarray(image)[0, 0, 0], _plain(label, name)) for image, label in theirs]
        if name not in {"cityscapes", "voc2012", "pets", "flowers102"}:  # those have other names, or none
            assert tuple(theirs.classes) == dataset.card.class_names


def test_torchvision_counts_the_images_of_caltech101(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_reduced: OpenReduced
) -> None:
    dataset, expected = opened("caltech101", tmp_path, monkeypatch, open_reduced)
    theirs = library.Caltech101(str(tmp_path))  # without the background
    assert ["BACKGROUND_Google", *theirs.categories] == list(dataset.card.class_names)
    assert len(theirs) == sum(map(len, expected.values())) - 3
