"""Files of results that are none, or not what they say: refused by every command that reads results."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from ssleval.cli.app import app
from ssleval.core import Samples
from ssleval.errors import ConfigError, ContractError, DataError, UnknownNameError
from ssleval.results import record, samplefiles, stored
from ssleval.results.lookup import one_result, stored_results
from tests.core.test_files import full_disk
from tests.results.test_leaderboard import right, store
from tests.results.test_record import SAMPLES, make

Fields = dict[str, Any]


def altered(**fields: Any) -> Callable[[Fields], None]:
    return lambda content: content.update(fields)


def score(**fields: Any) -> Callable[[Fields], None]:
    return lambda content: content["metrics"]["top1"].update(fields)


def without(name: str) -> Callable[[Fields], None]:
    return lambda content: content.pop(name)


def nested(depth: int) -> Fields:
    return {} if depth == 0 else {"x": nested(depth - 1)}


WRONG: dict[str, tuple[Callable[[Fields], None], str]] = {
    "nan": (score(value=float("nan")), "NaN is no finite number"),
    "infinite end": (score(ci95=[0.1, float("inf")]), "Infinity is no finite number"),
    "overflow": (score(value=10**400), "out of range"),
    "percent": (score(value=79.3), "no fraction between 0 and 1"),
    "below zero": (score(value=-0.2), "no fraction between 0 and 1"),
    "swapped ends": (score(ci95=[0.6, 0.4]), "ends before it begins"),
    "no items": (score(n=0), ">= 1"),
    "half an item": (score(n=0.5), "Expected int"),
    "text": (score(value="0.5"), "Expected float, got str"),
    "truth": (score(value=True), "Expected float, got bool"),
    "one end": (score(ci95=[0.1]), "length 2"),
    "no metrics": (altered(metrics={}), "length >= 1"),
    "metrics in a list": (altered(metrics=[1]), "Expected object"),
    "no value": (lambda content: content["metrics"]["top1"].pop("value"), "missing value"),
    "columns in a list": (score(statistic={"name": "mean_of", "columns": ["top1"]}), "statistic"),
    "no model": (without("model"), "missing model"),
    "no settings": (without("settings"), "the field settings is missing"),
    "no schema": (without("schema"), "missing schema"),
    "schema 0": (altered(schema=0), ">= 1"),
    "schema 2": (altered(schema=2, metrics="moved"), "upgrade it"),
    "schema as text": (altered(schema="1"), "Expected int"),
    "schema true": (altered(schema=True), "Expected int"),
    "seed as text": (altered(settings={"seed": "zero"}), "settings: "),
    "fingerprints": (altered(data={"fingerprints": ["a"]}), "data: "),
    "parameters": (altered(backbone={"parameters": "many"}), "backbone: "),
    "weights": (altered(backbone={"weights": ["a"]}), "backbone: "),
    "infinite timing": (altered(timings={"evaluate_seconds": float("inf")}), "no finite number"),
    "deep": (altered(protocol=nested(60)), "nested too deeply"),
    "deep in a statistic": (score(statistic={"name": nested(60)}), "statistic"),
    "another key": (altered(key="f" * 64), "belongs into knn-digits-ffffffffffff.json"),
    "another dataset": (altered(dataset="cifar10"), "belongs into knn-cifar10-"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_field_that_cannot_be_is_refused_with_the_file_and_the_reason(case: str, tmp_path: Path) -> None:
    (path,) = [store(tmp_path, "m", right(0.5)).path]
    assert path is not None
    content = json.loads(path.read_text(encoding="utf-8"))
    change, reason = WRONG[case]
    change(content)
    for indent in (1, None):
        path.write_text(json.dumps(content, indent=indent), encoding="utf-8")
        with pytest.raises(DataError, match=rf"{path.name} is no result file .*--force") as error:
            record.read(path)
        assert reason in str(error.value)


TEXTS: dict[str, Callable[[str], str]] = {
    "twice": lambda text: text.replace('"model":', '"model": "other",\n "model":'),
    "twice inside": lambda text: text.replace('"value":', '"value": 1.0, "value":'),
    "twice in a shared field": lambda text: text.replace('"k":', '"k": 1, "k":'),
    "1e999": lambda text: text.replace('"k": 20', '"k": 1e999'),
    "many digits": lambda text: text.replace('"k": 20', f'"k": {"9" * 5000}'),
    "brackets": lambda text: text.replace('"k": 20', f'"k": {"[" * 100_000}{"]" * 100_000}'),
    "brackets alone": lambda _: "[" * 200_000,
    "without its end": lambda text: text.rstrip().removesuffix("}"),
    "half": lambda text: text[: len(text) // 2],
    "two": lambda text: text + text,
    "byte order mark": lambda text: "\ufeff" + text,
    "list": lambda text: f"[{text}]",
    "empty": lambda _: "",
}  # fmt: skip


@pytest.mark.parametrize("case", TEXTS)
def test_a_text_that_is_no_one_result_is_refused(case: str, tmp_path: Path) -> None:
    path = store(tmp_path, "m", right(0.5)).path
    assert path is not None
    path.write_text(TEXTS[case](path.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(DataError, match="is no result file"):
        record.read(path)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = store(tmp_path, "m", right(0.5)).path
    assert path is not None
    whole = path.read_bytes().rstrip()
    for length in range(len(whole)):
        with pytest.raises(ValueError, match=r"."):
            stored.fields_in(whole[:length])


def test_a_file_that_is_too_large_is_never_opened(tmp_path: Path) -> None:
    path = tmp_path / "m" / "x.json"
    path.parent.mkdir()
    with path.open("wb") as file:
        file.truncate(50_000_000_000)
    with pytest.raises(DataError, match="50,000,000,000 bytes, more than 16,000,000"):
        record.read_all(tmp_path)


SPECIAL: dict[str, Callable[[Path], Any]] = {
    "folder": Path.mkdir,
    "fifo": os.mkfifo,
    "dangling link": lambda path: path.symlink_to("none"),
    "loop": lambda path: path.symlink_to(path),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "not text": lambda path: path.write_bytes(b"\xff\x00"),
}  # fmt: skip


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("command", ["leaderboard", "report", "verify", "compare"])
def test_every_command_refuses_what_is_no_file_and_names_it(kind: str, command: str, tmp_path: Path) -> None:
    store(tmp_path, "m", right(0.5))
    SPECIAL[kind](tmp_path / "m" / "bad.json")
    asked = {
        "leaderboard": [str(tmp_path)],
        "report": ["--results", str(tmp_path), "--out", str(tmp_path / "r.html")],
        "verify": ["--results", str(tmp_path)],
        "compare": [str(tmp_path / "m"), str(tmp_path / "m")],
    }[command]  # fmt: skip
    done = CliRunner().invoke(app, [command, *asked])
    assert isinstance(done.exception, DataError)
    assert "bad.json is no result file" in str(done.exception)
    assert not done.stdout
    assert not (tmp_path / "r.html").exists()


def test_all_bad_files_are_counted_and_hidden_ones_are_no_results(tmp_path: Path) -> None:
    store(tmp_path, "m", right(0.5))
    (tmp_path / "m" / "._knn.json").write_bytes(b"\x00\x05")
    assert len(record.read_all(tmp_path)) == 1
    for name in "abc":
        (tmp_path / "m" / f"{name}.json").write_text("{")
    with pytest.raises(DataError, match=r"a\.json is no result file .* \(2 other files likewise\)"):
        record.read_all(tmp_path)


def test_a_folder_that_cannot_be_listed_hides_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = store(tmp_path, "m", right(0.5)).path
    assert path is not None
    scandir = os.scandir

    def denied(folder: Any) -> Any:
        if str(folder) == str(path.parent):
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(DataError, match="m: Permission denied; nothing of"):
        record.read_all(tmp_path)


def test_a_file_in_place_of_the_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("")
    with pytest.raises(DataError, match="is a file; name the folder"):
        record.read_all(tmp_path / "results")


@pytest.mark.parametrize("name", ["none.json", "./none", "../none/m", "/none", "some/folder"])
def test_a_path_that_is_missing_is_no_unknown_model(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="no such file or folder"):
        stored_results(name, tmp_path)


def test_a_file_that_a_user_renames_says_nothing_by_its_name(tmp_path: Path) -> None:
    one = store(tmp_path, "m", right(0.5))
    assert one.path is not None
    one.path.with_suffix(".arrow").rename(one.path.with_name("baseline.arrow"))
    moved = record.read(one.path.rename(one.path.with_name("baseline.json")))
    assert moved.key == one.key
    assert len(record.read_samples(moved)) == 400


def _renamed(content: Fields) -> None:
    content["metrics"] = {"other": content["metrics"]["top1"]}


@pytest.mark.parametrize(
    "change",
    [
        _renamed,
        score(unit="percent", value=79.3),
        score(higher_is_better=False),
        score(statistic={"name": "mean_of", "columns": {"column": "top5"}}),
    ],
)
@pytest.mark.parametrize("command", ["leaderboard", "compare"])
def test_what_is_measured_alike_but_scored_otherwise_is_never_ranked_together(
    change: Callable[[Fields], None], command: str, tmp_path: Path
) -> None:
    store(tmp_path, "a", right(0.9))
    path = store(tmp_path, "b", right(0.5)).path
    assert path is not None
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    asked = {"leaderboard": [str(tmp_path)], "compare": ["a", "b", "--results", str(tmp_path)]}[command]
    done = CliRunner().invoke(app, [command, *asked])
    assert isinstance(done.exception, DataError)
    assert path.name in str(done.exception)


def test_a_full_disk_names_the_file_and_keeps_what_was_there(tmp_path: Path) -> None:
    one = store(tmp_path / "results", "m", right(0.5))
    out, page = tmp_path / "tables", tmp_path / "report.html"
    commands = {
        "leaderboard_long.csv": ["leaderboard", str(tmp_path / "results"), "--out", str(out)],
        "report.html": ["report", "--results", str(tmp_path / "results"), "--out", str(page)],
    }
    for command in commands.values():
        assert CliRunner().invoke(app, command).exit_code == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    with full_disk(350):
        for name, command in commands.items():
            error = CliRunner().invoke(app, command).exception
            assert isinstance(error, OSError)
            assert str(error.filename).endswith(name)
        with pytest.raises(OSError, match=r"not written: .*\.arrow"):
            record.write(tmp_path / "results", one, record.read_samples(one))
    long, samples = replace(one, protocol={"x": "x" * 50_000}), record.read_samples(one)
    with full_disk(20_000), pytest.raises(OSError, match=r"not written: .*\.json"):
        record.write(tmp_path / "results", long, samples)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()} == before


@pytest.mark.parametrize("kind", ["folder", "fifo", "device"])
def test_no_command_replaces_what_is_no_regular_file(kind: str, tmp_path: Path) -> None:
    store(tmp_path / "results", "m", right(0.5))
    (tmp_path / "out").mkdir()
    for name, command in {
        "r.html": [
            "report",
            "--results",
            str(tmp_path / "results"),
            "--out",
            str(tmp_path / "out" / "r.html"),
        ],
        "leaderboard.csv": ["leaderboard", str(tmp_path / "results"), "--out", str(tmp_path / "out")],
    }.items():
        path = tmp_path / "out" / name
        SPECIAL[kind](path)
        before = path.lstat().st_ino
        error = CliRunner().invoke(app, command).exception
        assert isinstance(error, OSError)
        assert "not written: it is" in str(error)
        assert path.lstat().st_ino == before


# Samples ------------------------------------------------------------------------------------------


def test_samples_of_another_result_are_refused_with_or_without_a_hash(tmp_path: Path) -> None:
    one, other = store(tmp_path, "one", right(0.5)), store(tmp_path, "other", right(0.6))
    assert one.path is not None
    assert other.path is not None
    one.path.with_suffix(".arrow").write_bytes(other.path.with_suffix(".arrow").read_bytes())
    with pytest.raises(DataError, match=r"knn-digits-.*\.arrow: .*its sha256 is another"):
        record.read_samples(one)
    forget_hash(one.path)
    with pytest.raises(DataError, match="samples of another result: their top1 is"):
        record.read_samples(record.read(one.path))


def forget_hash(path: Path) -> None:
    """Make a result one of an earlier version."""
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["samples_sha256"]
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def test_rows_in_another_order_are_refused_although_they_give_the_score(tmp_path: Path) -> None:
    one = store(tmp_path, "m", right(0.5))
    assert one.path is not None
    samples = record.read_samples(one)
    order = np.random.default_rng(0).permutation(len(samples))
    samplefiles.save(one.path.with_suffix(".arrow"), Samples(samples.ids, {"top1": samples["top1"][order]}))
    with pytest.raises(DataError, match="its sha256 is another"):
        record.read_samples(one)


@pytest.mark.parametrize("turn", range(12))
def test_a_bit_that_flips_is_noticed(turn: int, tmp_path: Path) -> None:
    one = store(tmp_path, "m", right(0.5))
    assert one.path is not None
    path = one.path.with_suffix(".arrow")
    content = bytearray(path.read_bytes())
    content[len(content) * turn // 12] ^= 1 << turn % 8
    path.write_bytes(content)
    with pytest.raises(DataError, match=path.name):
        record.read_samples(one)


IDS = pa.array([str(row) for row in range(400)])
HALF = pa.array([True, False] * 200)
FILES = {
    "shorter": {"id": IDS[:100], "top1": pa.array([True, False] * 50)},
    "without the column": {"id": IDS, "other": pa.array([1.0] * 400)},
    "texts": {"id": IDS, "top1": pa.array(["x"] * 400)},
    "numbers as ids": {"id": pa.array(range(400)), "top1": HALF},
    "an id that is missing": {"id": pa.array([None, *IDS.to_pylist()[1:]]), "top1": HALF},
    "without ids": {"top1": HALF},
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_samples_that_cannot_be_those_of_an_older_result_are_refused(case: str, tmp_path: Path) -> None:
    one = store(tmp_path, "m", np.arange(400) % 2 == 0)
    assert one.path is not None
    forget_hash(one.path)
    path, batch = one.path.with_suffix(".arrow"), pa.record_batch(FILES[case])
    with pa.ipc.new_file(str(path), batch.schema) as file:
        file.write_batch(batch)
    with pytest.raises(DataError, match=path.name):
        record.read_samples(record.read(one.path))


@pytest.mark.parametrize("kind", ["folder", "fifo", "device"])
def test_samples_that_are_no_file_are_refused(kind: str, tmp_path: Path) -> None:
    one = store(tmp_path, "m", right(0.5))
    assert one.path is not None
    path = one.path.with_suffix(".arrow")
    path.unlink()
    SPECIAL[kind](path)
    with pytest.raises(DataError, match=path.name):
        record.read_samples(one)


def test_a_fraction_beyond_one_is_never_stored(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"top1@20 is 50\.0 .*no fraction.*nothing is stored"):
        record.write(tmp_path, make(value=50.0), SAMPLES)
    assert not list(tmp_path.rglob("*.*"))


def test_one_result_is_named_by_task_and_dataset(tmp_path: Path) -> None:
    committed = Path(__file__).parents[2] / "results" / "dino_scenes"
    found = one_result(str(committed), tmp_path, task="knn", dataset="digits")
    assert (found.task, found.dataset) == ("knn", "digits")
    with pytest.raises(ConfigError, match=r"knn on caltech101, knn on digits.*--task and --dataset"):
        one_result(str(committed), tmp_path, task="knn", dataset=None)
    with pytest.raises(ConfigError, match="all fit; name one of these files"):
        one_result(str(committed.parent / "pixels"), tmp_path, task="knn", dataset="digits")
