"""Images without labels: folders, tables and shards, and a training on them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import ssleval
from ssleval.core import Context, Dataset, DatasetOptions
from ssleval.datasets.catalog import open_dataset
from ssleval.datasets.files import index
from ssleval.errors import ConfigError, DataError, NotApplicableError
from tests.datasets.sets.test_wds import png, shard


def opened(location: object, cache: Path, *, full_hash: bool = False) -> Dataset:
    return open_dataset(f"images:{location}", DatasetOptions(cache=cache, full_hash=full_hash))


def levels(dataset: Dataset) -> list[int]:
    split = dataset.split("train")
    return [np.asarray(split[row].image)[0, 0, 0] for row in range(len(split))]


@pytest.fixture
def folder(tmp_path: Path, paint: Callable[[Path, int], None]) -> Path:
    for number, name in enumerate(["b.png", "a/z.png", "a/deep/1.png"]):
        paint(tmp_path / "photos" / name, number)
    return tmp_path / "photos"


def test_a_folder_counts_at_any_depth(folder: Path, tmp_path: Path) -> None:
    dataset = opened(folder, tmp_path)
    assert list(dataset.split("train").ids) == ["a/deep/1.png", "a/z.png", "b.png"]
    assert levels(dataset) == [2, 1, 0]
    assert dataset.split("train").targets is None


def test_a_kept_listing_gives_the_same_split(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "LEAST", 1)
    monkeypatch.setattr(index, "now", lambda: 1 << 62)
    first, second = (opened(folder, tmp_path).split("train") for _ in range(2))
    assert any((tmp_path / "listings").iterdir())
    assert (list(first.ids), first.fingerprint) == (list(second.ids), second.fingerprint)
    assert second.refuse_changed is not None
    assert opened(folder, tmp_path, full_hash=True).split("train").fingerprint != first.fingerprint


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_table_names_paths_and_may_hold_anything_else(folder: Path, tmp_path: Path, kind: str) -> None:
    paths = ["b.png", "a/z.png"]
    rows = {
        "csv": "label,path\n" + "".join(f"x,{path}\n" for path in paths),
        "jsonl": "".join(json.dumps({"path": path, "caption": 3}) + "\n" for path in paths),
    }
    (folder / f"list.{kind}").write_text(rows[kind])
    dataset = opened(folder / f"list.{kind}", tmp_path)
    assert list(dataset.split("train").ids) == paths
    assert levels(dataset) == [0, 1]


@pytest.mark.parametrize("pattern", ["", "*.tar", "{0..1}.tar"])
def test_shards_need_no_labels(tmp_path: Path, pattern: str) -> None:
    shard(tmp_path / "shards/0.tar", {"x.png": png(5), "x.json": b"{}", "y.png": png(6), "only.txt": b"no"})
    shard(tmp_path / "shards/1.tar", {"x.png": png(7), "x.cls": b"no number"})
    dataset = opened(tmp_path / "shards" / pattern, tmp_path)
    assert list(dataset.split("train").ids) == ["0.tar/x", "0.tar/y", "1.tar/x"]
    assert levels(dataset) == [5, 6, 7]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("path\nb.png\na/../b.png\n", r"line 3: a/\.\./b\.png is listed twice"),
        ("path\n", "names no image"),
        ("path\nc.png\n", r"c\.png: No such file"),
        ("name\nb.png\n", r"no column path; it needs path$"),
        ("path,x\n ,y\n", "line 2: path must not be empty"),
    ],
)
def test_a_wrong_table_is_one_line(folder: Path, tmp_path: Path, rows: str, message: str) -> None:
    (folder / "list.csv").write_text(rows)
    with pytest.raises(DataError, match=message):
        opened(folder / "list.csv", tmp_path)


def test_what_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"images:nowhere: no such folder; a table ends in \.csv or \.jsonl"):
        opened("nowhere", tmp_path)
    with pytest.raises(ConfigError, match="write images:FOLDER"):
        opened("", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images in this"):
        opened(tmp_path / "empty", tmp_path)


def test_a_task_that_needs_labels_says_so(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NotApplicableError, match="knn needs one label per image"):
        ssleval.evaluate(
            "pixels", "knn", dataset=f"images:{folder}", context=Context(cache=tmp_path, progress=False)
        )


def test_a_folder_of_shards_and_images_is_refused(folder: Path, tmp_path: Path) -> None:
    shard(folder / "orig.tar", {"x.png": png(5)})
    with pytest.raises(DataError, match=r"tar shards beside images, .*name the shards, images:.*/\*\.tar"):
        opened(folder, tmp_path)
    shard(tmp_path / "m/a.tar", {"x.png": png(5)})
    shard(tmp_path / "m/old/b.tar", {"x.png": png(6)})
    with pytest.raises(DataError, match="in two depths"):
        opened(tmp_path / "m", tmp_path)


def test_shards_may_lie_in_folders_and_strays_are_none(folder: Path, tmp_path: Path) -> None:
    shard(tmp_path / "nest/s1/a.tar", {"x.png": png(5)})
    assert levels(opened(tmp_path / "nest", tmp_path)) == [5]
    (folder / "._y.tar").write_bytes(b"")
    assert levels(opened(folder, tmp_path)) == [2, 1, 0]
    with pytest.raises(DataError, match=r"images:.*none\*\.tar: no shards"):
        opened(tmp_path / "none*.tar", tmp_path)


def test_names_in_shards_may_have_dots(tmp_path: Path) -> None:
    members = {"p.1.png": png(1), "p.2.png": png(2), "q.png": png(3)}
    shard(tmp_path / "shards/0.tar", members)
    assert levels(opened(tmp_path / "shards", tmp_path)) == [1, 2, 3]
