from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssleval.core import DatasetOptions
from ssleval.datasets.catalog import open_dataset
from ssleval.datasets.sets import ecssd
from ssleval.errors import DataError


def copy(root: Path, count: int = 1000) -> Path:
    for folder in ("images", "ground_truth_mask"):
        (root / "ecssd" / folder).mkdir(parents=True)
    picture, mask = root / "picture.jpg", root / "mask.png"
    Image.new("RGB", (6, 4), (9, 9, 9)).save(picture)
    pixels = np.zeros((4, 6), np.uint8)
    pixels[1:3, 2:] = 255
    Image.fromarray(pixels).save(mask)
    for number in range(1, count + 1):
        (root / "ecssd" / "images" / f"{number:04d}.jpg").hardlink_to(picture)
        (root / "ecssd" / "ground_truth_mask" / f"{number:04d}.png").hardlink_to(mask)
    return root


def test_white_is_the_object(tmp_path: Path) -> None:
    opened = open_dataset("ecssd", DatasetOptions(copy(tmp_path)))
    assert opened.card.class_names == ecssd.CLASSES
    sample = opened.split("test")[7]
    assert sample.id == "images/0008.jpg"
    assert sample.image.size == (6, 4)
    assert sample.target.tolist() == [[0] * 6, *([[0, 0, 1, 1, 1, 1]] * 2), [0] * 6]


def test_a_part_of_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="999 items, expected 1000"):
        open_dataset("ecssd", DatasetOptions(copy(tmp_path, 999))).split("test")
