from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssleval.core import DatasetOptions
from ssleval.datasets.catalog import open_dataset
from ssleval.errors import ConfigError, DataError


def write(root: Path, *paths: str) -> Path:
    for number, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(root / path)
    return root


def test_every_domain_is_a_split_of_the_same_classes(tmp_path: Path) -> None:
    root = write(
        tmp_path / "x",
        "photo/dog/a.png",
        "photo/cat/b.png",
        "art/dog/c.png",
        "art/cat/d.png",
        "art/cat/e.png",
    )
    found = open_dataset(f"domains:{root}", DatasetOptions(cache=tmp_path))
    assert found.card.domains == ("art", "photo")
    assert found.card.class_names == ("cat", "dog")
    assert dict(found.card.lengths) == {"art": 3, "photo": 2}
    assert found.card.train_split not in found.card.lengths
    split = found.split("art")
    assert list(split.ids) == ["cat/d.png", "cat/e.png", "dog/c.png"]
    assert split.targets is not None
    assert split.targets.tolist() == [0, 0, 1]
    assert found.limited(1).card.domains == found.card.domains


def test_what_is_no_set_of_domains_is_refused(tmp_path: Path) -> None:
    options = DatasetOptions(cache=tmp_path)
    with pytest.raises(ConfigError, match="needs a path"):
        open_dataset("domains:", options)
    with pytest.raises(DataError, match="one folder, art; it needs two"):
        open_dataset(f"domains:{write(tmp_path / 'one', 'art/dog/a.png')}", options)
    with pytest.raises(DataError, match="cat not in both art/ and photo/"):
        open_dataset(
            f"domains:{write(tmp_path / 'two', 'art/dog/a.png', 'photo/cat/b.png', 'photo/dog/c.png')}",
            options,
        )


def test_another_set_is_opened_as_this_one_was(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(
            tmp_path / name,
            *(f"{split}/x/{number}.png" for split in ("train", "test") for number in range(3)),
        )
    found = open_dataset(f"folder:{tmp_path / 'a'}", DatasetOptions(cache=tmp_path, exif=True))
    assert found.beside is not None
    other = found.beside(f"folder:{tmp_path / 'b'}")
    assert other.card.exif
    assert other is found.beside(f"folder:{tmp_path / 'b'}")
    limited = found.limited(2)
    assert limited.beside is not None
    assert limited.beside(f"folder:{tmp_path / 'b'}").card.lengths["test"] == 2
