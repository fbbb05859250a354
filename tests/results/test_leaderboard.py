import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ssleval.core import Metric, Samples, digest
from ssleval.metrics.intervals import estimates
from ssleval.metrics.recorded import describe
from ssleval.metrics.stats import mean_of
from ssleval.results import Result, Score, leaderboard, ranking, record

N = 400


def store(
    folder: Path,
    model: str,
    right: np.ndarray,
    *,
    fingerprint: str = "f",
    k: int = 20,
    higher: bool = True,
    mean: Sequence[float] = (),
    **settings: object,
) -> Result:
    samples = Samples([str(i) for i in range(len(right))], {"top1": right})
    metric = Metric("top1", mean_of("top1"), higher)
    found = estimates([metric], samples)["top1"]
    interval = found.low, found.high
    score = Score(found.value, interval, len(right), "fraction", higher, describe(metric.statistic))
    usual = {"precision": "fp32", "seed": 0, "limit": None, "skip_corrupt": False}
    made = Result(
        model=model,
        task="knn",
        dataset="digits",
        key=digest([model, fingerprint, k, settings, *mean]),
        metrics={"top1": score},
        protocol={"k": k, "version": 1},
        backbone={
            "name": model,
            "supervision": "self",
            "parameters": 5.5,
            "image_size": 224,
            "mean": list(mean),
        },
        data={"name": "digits", "test_split": "test", "fingerprints": {"digits/test": fingerprint}},
        weights_sha256=str(settings.pop("weights", "0" * 64)),
        settings={**usual, **settings},
        created="2026-01-01T00:00:00",
    )
    return record.write(folder, made, samples)


def right(accuracy: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(N) < accuracy


def test_models_the_samples_cannot_separate_share_a_rank(tmp_path: Path) -> None:
    store(tmp_path, "weak", right(0.3))
    store(tmp_path, "good", right(0.80, seed=1))
    store(tmp_path, "as-good", right(0.81, seed=2))
    (board,) = ranking.boards(record.read_all(tmp_path))
    assert [(entry.rank, entry.tied) for entry in board.entries] == [(1, True), (1, True), (3, False)]
    assert board.entries[2].label == "weak"
    text = leaderboard.markdown([board])
    assert "| =1 | " in text
    assert "| 3 | weak | 2" in text


def test_samples_are_read_once_for_each_result_and_never_for_one_alone(tmp_path: Path) -> None:
    for seed, accuracy in enumerate((0.2, 0.5, 0.5, 0.8)):
        store(tmp_path, f"m{seed}", right(accuracy, seed))
    store(tmp_path, "alone", right(0.5), k=5)
    read: list[str] = []

    def reader(found: Sequence[Result]) -> list[Samples]:
        read.extend(one.model for one in found)
        return record.read_samples_of(found)

    ranking.boards(record.read_all(tmp_path), reader)
    assert sorted(read) == ["m0", "m1", "m2", "m3"]


@pytest.mark.parametrize("most", [1, 3_000, 1_000_000])
def test_ranks_do_not_depend_on_how_many_samples_are_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    for seed in range(12):
        store(tmp_path, f"m{seed:02d}", right(0.3 + 0.05 * seed, seed))
    want = [entry.rank for entry in ranking.boards(record.read_all(tmp_path))[0].entries]
    monkeypatch.setattr(ranking, "_BYTES_AT_ONCE", most)
    assert [entry.rank for entry in ranking.boards(record.read_all(tmp_path))[0].entries] == want
    assert 1 < len(set(want)) < 12


def test_files_are_read_together_only_while_they_are_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(6):
        store(tmp_path, f"m{seed}", right(0.5, seed))
    sizes: list[int] = []

    def reader(found: Sequence[Result]) -> list[Samples]:
        sizes.append(len(found))
        return record.read_samples_of(found)

    (file, *_) = (path.stat().st_size for path in tmp_path.glob("*/*.arrow"))
    for room, want in ((3 * file + file // 2, [1, 3, 2]), (file // 2, [1] * 6), (100 * file, [1, 5])):
        monkeypatch.setattr(ranking, "_BYTES_AT_ONCE", room)
        sizes.clear()
        ranking.boards(record.read_all(tmp_path), reader)
        assert sizes == want


def test_a_small_but_consistent_difference_is_separated(tmp_path: Path) -> None:
    base = right(0.8)
    better = base.copy()
    better[np.flatnonzero(~base)[:12]] = True
    store(tmp_path, "base", base)
    store(tmp_path, "better", better)
    (board,) = ranking.boards(record.read_all(tmp_path))
    first, second = (entry.result.metrics["top1"] for entry in board.entries)
    assert first.ci95[0] < second.ci95[1], "the intervals alone overlap"
    assert [(entry.label, entry.rank, entry.tied) for entry in board.entries] == [
        ("better", 1, False),
        ("base", 2, False),
    ]


@pytest.mark.parametrize("other", [{"fingerprint": "g"}, {"k": 10}, {"skip_corrupt": True}], ids=str)
def test_only_comparable_results_are_ranked_together(tmp_path: Path, other: dict[str, object]) -> None:
    store(tmp_path, "a", right(0.5))
    store(tmp_path, "b", right(0.6), **other)  # pyright: ignore[reportArgumentType]
    found = ranking.boards(record.read_all(tmp_path))
    assert [len(board.entries) for board in found] == [1, 1]
    wide = pd.DataFrame(leaderboard.wide_rows(found))
    assert len(wide.columns) == 4 + 2, "two boards of one name keep their columns apart"


def test_lower_is_better_where_the_metric_says_so(tmp_path: Path) -> None:
    store(tmp_path, "big-error", right(0.9), higher=False)
    store(tmp_path, "small-error", right(0.1), higher=False)
    (board,) = ranking.boards(record.read_all(tmp_path))
    assert [entry.label for entry in board.entries] == ["small-error", "big-error"]


def test_twins_are_told_apart_by_what_sets_them_apart(tmp_path: Path) -> None:
    store(tmp_path, "m", right(0.5), weights="a" * 64)
    store(tmp_path, "m", right(0.6), weights="b" * 64, precision="bf16")
    (board,) = ranking.boards(record.read_all(tmp_path))
    assert {entry.label for entry in board.entries} == {
        "m (weights aaaaaaaa, precision fp32)",
        "m (weights bbbbbbbb, precision bf16)",
    }


def test_two_normalisations_of_one_checkpoint_are_told_apart(tmp_path: Path) -> None:
    store(tmp_path, "m", right(0.3), mean=[0.5, 0.5, 0.5])
    store(tmp_path, "m", right(0.6), mean=[0.485, 0.456, 0.406])
    (board,) = ranking.boards(record.read_all(tmp_path))
    labels = {entry.label for entry in board.entries}
    assert labels == {"m (mean 0.5, 0.5, 0.5)", "m (mean 0.485, 0.456, 0.406)"}


def test_checkpoints_of_one_name_on_different_boards_have_rows_of_their_own(tmp_path: Path) -> None:
    store(tmp_path, "vit", right(0.5), weights="a" * 64)
    store(tmp_path, "vit", right(0.6), weights="b" * 64, fingerprint="g")
    rows = leaderboard.wide_rows(ranking.boards(record.read_all(tmp_path)))
    assert sorted(str(row["model"]) for row in rows) == ["vit (weights aaaaaaaa)", "vit (weights bbbbbbbb)"]


def test_of_equal_keys_the_newest_counts(tmp_path: Path) -> None:
    old = store(tmp_path, "m", right(0.5))
    new = replace(
        old, created="2026-02-01T00:00:00", metrics={"top1": replace(old.metrics["top1"], value=0.75)}
    )
    (board,) = ranking.boards([new, old])
    assert board.entries[0].result.metrics["top1"].value == 0.75


def test_tables_hold_every_score_and_are_written_whole(tmp_path: Path) -> None:
    stored = store(tmp_path / "results", "m", right(0.5))
    found = ranking.boards([stored])
    (long,), (wide,) = leaderboard.long_rows(found), leaderboard.wide_rows(found)
    assert long["value"] == wide["knn/digits/top1"] == stored.metrics["top1"].value
    assert long["ci95_low"] == stored.metrics["top1"].ci95[0]
    assert long["key"] == stored.key
    paths = leaderboard.write_tables(found, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in paths)


def test_an_empty_folder_makes_empty_tables(tmp_path: Path) -> None:
    assert ranking.boards(record.read_all(tmp_path)) == []
    assert leaderboard.markdown([]) == ""


def test_tables_on_disk_are_those_that_pandas_would_write(tmp_path: Path) -> None:
    store(tmp_path, 'a "quoted", name', right(0.5))
    store(tmp_path, "plain", right(0.8, seed=1))
    store(tmp_path, "plain", right(0.7, seed=2), k=5)
    found = ranking.boards(record.read_all(tmp_path))
    wide, long, _ = leaderboard.write_tables(found, tmp_path / "tables")
    for path, rows in ((wide, leaderboard.wide_rows(found)), (long, leaderboard.long_rows(found))):
        want = pd.DataFrame(rows).to_csv(index=False, float_format="%.6g", lineterminator="\n")
        assert path.read_text(encoding="utf-8") == want


def test_what_is_unknown_is_an_empty_cell_and_beside_it_whole_numbers_stay_whole(tmp_path: Path) -> None:
    odd = replace(store(tmp_path, "odd", right(0.5)), backbone={"name": "odd", "parameters": float("nan")})
    large = store(tmp_path, "large", right(0.8, seed=1), limit=10_000_000)
    found = ranking.boards([odd, large])
    rows = {row["model"]: row for row in leaderboard.records(found)}
    assert json.loads(json.dumps(list(rows.values()), allow_nan=False))
    first, second = rows["large (limit 10000000)"], rows["odd"]
    assert (first["rank"], first["limit"], first["param_count"]) == (1, 10_000_000, 5.5)
    assert (second["rank"], second["limit"], second["param_count"]) == (2, None, None)
    _, long, _ = leaderboard.write_tables(found, tmp_path / "tables")
    lines = list(csv.DictReader(long.read_text(encoding="utf-8").splitlines()))
    assert [(line["limit"], line["param_count"], line["rank"]) for line in lines] == [
        ("10000000", "5.5", "1"),
        ("", "", "2"),
    ]


def test_ranks_need_only_the_columns_of_the_leading_metric(tmp_path: Path) -> None:
    one = store(tmp_path, "m", right(0.5))
    wide = Samples([str(i) for i in range(N)], {"top1": right(0.5), "other": np.zeros(N)})
    one = record.write(tmp_path, one, wide)
    assert set(ranking.headline_samples([one])[0].columns) == {"top1"}


def test_notes_stand_below_the_table_once_with_the_models_they_are_of(tmp_path: Path) -> None:
    for model, note in (("one", "from 8 items"), ("two", "from 8 items"), ("three", "")):
        stored = store(tmp_path, model, right(0.5))
        noted = {"top1": replace(stored.metrics["top1"], note=note)}
        record.write(tmp_path, replace(stored, metrics=noted, path=None), record.read_samples(stored))
    found = ranking.boards(record.read_all(tmp_path))
    text = leaderboard.markdown(found)
    assert text.endswith("|\n\n- top1 of one, two: from 8 items\n")
    rows = {row["model"]: row.get("note") for row in leaderboard.long_rows(found)}
    assert rows == {"one": "from 8 items", "two": "from 8 items", "three": None}
