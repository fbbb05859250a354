"""``vtab:``: the layout of NOAH, its published sizes, and lists that contradict each other."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ssleval.core import DatasetOptions
from ssleval.datasets.catalog import open_dataset
from ssleval.datasets.sets import vtab
from ssleval.errors import ConfigError, DataError
from ssleval.run.suites import read_lines

Write = Callable[..., Path]
LISTS = {
    "train800.txt": "images/train/0.png 1\nimages/train/1.png 0\n",
    "val200.txt": "images/train/2.png 2\n",
    "train800val200.txt": "images/train/0.png 1\nimages/train/1.png 0\nimages/train/2.png 2\n",
    "test.txt": "images/test/a b.png 2\nimages/test/4.png 0\n",
}


@pytest.fixture
def write(tmp_path: Path, paint: Callable[[Path, int], None]) -> Write:
    """A function that writes a small set, with some of its lists changed."""
    root = tmp_path / "vtab-1k" / "cifar"
    for level, name in enumerate(("train/0", "train/1", "train/2", "test/a b", "test/4")):
        paint(root / "images" / f"{name}.png", level)

    def written(**changes: str) -> Path:
        for name, text in {**LISTS, **{f"{key}.txt": value for key, value in changes.items()}}.items():
            (root / name).write_text(text)
        return root

    return written


def test_a_set_is_its_two_lists_in_their_order(write: Write) -> None:
    root = write()
    data = open_dataset(f"vtab:{root}", DatasetOptions())
    train, test = data.split("train"), data.split("test")
    assert (data.card.num_classes, dict(data.card.lengths)) == (3, {"train": 3, "test": 2})
    assert np.asarray(train.targets).tolist() == [1, 0, 2]
    assert list(test.ids) == ["images/test/a b.png", "images/test/4.png"]
    assert [test[row].image.getpixel((0, 0)) for row in (0, 1)] == [(3, 3, 3), (4, 4, 4)]


def test_a_published_name_is_below_the_data_root_and_of_its_size(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write()
    options = DatasetOptions(data_root=tmp_path)
    with pytest.raises(
        DataError, match="3 and 2 images of 3 classes, expected 1,000 and 10,000 images of 100"
    ):
        open_dataset("vtab:cifar", options)
    rest = "".join(f"images/train/{n}.png {n % 3}\n" for n in range(3, 1000))
    write(train800val200=LISTS["train800val200.txt"] + rest, train800=LISTS["train800.txt"] + rest)
    monkeypatch.setitem(vtab.PUBLISHED, "cifar", (2, 3))
    assert len(open_dataset("vtab:cifar", options).card.lengths) == 2


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"test": "images/train/0.png 1\n"}, "is in train800val200.txt and in test.txt"),
        ({"test": "images/./train/0.png 1\n"}, "is in train800val200.txt and in test.txt"),
        ({"test": "images/test/4.png 1\nimages/test/4.png  0\n"}, "line 2.*listed twice"),
        ({"test": " /etc/4.png 1\n"}, "leads out of the folder"),
        ({"test": "images/test/4.png 4\n"}, "labels up to 4, and none is 3"),
        ({"test": "images/test/4.png -1\n"}, "line 1.*expected PATH LABEL"),
        ({"test": "images/test/4.png 99999\n"}, "expected PATH LABEL"),
        ({"test": "images/test/4.png\n"}, "expected PATH LABEL"),
        ({"test": "../4.png 1\n"}, "leads out of the folder"),
        ({"test": "/etc/4.png 1\n"}, "leads out of the folder"),
        ({"test": "images/test/4.png 1\nimages/./test/4.png 0\n"}, "line 2.*listed twice"),
        ({"test": "\n"}, "no image is listed"),
        ({"val200": "images/train/2.png 1\n"}, "not the parts"),
        ({"val200": "images/train/1.png 0\nimages/train/2.png 2\n"}, "not the parts"),
    ],
    ids=str,
)
def test_lists_that_cannot_be_right_are_refused(write: Write, changes: dict[str, str], match: str) -> None:
    with pytest.raises(DataError, match=match):
        open_dataset(f"vtab:{write(**changes)}", DatasetOptions())


def test_a_folder_of_sets_says_how_to_measure_all(write: Write) -> None:
    with pytest.raises(DataError, match=r"1 sets; name one, as vtab:.*cifar, .*--suite vtab_1k"):
        open_dataset(f"vtab:{write().parent}", DatasetOptions())
    with pytest.raises(DataError, match=r"no .*nowhere.test.txt"):
        open_dataset("vtab:nowhere", DatasetOptions())
    with pytest.raises(ConfigError, match="needs a set"):
        open_dataset("vtab:", DatasetOptions())


def test_the_suite_has_the_nineteen_sets_in_the_groups_of_the_paper() -> None:
    lines, averaged = read_lines("vtab_1k")
    groups: dict[str, set[str]] = {}
    for line in lines.values():
        groups.setdefault(line.group, set()).add(line.dataset.removeprefix("vtab:"))
    assert averaged
    assert {name: len(sets) for name, sets in groups.items()} == {
        "natural": 7,
        "specialised": 4,
        "structured": 8,
    }
    assert set().union(*groups.values()) == set(vtab.PUBLISHED)
