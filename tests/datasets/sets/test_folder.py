import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssleval.core import DatasetOptions
from ssleval.datasets.catalog import open_dataset
from ssleval.errors import ConfigError, DataError

SHARED = Path(__file__).parents[3] / ".." / "shared" / "data"
OPTIONS = DatasetOptions()


def test_class_by_class_then_by_path(folders: Path) -> None:
    dataset = open_dataset(f"folder:{folders}", OPTIONS)
    train = dataset.split("train")
    assert dataset.card.class_names == ("a", "b")
    assert dataset.card.lengths == {"train": 3, "test": 2}
    assert dataset.card.test_split == "test"
    assert list(train.ids) == ["a/10.png", "a/2.PNG", "b/1.png"]
    assert train.targets is not None
    assert train.targets.dtype == np.int64
    assert train.targets.tolist() == [0, 0, 1]
    assert [train[i].image.getpixel((0, 0)) for i in range(3)] == [(2, 2, 2), (3, 3, 3), (1, 1, 1)]


def test_opening_and_reading_a_split_lists_every_folder_once(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[str] = []
    scandir = os.scandir

    def counted(path: str | Path) -> object:
        listed.append(Path(path).relative_to(folders).as_posix())
        return scandir(path)

    monkeypatch.setattr(os, "scandir", counted)
    dataset = open_dataset(f"folder:{folders}", OPTIONS)
    for split in ("train", "test"):
        dataset.split(split)
    assert sorted(listed) == ["test", "test/a", "test/b", "train", "train/a", "train/b"]


def test_order_is_that_of_torchvision(folders: Path) -> None:
    from torchvision.datasets import ImageFolder

    theirs = ImageFolder(str(folders / "train"))
    ours = open_dataset(f"folder:{folders}", OPTIONS).split("train")
    assert [Path(path).relative_to(folders / "train").as_posix() for path, _ in theirs.samples] == list(
        ours.ids
    )
    assert theirs.targets == np.asarray(ours.targets).tolist()


def test_moving_the_folder_changes_nothing(folders: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(folders, tmp_path / "elsewhere")
    prints = {open_dataset(f"folder:{path}", OPTIONS).split("train").fingerprint for path in (folders, moved)}
    assert len(prints) == 1


def test_full_hash_option_reaches_the_fingerprint(folders: Path) -> None:
    plain, full = (DatasetOptions(full_hash=flag) for flag in (False, True))
    prints = {
        open_dataset(f"folder:{folders}", options).split("train").fingerprint for options in (plain, full)
    }
    assert len(prints) == 2


def test_val_is_scored_only_where_there_is_no_test(folders: Path) -> None:
    shutil.copytree(folders / "test", folders / "val")
    assert open_dataset(f"folder:{folders}", OPTIONS).card.test_split == "test"
    shutil.rmtree(folders / "test")
    assert open_dataset(f"folder:{folders}", OPTIONS).card.test_split == "val"


def test_paths_may_hold_colons_and_a_tilde(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folders, tmp_path / "a:b")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(open_dataset("folder:~/a:b", OPTIONS).split("train")) == 3


def test_a_split_by_another_name_is_not_guessed(folders: Path) -> None:
    (folders / "test").rename(folders / "validation")
    with pytest.raises(DataError, match=r"needs train/ with val/ or test/, found train, validation"):
        open_dataset(f"folder:{folders}", OPTIONS)


@pytest.mark.parametrize("split", ["train", "test"])
def test_differing_classes_are_named(folders: Path, paint: Callable[[Path, int], None], split: str) -> None:
    paint(folders / split / "only-here" / "1.png", 0)
    with pytest.raises(DataError, match="only-here not in both train/ and test/"):
        open_dataset(f"folder:{folders}", OPTIONS)


def test_a_damaged_image_is_named(folders: Path) -> None:
    path = folders / "test" / "a" / "y.png"
    path.write_bytes(path.read_bytes()[:45])
    split = open_dataset(f"folder:{folders}", OPTIONS).split("test")
    assert isinstance(split[1].image, Image.Image)
    with pytest.raises(DataError, match=r"test/a/y\.png"):
        split[0]


def test_a_path_is_needed() -> None:
    for name in ("folder", "folder:"):
        with pytest.raises(ConfigError, match="write folder:PATH"):
            open_dataset(name, OPTIONS)


def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such folder"):
        open_dataset(f"folder:{tmp_path / 'nowhere'}", OPTIONS)


@pytest.mark.parametrize(
    ("name", "classes", "train", "test"), [("caltech101", 99, 1980, 990), ("signdigits", 10, 600, 300)]
)
def test_real_folders(tmp_path: Path, name: str, classes: int, train: int, test: int) -> None:
    if not (SHARED / name).is_dir():
        pytest.skip(f"needs the data folder {name} beside the repository")
    dataset = open_dataset(f"folder:{SHARED / name}", DatasetOptions(cache=tmp_path))
    assert dataset.card.num_classes == classes
    assert dataset.card.lengths == {"train": train, "test": test}
    split = dataset.split("test")
    assert np.bincount(np.asarray(split.targets)).tolist() == [test // classes] * classes
    assert {split[i].image.mode for i in range(0, test, 30)} == {"RGB"}


def test_linked_splits_are_said_and_linked_classes_refused(
    folders: Path, capsys: pytest.CaptureFixture
) -> None:
    (folders / "val").symlink_to(folders / "train")
    assert open_dataset(f"folder:{folders}", OPTIONS).card.test_split == "test"
    assert "2 class folders in both train and val" in capsys.readouterr().err
    (folders / "train/c").symlink_to(folders / "train/a")
    with pytest.raises(DataError, match="two class folders are one"):
        open_dataset(f"folder:{folders}", OPTIONS)


def test_names_that_are_no_utf8_are_one_line(folders: Path) -> None:
    os.rename(folders / "test/a/y.png", os.fsencode(folders / "test/a") + b"/\xe9.png")  # noqa: PTH104
    with pytest.raises(DataError, match="its name is no UTF-8"):
        open_dataset(f"folder:{folders}", OPTIONS).split("test")
    for name in ("folder:/a\0b", "folder:/a\udce9"):
        with pytest.raises(DataError, match="in UTF-8"):
            open_dataset(name, OPTIONS)


@pytest.mark.parametrize("split", ["train", "test"])
def test_pipes_and_devices_among_images_are_refused(folders: Path, split: str) -> None:
    os.mkfifo(folders / split / "a/pipe.png")
    with pytest.raises(DataError, match=r"pipe\.png: not a regular file"):
        open_dataset(f"folder:{folders}", OPTIONS).split(split)


def test_what_programs_leave_behind_is_no_image_and_no_class(
    folders: Path, paint: Callable[[Path, int], None]
) -> None:
    before = open_dataset(f"folder:{folders}", OPTIONS)
    for name in ("__MACOSX/._x.png", "a/__MACOSX/x.png", "a/._2.png", "a/.cache/x.png", ".git/x.png"):
        paint(folders / "train" / name, 9)
    for name in ("a/Thumbs.db", "a/.DS_Store", "b/tmp", "b/DESKTOP.INI"):
        (folders / "train" / name).write_bytes(b"x")
    after = open_dataset(f"folder:{folders}", OPTIONS)
    assert after.card.class_names == before.card.class_names
    assert after.split("train").fingerprint == before.split("train").fingerprint


def with_tables(folders: Path, train: str, test: str, name: str = "metadata.csv") -> str:
    (folders / "train" / name).write_text(train)
    (folders / "test" / name).write_text(test)
    return f"folder:{folders}"


TRAIN = "file_name,labels\nb/1.png,cat\na/2.PNG,dog;cat\na/10.png,\n"
TEST = "file_name,labels\na/y.png,dog\nb/x.png,cat\n"


def test_tables_in_the_splits_give_several_labels(folders: Path) -> None:
    dataset = open_dataset(with_tables(folders, TRAIN, TEST), OPTIONS)
    train = dataset.split("train")
    assert (dataset.card.target, dataset.card.metric) == ("multilabel", "map")
    assert (dataset.card.class_names, dataset.card.lengths) == (("cat", "dog"), {"train": 3, "test": 2})
    assert list(train.ids) == ["a/10.png", "a/2.PNG", "b/1.png"]
    assert np.asarray(train.targets).tolist() == [[False, False], [True, True], [True, False]]
    assert [train[i].image.getpixel((0, 0)) for i in range(3)] == [(2, 2, 2), (3, 3, 3), (1, 1, 1)]
    rows = [
        '{"file_name": "b/1.png", "labels": ["cat"]}',
        '{"file_name": "a/2.PNG", "labels": ["dog", "cat"]}',
    ]
    rows = "\n".join([*rows, '{"file_name": "a/10.png", "labels": []}'])
    tests = '{"file_name": "a/y.png", "labels": ["dog"]}\n{"file_name": "b/x.png", "labels": ["cat"]}\n'
    for split in ("train", "test"):
        (folders / split / "metadata.csv").unlink()
    same = open_dataset(with_tables(folders, rows, tests, "metadata.jsonl"), OPTIONS)
    assert same.split("train").fingerprint == train.fingerprint


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (TRAIN.replace("a/10.png,\n", ""), TEST, "does not list a/10.png; add or remove"),
        (TRAIN + "a/11.png,cat\n", TEST, r"line 5: no image a/11.png in .*train"),
        (TRAIN + "b/1.png,cat\n", TEST, "line 5: b/1.png is listed twice"),
        (TRAIN, TEST + "../train/b/1.png,cat\n", "no image ../train/b/1.png"),
        (TRAIN, TEST.replace("labels", "label"), "no table with a column labels, which another split has"),
        (TRAIN, TEST.replace("dog", "lion"), "labels absent from train: lion"),
    ],
)
def test_tables_that_do_not_fit_the_images_are_refused(
    folders: Path, train: str, test: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        open_dataset(with_tables(folders, train, test), OPTIONS)


def test_a_table_of_other_columns_leaves_the_class_folders(folders: Path) -> None:
    name = with_tables(folders, "file_name,width\nb/1.png,3\n", "file_name,width\n")
    assert open_dataset(name, OPTIONS).card.target == "label"
