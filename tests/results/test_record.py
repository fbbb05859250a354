import json
import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ssleval.core import Samples
from ssleval.errors import ContractError, DataError
from ssleval.results import Result, Score, record
from tests.results.test_samplefiles import assert_same


def make(model: str = "dino_vits16", value: float = 0.5, key: str = "a" * 64) -> Result:
    return Result(
        model=model,
        task="knn",
        dataset="folder:/some where/x",
        key=key,
        metrics={"top1@20": Score(value, (0.4, 0.6), 3)},
        protocol={"ks": [20], "version": 1},
        backbone={"name": model, "supervision": "self"},
        data={"name": "x", "test_split": "test", "fingerprints": {"x/test": "f"}},
        weights_sha256="0" * 64,
        settings={"precision": "fp32", "seed": 0, "limit": None, "skip_corrupt": False},
    )


SAMPLES = Samples(
    ["a", "b", "ü/c.png"],
    {
        "top1@20": np.array([True, False, True]),
        "label": np.array([0, 1, 2]),
        "overlap": np.arange(12, dtype=np.float32).reshape(3, 4),
        "grid": np.arange(24, dtype=np.float64).reshape(3, 2, 4),
    },
)


def test_a_result_and_its_samples_come_back_as_they_were(tmp_path: Path) -> None:
    stored = record.write(tmp_path, make(), SAMPLES)
    assert record.read_all(tmp_path) == [stored]
    assert_same(record.read_samples(stored), SAMPLES)


def test_a_note_is_kept_and_absent_in_files_of_earlier_versions(tmp_path: Path) -> None:
    score = Score(0.5, (0.4, 0.6), 3, note="from 3 items")
    stored = record.write(tmp_path, replace(make(), metrics={"top1": score}), SAMPLES)
    assert stored.path is not None
    assert stored.metrics["top1"] == score
    content = json.loads(stored.path.read_text())
    del content["metrics"]["top1"]["note"]
    stored.path.write_text(json.dumps(content))
    assert record.read(stored.path).metrics["top1"] == replace(score, note="")


def test_find_needs_the_whole_key(tmp_path: Path) -> None:
    record.write(tmp_path, make(), SAMPLES)
    name = ("dino_vits16", "knn", "folder:/some where/x")
    found = record.find(tmp_path, *name, "a" * 64)
    assert found is not None
    assert found.cached
    assert record.find(tmp_path, *name, "a" * 63 + "b") is None
    assert record.find(tmp_path, *name, "c" * 64) is None


def test_the_file_is_json_with_the_documented_fields(tmp_path: Path) -> None:
    stored = record.write(tmp_path, make(), SAMPLES)
    assert stored.path is not None
    content = json.loads(stored.path.read_text())
    assert content["schema"] == 1
    assert content["metrics"]["top1@20"]["ci95"] == [0.4, 0.6]
    assert "path" not in content
    assert "cached" not in content


def test_a_field_added_later_is_ignored_and_a_newer_schema_refused(tmp_path: Path) -> None:
    stored = record.write(tmp_path, make(), SAMPLES)
    assert stored.path is not None
    content = json.loads(stored.path.read_text())
    stored.path.write_text(json.dumps({**content, "added_in_2030": 1}))
    assert record.read(stored.path) == stored
    stored.path.write_text(json.dumps({**content, "schema": 2}))
    with pytest.raises(DataError, match="schema 2"):
        record.read(stored.path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 1}', "null"])
def test_a_file_that_is_no_result_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "x.json"
    file.write_text(text)
    with pytest.raises(DataError, match=r"x\.json is no result file"):
        record.read(file)


def test_a_score_that_is_no_number_is_never_stored(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="top1@20 is nan"):
        record.write(tmp_path, make(value=float("nan")), SAMPLES)
    assert not list(tmp_path.rglob("*.*"))


def test_missing_samples_are_a_line_that_says_what_to_do(tmp_path: Path) -> None:
    stored = record.write(tmp_path, make(), SAMPLES)
    assert stored.path is not None
    stored.path.with_suffix(".arrow").unlink()
    with pytest.raises(DataError, match="--force"):
        record.read_samples(stored)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no results folder"):
        record.read_all(tmp_path / "none")


def test_names_that_differ_only_in_odd_characters_do_not_collide(tmp_path: Path) -> None:
    first = record.write(tmp_path, make(key="a" * 64), SAMPLES)
    second = record.write(tmp_path, replace(make(key="b" * 64), dataset="folder:/some_where/x"), SAMPLES)
    assert first.path != second.path


def test_rows_are_flat() -> None:
    row = make().to_row()
    assert (row["top1@20"], row["top1@20_low"], row["top1@20_high"], row["top1@20_n"]) == (0.5, 0.4, 0.6, 3)


def _write_forever(folder: str) -> None:
    wide = Samples([str(i) for i in range(20000)], {"x": np.random.default_rng(0).normal(size=(20000, 8))})
    for index in range(10**6):
        made = replace(make(key=f"{index % 7:064x}"), metrics={"top1": Score(0.5, (0.4, 0.6), 20000)})
        record.write(Path(folder), made, wide)


def test_killed_at_any_instant_the_folder_holds_only_whole_results(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    for wait in (0.05, 0.11, 0.23):
        writer = spawn.Process(target=_write_forever, args=(str(tmp_path),))
        writer.start()
        while not list(tmp_path.glob("*/*.json")):
            assert writer.is_alive()
        writer.join(wait)
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        found = record.read_all(tmp_path)
        assert found
        for one in found:
            assert len(record.read_samples(one)) == 20000


def test_what_results_share_is_held_once(tmp_path: Path) -> None:
    one, two = (record.write(tmp_path, make(key=key * 64), SAMPLES) for key in "ab")
    assert one.key != two.key
    for name in ("backbone", "data", "protocol", "settings"):
        assert getattr(one, name) is getattr(two, name)
    assert record.read_samples(one).ids is record.read_samples(two).ids
    other = record.write(tmp_path, make("other", key="c" * 64), SAMPLES)
    assert other.backbone == {"name": "other", "supervision": "self"}


HOSTILE = '\n "key": "b",\n "x'
"""Text in which a field seems to begin."""


@pytest.mark.parametrize("indent", [None, 0, 1, 2, "\t"])
@pytest.mark.parametrize("model", ["m", HOSTILE, "}", "", ",\n"])
def test_a_file_reads_the_same_however_it_is_indented(
    tmp_path: Path, indent: int | str | None, model: str
) -> None:
    stored = record.write(tmp_path, make(model), SAMPLES)
    assert stored.path is not None
    assert stored.model == model
    content = json.loads(stored.path.read_text(encoding="utf-8"))
    for ensure_ascii in (True, False):
        text = json.dumps(content, indent=indent, ensure_ascii=ensure_ascii)
        stored.path.write_text(text, encoding="utf-8")
        assert record.read(stored.path) == stored


def test_only_the_columns_asked_for_are_read(tmp_path: Path) -> None:
    stored = record.write(tmp_path, make(), SAMPLES)
    found = record.read_samples(stored, ["grid", "absent"])
    assert set(found.columns) == {"grid"}
    np.testing.assert_array_equal(found["grid"], SAMPLES["grid"])
    assert list(found.ids) == list(SAMPLES.ids)


def test_a_result_measured_again_leaves_no_samples_of_an_earlier_version(tmp_path: Path) -> None:
    stored = record.write(tmp_path, make(), SAMPLES)
    assert stored.path is not None
    older = stored.path.with_suffix(".parquet")
    older.touch()
    record.write(tmp_path, make(), SAMPLES)
    assert not older.exists()


def test_results_that_may_be_compared_are_grouped_whether_or_not_they_share_their_parts(
    tmp_path: Path,
) -> None:
    kinds = [make(key=key * 64) for key in "abcde"]
    kinds[1] = replace(kinds[1], protocol={"ks": [5], "version": 1})
    kinds[3] = replace(kinds[3], settings={**kinds[3].settings, "skip_corrupt": True})
    kinds[4] = replace(kinds[4], data={**kinds[4].data, "fingerprints": {"x/test": "g"}})
    stored = [record.write(tmp_path, one, SAMPLES) for one in kinds]
    for found in (kinds, stored):
        groups = record.by_comparable(found)
        assert [[one.key[0] for one in group] for group in groups.values()] == [
            ["a", "c"],
            ["b"],
            ["d"],
            ["e"],
        ]
        assert all(record.comparable(one) == digest for digest, group in groups.items() for one in group)
