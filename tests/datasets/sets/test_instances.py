"""Published sets of instances: a tiny fake of every layout."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssleval.core import Dataset, DatasetOptions
from ssleval.datasets.catalog import list_datasets, open_dataset
from ssleval.datasets.sets.copydays import CARD
from ssleval.errors import ConfigError, DataError

Paint = Callable[[Path, int], None]
Open = Callable[..., Dataset]

GND: dict[str, Any] = {
    "imlist": ["all_souls_000001", "oxford_000002", "oxford_000003"],
    "qimlist": ["all_souls_000013", "oxford_000017"],
    "gnd": [
        {"bbx": [1.2, 0.0, 4.0, 3.6], "easy": np.array([0]), "hard": np.array([2]), "junk": np.array([1])},
        {"bbx": [0.0, 0.0, 6.0, 5.0], "easy": [1], "hard": [], "junk": []},
    ],
}


def revisited(root: Path, paint: Paint, content: Any = GND) -> Path:
    for level, name in enumerate([*GND["imlist"], *GND["qimlist"]]):
        paint(root / "roxford5k" / "jpg" / f"{name}.png", level)
        Image.open(root / "roxford5k" / "jpg" / f"{name}.png").save(root / f"roxford5k/jpg/{name}.jpg")
    (root / "roxford5k" / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(content, protocol=2))
    return root / "roxford5k"


LENGTHS = {"queries": 2, "boxes": 2, "gallery": 3}


def test_revisited_oxford_is_read_as_published(tmp_path: Path, paint: Paint, open_reduced: Open) -> None:
    folder = revisited(tmp_path, paint)
    dataset = open_reduced("roxford5k", 0, LENGTHS)
    queries, boxes, gallery = (dataset.split(name) for name in LENGTHS)
    assert dataset.card.graded
    assert list(gallery.ids) == [f"jpg/{name}.jpg" for name in GND["imlist"]]
    assert [part.tolist() for part in queries[0].target[:3]] == [[0], [2], [1]]
    assert [part.tolist() for part in boxes[1].target[:3]] == [[1], [], []]
    assert queries[0].image.size == (6, 5)
    assert boxes[0].image.size == (3, 4)
    pickle.dumps((boxes.image, boxes.target))
    assert len({queries.fingerprint, boxes.fingerprint, gallery.fingerprint}) == 3
    plain = [{key: np.asarray(value).tolist() for key, value in one.items()} for one in GND["gnd"]]
    (folder / "gnd_roxford5k.pkl").unlink()
    (folder / "gnd_roxford5k.json").write_text(json.dumps({**GND, "gnd": plain}))
    again = open_reduced("roxford5k", 0, LENGTHS)
    assert again.split("queries").fingerprint == queries.fingerprint
    cards: dict[str, Any] = {**list_datasets()}
    assert cards["rparis6k"].lengths["gallery"] == 6_322


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({}, "expected imlist, qimlist and gnd"),
        ({**GND, "gnd": [{"easy": [0]}] * 2}, "expected imlist"),
        ({**GND, "gnd": GND["gnd"][:1]}, "1 groups for 2 queries"),
        ({**GND, "imlist": GND["imlist"][:2]}, "rows or boxes outside"),
    ],
    ids=["empty", "no-boxes", "one-group", "few-images"],
)
def test_another_ground_truth_is_refused(
    tmp_path: Path, paint: Paint, open_reduced: Open, content: Any, says: str
) -> None:
    revisited(tmp_path, paint, content)
    with pytest.raises(DataError, match=says):
        open_reduced("roxford5k", 0, LENGTHS)


def test_amstertime_asks_in_both_directions(tmp_path: Path, paint: Paint, open_reduced: Open) -> None:
    for number in range(3):
        paint(tmp_path / "amstertime" / "old" / f"{number:04}.png", number)
        paint(tmp_path / "amstertime" / "new" / f"{number:04}.bmp", 10 + number)
    dataset = open_reduced("amstertime", 0, {"images": 6, "old": 3, "new": 3})
    images, new = dataset.split("images"), dataset.split("new")
    assert list(images.ids[:4]) == ["old/0000.png", "old/0001.png", "old/0002.png", "new/0000.bmp"]
    first, last, one = images[1].target, images[5].target, new[1].target
    assert (first.easy.tolist(), first.junk.tolist(), first.group) == ([4], [0, 1, 2], 0)
    assert (last.easy.tolist(), last.junk.tolist(), last.group) == ([2], [3, 4, 5], 1)
    assert (one.easy.tolist(), one.junk.tolist()) == ([1], [3, 4, 5])
    assert new[1].image.getpixel((0, 0)) == (11, 11, 11)
    paint(tmp_path / "amstertime" / "old" / "0003.png", 3)
    with pytest.raises(DataError, match="0003 is not once in old/ and once in new/"):
        open_reduced("amstertime", 0, {"images": 6, "old": 3, "new": 3})


@pytest.fixture
def copydays(tmp_path: Path, paint: Paint) -> Path:
    names = {
        "original": ("200000", "200100"),
        "strong": ("200001", "200002", "200101"),
        "crops/50": ("200000", "200100"),
        "distractors/deep": ("b", "a"),
        "whitening": ("x",),
    }
    for folder, files in names.items():
        for level, name in enumerate(files):
            paint(tmp_path / "copydays" / folder / f"{name}.png", level)
    return tmp_path / "copydays"


REDUCED = {"original": 2, "strong": 3, "crops/50": 2, "database": 2}


@pytest.mark.usefixtures("copydays")
def test_copydays_knows_originals_by_name(open_reduced: Open) -> None:
    dataset = open_reduced("copydays", 0, REDUCED)
    assert dataset.card.lengths == {**REDUCED, "database": 4, "whitening": 1}
    assert [dataset.split("strong")[row].target.easy.tolist() for row in range(3)] == [[0], [0], [1]]
    assert dataset.split("crops/50")[1].target.easy.tolist() == [1]
    database = dataset.split("database")
    assert list(database.ids) == [
        *("original/200000.png", "original/200100.png", "distractors/deep/a.png", "distractors/deep/b.png")
    ]
    assert database[0].target is dataset.split("whitening")[0].target is None
    assert database[3].image.getpixel((0, 0)) == (0, 0, 0)


def test_copydays_without_more_folders_is_complete(
    copydays: Path, tmp_path: Path, open_reduced: Open
) -> None:
    for name in ("distractors", "whitening"):
        (copydays / name).rename(tmp_path / name)
    assert open_reduced("copydays", 0, REDUCED).card.lengths == REDUCED


def test_another_copydays_is_refused(
    copydays: Path, paint: Paint, tmp_path: Path, open_reduced: Open
) -> None:
    assert sum(CARD.lengths.values()) == 229 + 20 * 157
    with pytest.raises(DataError, match=r"no folder .*crops/10"):
        open_dataset("copydays", DatasetOptions(data_root=tmp_path)).split("crops/10")
    with pytest.raises(DataError, match="3 items, expected 229"):
        open_dataset("copydays", DatasetOptions(data_root=tmp_path)).split("strong")
    with pytest.raises(ConfigError, match="nothing behind a colon"):
        open_dataset("copydays:x", DatasetOptions(data_root=tmp_path))
    paint(copydays / "strong" / "999901.png", 0)
    with pytest.raises(DataError, match=r"999901\.png must begin with"):
        open_reduced("copydays", 0, {**REDUCED, "strong": 4}).split("strong")
    with pytest.raises(DataError, match="set --data-root"):
        open_dataset("copydays", DatasetOptions(data_root=tmp_path / "elsewhere"))
