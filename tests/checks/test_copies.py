"""What is wrong with a copy of a dataset, and the command that says so."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from ssleval.checks.copies import _examine, examine_copy
from ssleval.cli.app import app
from ssleval.core import DatasetOptions, datasets
from ssleval.datasets.published import Published
from ssleval.errors import DataError, UnknownNameError


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for split, count in (("train", 8), ("test", 3)):
        for number in range(count):
            path = tmp_path / "set" / split / "ab"[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4), (number, 0, 0)).save(path)
    return tmp_path / "set"


def test_a_whole_copy_has_nothing_wrong(copy: Path) -> None:
    found = list(examine_copy(f"folder:{copy}", DatasetOptions()))
    assert [(one.split, one.items, one.read, one.faults) for one in found] == [
        ("train", 8, 8, ()),
        ("test", 3, 3, ()),
    ]
    assert list(found[0].lines()) == ["train: 8 of 8 items read, nothing wrong"]


def test_every_damaged_image_is_named_and_no_split_is_left_out(copy: Path) -> None:
    damaged = [copy / "train/a/0.png", copy / "train/b/7.png"]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:40])
    train, test = examine_copy(f"folder:{copy}", DatasetOptions())
    assert [str(path) in fault for path, fault in zip(damaged, train.faults, strict=True)] == [True, True]
    assert not test.faults
    assert next(train.lines()) == "train: 8 of 8 items read, 2 faults"


def test_a_limit_reads_items_evenly(copy: Path) -> None:
    (copy / "train/a/2.png").write_bytes(b"")
    # Rows 0 and 7 of 8, class by class: 0.png and 7.png.
    found = list(examine_copy(f"folder:{copy}", DatasetOptions(), limit=2))
    assert [(one.items, one.read, one.faults) for one in found] == [(8, 2, ()), (3, 2, ())]


def test_wrong_targets_and_missing_lists_are_found(tmp_path: Path) -> None:
    base = tmp_path / "camvid"
    for split, value in (("train", 3), ("val", 77)):
        for folder, picture in ((split, np.zeros((4, 4, 3))), (f"{split}annot", np.full((4, 4), value))):
            (base / folder).mkdir(parents=True)
            Image.fromarray(picture.astype(np.uint8)).save(base / folder / "1.png")
    found = {one.split: one for one in examine_copy("camvid", DatasetOptions(data_root=tmp_path))}
    assert "1 items, expected 367" in found["train"].faults[0]
    assert found["test"].items == 0
    assert "no such folder" in found["test"].faults[0]


def test_an_item_that_is_listed_twice_is_found(tmp_path: Path) -> None:
    base = tmp_path / "tiny_imagenet" / "tiny-imagenet-200"
    for path in ("train/n01440764/images/a.JPEG", "val/images/b.JPEG"):
        (base / path).parent.mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(base / path)
    (base / "val/val_annotations.txt").write_text("b.JPEG\tn01440764\n" * 2)
    loader = datasets.get("tiny_imagenet")
    assert isinstance(loader, Published)
    card = replace(loader.card, classes=1, lengths={"val": 2})
    split = replace(loader, card=card)("", DatasetOptions(data_root=tmp_path))
    assert _examine(split, "val", 0).faults == ("listed more than once: val/images/b.JPEG",)


def test_no_copy_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder"):
        list(examine_copy("camvid", DatasetOptions(data_root=tmp_path)))
    with pytest.raises(UnknownNameError, match="did you mean camvid"):
        list(examine_copy("camvod", DatasetOptions(data_root=tmp_path)))


def test_the_command_exits_with_1_when_something_is_wrong(copy: Path) -> None:
    right = CliRunner().invoke(app, ["datasets", "check", f"folder:{copy}"])
    assert (right.exit_code, right.stdout.splitlines()[0]) == (0, "train: 8 of 8 items read, nothing wrong")
    for number in range(0, 8, 1):
        (copy / f"train/{'ab'[number % 2]}/{number}.png").write_bytes(b"nothing")
    wrong = CliRunner().invoke(app, ["datasets", "check", f"folder:{copy}"])
    assert wrong.exit_code == 1
    assert wrong.stdout.splitlines()[6] == "train: and 3 more such lines"
    as_json = CliRunner().invoke(app, ["datasets", "check", f"folder:{copy}", "--json"])
    rows = [json.loads(line) for line in as_json.stdout.splitlines()]
    assert [(row["split"], row["items"], row["read"], len(row["faults"])) for row in rows] == [
        ("train", 8, 8, 8),
        ("test", 3, 3, 0),
    ]


def test_a_dataset_named_in_full_is_listed_with_its_files() -> None:
    shown = CliRunner().invoke(app, ["ls", "datasets", "rparis6k"]).stdout
    assert "DATA_ROOT/rparis6k/paris/defense/paris_defense_000000.jpg" in shown
    assert "(2.5 GB)" in shown
    (row,) = map(
        json.loads, CliRunner().invoke(app, ["ls", "datasets", "sun397", "--json"]).stdout.splitlines()
    )
    assert row["tree"][0] == "DATA_ROOT/sun397/SUN397/a/abbey/sun_aaa.jpg"
    assert "DATA_ROOT" not in CliRunner().invoke(app, ["ls", "datasets", "sun*"]).stdout
