"""The Met in the layout of its archives, a dozen images."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssleval.backbones.zoo import load
from ssleval.core import Context, Dataset, DatasetOptions, Metric
from ssleval.datasets.catalog import list_datasets, open_dataset
from ssleval.errors import ConfigError, DataError
from ssleval.metrics.recorded import statistic_from
from ssleval.results import read_samples
from ssleval.run.jobs import make_job
from ssleval.run.measure import measure

Paint = Callable[[Path, int], None]
Open = Callable[..., Dataset]

DATABASE = [(34, 0), (34, 1), (770, 0), (12, 0), (9000, 0)]
LISTS: dict[str, list[dict[str, Any]]] = {
    "MET_database": [{"id": number, "path": f"MET/{number}/{n}.png"} for number, n in DATABASE],
    "mini_MET_database": [{"id": number, "path": f"MET/{number}/0.png"} for number in (770, 34)],
    "valset": [
        {"MET_id": 34, "path": "test_met/a.png", "photographer": "x", "url": "https://example.org/a"},
        {"path": "test_other/b.png", "category": "c", "url": "https://example.org/b"},
    ],
    "testset": [
        {"path": "test_noart/d.png", "category": "d"},
        {"MET_id": 9000, "path": "test_met/e.png"},
        {"MET_id": 770, "path": "test_met/f.png"},
        {"path": "test_other/g.png"},
    ],
}
LENGTHS = {"database": 5, "val": 2, "test": 4}


def copied(root: Path, paint: Paint, **changed: Any) -> Path:
    """Write what the archives hold, with some lists replaced."""
    for level, path in enumerate(sorted({one["path"] for rows in LISTS.values() for one in rows})):
        paint(root / "images" / path, 20 * level)
    (root / "ground_truth").mkdir(exist_ok=True)
    for name, rows in {**LISTS, **changed}.items():
        (root / "ground_truth" / f"{name}.json").write_text(json.dumps(rows))
    return root


def test_lists_are_read_as_published(tmp_path: Path, paint: Paint, open_reduced: Open) -> None:
    copied(tmp_path / "met", paint)
    dataset = open_reduced("met", 0, LENGTHS)
    assert (dataset.card.target, dataset.card.train_split, dataset.card.test_split) == (
        *("open_set", "database", "test"),
    )
    splits = {name: dataset.split(name) for name in LENGTHS}
    labels = {name: np.asarray(split.targets).tolist() for name, split in splits.items()}
    assert labels == {"database": [34, 34, 770, 12, 9000], "val": [34, -1], "test": [-1, 9000, 770, -1]}
    assert list(splits["test"].ids) == [row["path"] for row in LISTS["testset"]]
    assert splits["val"][1].image.getpixel((0, 0)) == (180, 180, 180)
    pickle.dumps(splits["test"].image)
    assert len({split.fingerprint for split in splits.values()}) == 3


def test_the_small_database_is_another_set_with_the_same_queries(
    tmp_path: Path, paint: Paint, open_reduced: Open
) -> None:
    copied(tmp_path / "met", paint)
    (tmp_path / "met_mini").symlink_to(tmp_path / "met")
    mini, full = open_reduced("met_mini", 0, {**LENGTHS, "database": 2}), open_reduced("met", 0, LENGTHS)
    assert list(mini.split("database").ids) == ["MET/770/0.png", "MET/34/0.png"]
    assert mini.split("test").fingerprint == full.split("test").fingerprint
    assert mini.split("database").fingerprint != full.split("database").fingerprint
    cards: dict[str, Any] = {**list_datasets()}
    assert (cards["met"].lengths["database"], cards["met_mini"].lengths["database"]) == (397_121, 38_307)
    with pytest.raises(DataError, match="met/database: 5 items, expected 397121"):
        open_dataset("met", DatasetOptions(data_root=tmp_path)).split("database")
    with pytest.raises(ConfigError, match="met takes nothing behind a colon, got 'mini'"):
        open_dataset("met:mini", DatasetOptions(data_root=tmp_path))


def test_a_limit_keeps_the_database_whole(tmp_path: Path, paint: Paint, open_reduced: Open) -> None:
    copied(tmp_path / "met", paint)
    assert open_reduced("met", 0, LENGTHS).limited(1).card.lengths == {"database": 5, "val": 1, "test": 1}


@pytest.mark.parametrize(
    ("split", "content", "says"),
    [
        ("test", {"images": []}, "testset.json: expected a list of images; fetch"),
        ("test", ["x"], "testset.json: image 0 has no path"),
        ("val", [{"MET_id": 34}], "valset.json: image 0 has no path"),
        ("val", [{"path": 5}], "valset.json: image 0 has no path"),
        ("val", [{"path": "/etc/hostname"}], "image 0: '/etc/hostname' leads out of images/; fetch"),
        ("val", [{"path": "MET/../../x.png"}], "image 0: 'MET/../../x.png' leads out of images/"),
        ("val", [{"path": "MET\\..\\x.png"}], "leads out of images/"),
        ("test", [{"path": "test_met/e.png", "MET_id": "x"}], "image 0: MET_id is 'x', not the number"),
        ("test", [{"path": "test_met/e.png", "MET_id": None}], "image 0: MET_id is None, not the number"),
        ("test", [{"path": "test_met/e.png", "MET_id": True}], "image 0: MET_id is True, not the number"),
        ("database", [{"path": "MET/34/0.png"}], "MET_database.json: image 0: id is None, not the number"),
        ("database", [{"path": "MET/34/0.png", "id": -1}], "image 0: id is -1, not the number of an exhibit"),
        ("database", LISTS["MET_database"][:1] * 2, "MET/34/0.png is listed 2 times; fetch"),
        ("test", [*LISTS["testset"][:3], {"path": "test_met/missing.png"}], "missing.png: No such file"),
        ("test", LISTS["testset"][:3], "met/test: 3 items, expected 4"),
    ],
    ids=str,
)
def test_another_list_is_refused_in_one_line(
    tmp_path: Path, paint: Paint, open_reduced: Open, split: str, content: Any, says: str
) -> None:
    name = {"database": "MET_database", "val": "valset", "test": "testset"}[split]
    copied(tmp_path / "met", paint, **{name: content})
    with pytest.raises(DataError) as caught:
        open_reduced("met", 0, LENGTHS).split(split)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_lists_that_are_cut_short_or_absent_are_named(
    tmp_path: Path, paint: Paint, open_reduced: Open
) -> None:
    table = copied(tmp_path / "met", paint) / "ground_truth" / "testset.json"
    table.write_text(table.read_text()[:40])
    with pytest.raises(DataError, match=r"testset\.json: not a whole JSON file"):
        open_reduced("met", 0, LENGTHS).split("test")
    table.unlink()
    with pytest.raises(DataError, match=r"testset\.json: no such file"):
        open_reduced("met", 0, LENGTHS).split("test")


def test_a_model_is_measured_on_it_from_files_to_scores(
    tmp_path: Path, paint: Paint, open_reduced: Open
) -> None:
    copied(tmp_path / "met", paint)
    settings = {"size": 32, "whitening": "none", "ks": (1, 2)}
    job = make_job("instance_recognition", "met", open_reduced("met", 0, LENGTHS), settings, None)
    context = Context(cache=tmp_path / "cache", progress=False)
    (result,) = measure(load("pixels"), [job], context, tmp_path / "results")
    assert {name: score.n for name, score in result.metrics.items()} == {"gap": 4, "gap_minus": 4, "top1": 4}
    assert set(result.data["fingerprints"]) == {"met/database", "met/val", "met/test"}
    stored = read_samples(result)
    assert list(stored.ids) == [row["path"] for row in LISTS["testset"]]
    assert stored["known"].tolist() == [False, True, True, False]
    assert np.isnan(stored["confidence_known"][:, 0]).tolist() == [True, False, False, True]
    for name, score in result.metrics.items():
        assert Metric(name, statistic_from(score.statistic)).score(stored) == score.value
