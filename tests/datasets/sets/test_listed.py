"""``list:FILE@DATASET``: fitted on the listed training images, scored on all."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ssleval.core import DatasetOptions
from ssleval.datasets.catalog import open_dataset
from ssleval.errors import ConfigError, DataError

Listed = Callable[[str], str]


@pytest.fixture
def listed(folders: Path) -> Listed:
    """A function that writes a list, and names the set of it."""

    def written(text: str) -> str:
        (folders.parent / "few.txt").write_text(text)
        return f"list:{folders.parent / 'few.txt'}@folder:{folders}"

    return written


@pytest.mark.parametrize("text", ["1.png\n2.PNG\n", "b/1.png\n\na/2.PNG", "2.PNG\r\nb/1.png"])
def test_images_are_listed_by_id_or_by_its_last_part(listed: Listed, folders: Path, text: str) -> None:
    name, whole = listed(text), open_dataset(f"folder:{folders}", DatasetOptions())
    few = open_dataset(name, DatasetOptions())
    assert list(few.split("train").ids) == ["a/2.PNG", "b/1.png"]
    assert np.asarray(few.split("train").targets).tolist() == [0, 1]
    assert few.split("test").fingerprint == whole.split("test").fingerprint
    assert few.split("train").fingerprint != whole.split("train").fingerprint
    assert (few.card.name, dict(few.card.lengths)) == (name, {"train": 2, "test": 2})


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("1.png\nc.png\n", r"line 2: c.png names 0 training images, such as a/10.png; expected one"),
        ("x.png\n", "names 0"),
        ("a/1.png\n", "names 0"),
        ("1.png\nb/1.png\n", "line 2: b/1.png is listed twice"),
        ("\n\n", "no image is listed"),
    ],
)
def test_a_line_names_one_training_image(listed: Listed, text: str, match: str) -> None:
    with pytest.raises(DataError, match=match):
        open_dataset(listed(text), DatasetOptions())


def test_a_name_of_two_images_is_refused(
    listed: Listed, folders: Path, paint: Callable[[Path, int], None]
) -> None:
    paint(folders / "train/b/2.PNG", 9)
    with pytest.raises(DataError, match="names 2 training images"):
        open_dataset(listed("2.PNG\n"), DatasetOptions())


@pytest.mark.parametrize("name", ["list:", "list:few.txt", "list:@digits", "list:few.txt@"])
def test_a_list_needs_a_file_and_a_set(name: str) -> None:
    with pytest.raises(ConfigError, match="write list:FILE@DATASET"):
        open_dataset(name, DatasetOptions())


def test_a_missing_file_is_named(folders: Path) -> None:
    with pytest.raises(DataError, match=r"none.txt: no such file"):
        open_dataset(f"list:none.txt@folder:{folders}", DatasetOptions())
