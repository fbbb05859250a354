from dataclasses import replace
from pathlib import Path

import pytest

import ssleval
from ssleval.errors import DataError
from ssleval.results import Result, comparable, read_all

RESULTS = Path(__file__).parents[2] / "results"


def test_every_result_is_a_row_that_its_settings_tell_apart() -> None:
    frame = ssleval.read_results(RESULTS)
    stored = read_all(RESULTS)
    assert len(frame) == len(stored)
    first = next(one for one in stored if one.task == "knn")
    row = frame[frame["key"] == first.key].iloc[0]
    assert row[first.headline] == first.metrics[first.headline].value
    assert row["board"] == comparable(first)
    assert row["knn.preprocessing"] == first.protocol["preprocessing"]
    assert not frame.duplicated(["model", "board", "seed", "precision", "limit"]).any()


@pytest.mark.parametrize("setting", ["seed", "precision", "limit", "skip_corrupt"])
def test_a_row_holds_every_setting(setting: str) -> None:
    (first, *_) = read_all(RESULTS)
    changed: Result = replace(first, settings={**first.settings, setting: "other"})
    assert changed.to_row()[setting] == "other"
    assert first.to_row()[setting] == first.settings[setting]


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no results folder"):
        ssleval.read_results(tmp_path / "none")


@pytest.mark.parametrize(
    "field", ["mean", "std", "image_size", "patch_size", "resize", "resize_mode", "interpolation"]
)
def test_a_row_holds_how_images_are_prepared(field: str) -> None:
    (first, *_) = read_all(RESULTS)
    changed = replace(first, backbone={**first.backbone, field: [0.1, 0.2, 0.3]}).to_row()
    assert changed[f"card.{field}"] == (0.1, 0.2, 0.3)
    assert {name for name, value in first.to_row().items() if changed[name] != value} == {f"card.{field}"}


def test_pixels_and_exif_are_told_where_a_record_leaves_them_out() -> None:
    (first, *_) = read_all(RESULTS)
    row = first.to_row()
    assert (row["pixels"], row["exif"]) == ("exact", False)
    turned = replace(first, data={**first.data, "exif": True}, settings={**first.settings, "pixels": "fast"})
    assert (turned.to_row()["pixels"], turned.to_row()["exif"]) == ("fast", True)
