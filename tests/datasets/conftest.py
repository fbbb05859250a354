"""Makers of tiny datasets on disk."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from ssleval.core import Dataset, DatasetOptions, datasets
from ssleval.datasets.published import Published


def _paint(path: Path, level: int) -> None:
    """Write a 6 x 5 image of one grey level; lossless formats give it back exactly."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 5), (level, level, level)).save(path)


@pytest.fixture
def paint() -> Callable[[Path, int], None]:
    return _paint


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Two classes; the paths say the order they must come in."""
    levels = {
        "train/b/1.png": 1,
        "train/a/10.png": 2,
        "train/a/2.PNG": 3,
        "test/b/x.png": 4,
        "test/a/y.png": 5,
    }
    for name, level in levels.items():
        _paint(tmp_path / "set" / name, level)
    return tmp_path / "set"


@pytest.fixture
def open_reduced(tmp_path: Path) -> Callable[..., Dataset]:
    """Open a published set in tmp_path with the lengths of a tiny copy in place of its own."""

    def opened(name: str, classes: int, lengths: Mapping[str, int]) -> Dataset:
        loader = datasets.get(name)
        assert isinstance(loader, Published)
        card = replace(loader.card, classes=classes, lengths=lengths)
        return replace(loader, card=card)("", DatasetOptions(data_root=tmp_path))

    return opened
