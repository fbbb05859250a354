"""Several processes behave like one: the same outcomes, in the same order, errors included."""

import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ssleval.backbones.zoo import load
from ssleval.checks.gate.measuring import Gate, run_gate
from ssleval.checks.gate.verdicts import Verdict
from ssleval.core import Context, Dataset
from ssleval.datasets.catalog import open_dataset
from ssleval.errors import SslevalError, WeightsError
from ssleval.features import PeerError, current_shard
from ssleval.features.shard import Shard
from ssleval.results import Result, read_all
from ssleval.run import sweep as sweeping
from ssleval.run.sweep import Sweep, sweep
from ssleval.tasks.knn import Knn
from tests.features.rank_threads import in_ranks

HOST = socket.gethostname()
SETTINGS = ("knn.ks=5",)


def said(outcome: Result | SslevalError) -> tuple[str, ...]:
    if isinstance(outcome, Result):
        return outcome.task, outcome.key, str(outcome.metrics)
    return type(outcome).__name__, str(outcome)


@pytest.fixture
def swept(tmp_path: Path) -> Callable[..., list[Any]]:
    """Sweep in so many ranks; each has a folder for results of its own, as on machines that share none."""

    def run(world: int, *, datasets: str = "digits", models: str = "pixels", **more: Any) -> list[Any]:
        def work(shard: Shard) -> list[tuple[str, ...]]:
            context = Context(cache=tmp_path / f"cache{world}", batch_size=8, progress=False)
            changes: dict[str, Any] = {"limit": 40, "settings": SETTINGS, "tasks": "knn,spectrum", **more}
            stated: dict[str, Any] = {
                name: value(shard) if callable(value) else value for name, value in changes.items()
            }
            folder = tmp_path / f"results{world}-{shard.rank}"
            asked = Sweep(models, datasets=datasets, **stated)
            return [said(outcome) for outcome in sweep(asked, context, folder, note=lambda _: None)]

        return in_ranks(world, work)

    return run


def limited(shard: Shard) -> int:
    return 40 + shard.rank


def other_task(shard: Shard) -> str:
    return ("knn", "spectrum")[shard.rank]


def folder_of_photos(where: Path, *, broken: str = "") -> str:
    """Ten photographs of two classes, in two splits."""
    from PIL import Image

    for number in range(20):
        path = where / ("train" if number < 10 else "test") / "ab"[number % 2] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (9 * number, 99, 7 * number)).save(path)
        if broken == path.name:
            path.write_bytes(path.read_bytes()[:60])
    return f"folder:{where}"


def test_all_ranks_have_the_results_of_one_and_the_first_stores_them(
    swept: Callable[..., list[Any]], tmp_path: Path
) -> None:
    (alone,) = swept(1)
    assert [line[0] for line in alone] == ["knn", "spectrum"]
    assert swept(2) == [alone, alone]
    assert len(read_all(tmp_path / "results2-0")) == 2
    assert not (tmp_path / "results2-1").exists()
    # Read back from where the first has them.
    assert swept(2) == [alone, alone]


def test_what_one_rank_meets_ends_that_dataset_and_not_the_sweep(
    swept: Callable[..., list[Any]], tmp_path: Path
) -> None:
    """Of ten images in batches of eight, the second batch of the test split is that of rank 1."""
    photos = folder_of_photos(tmp_path / "photos", broken="19.png")
    (alone,) = swept(1, datasets=f"{photos},digits")
    assert [line[0] for line in alone] == ["DataError", "DataError", "knn", "spectrum"]
    first, second = swept(2, datasets=f"{photos},digits")
    assert second == first
    assert first[2:] == alone[2:]
    assert [line[1].removeprefix(f"rank 1 on {HOST}: ") for line in first[:2]] == [
        line[1] for line in alone[:2]
    ]


def test_a_model_that_one_rank_cannot_load_is_left_out_by_all(
    swept: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(name: str, **more: Any) -> Any:
        if name == "random:vit_tiny" and current_shard().rank == 1:
            raise WeightsError("random.pth: no such file")
        return load(name, **more)

    monkeypatch.setattr(sweeping, "load", loaded)
    first, second = swept(2, models="random:vit_tiny,pixels")
    assert first == second
    assert first[0] == ("WeightsError", f"rank 1 on {HOST}: random.pth: no such file")
    assert [line[0] for line in first[1:]] == ["knn", "spectrum"]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"limit": limited}, "options: rank 1 on {host} has limit 41, rank 0 has 40"),
        (
            {"tasks": other_task},
            "options: rank 1 on {host} has tasks spectrum",
        ),
        ({"tasks": "knm", "settings": ()}, "no task 'knm'; did you mean knn?"),
    ],
)
def test_other_options_are_one_line_in_all(
    swept: Callable[..., list[Any]], change: dict[str, Any], line: str
) -> None:
    errors = swept(2, **change)
    assert all(isinstance(error, SslevalError) for error in errors)
    assert all(str(error).startswith(line.format(host=HOST)) for error in errors)
    assert [vars(error)["silent"] for error in errors] == [False, True]


def test_other_data_under_one_name_is_one_line(
    swept: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(name: str, options: Any) -> Dataset:
        digits, rank = open_dataset(name, options), current_shard().rank
        return Dataset(digits.card, lambda name: replace(digits.split(name), fingerprint=f"of {rank}"))

    monkeypatch.setattr(sweeping, "open_dataset", opened)
    first, second = swept(2, limit=None)
    assert first == second
    line = f"pixels, knn on digits: rank 1 on {HOST} has digits/test of 1, rank 0 has of 0"
    assert first[0][1].startswith(line)


def test_an_error_of_the_evaluation_is_met_by_all_and_a_fault_ends_them(
    swept: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> Any:
        raise SslevalError("no memory for so many neighbours")

    monkeypatch.setattr(Knn, "evaluate", refused)
    first, second = swept(2)
    assert first == second
    assert [line[0] for line in first] == ["SslevalError", "spectrum"]
    monkeypatch.setattr(Knn, "evaluate", int)
    own, other = swept(2, limit=32)
    assert isinstance(own, TypeError)
    assert isinstance(other, PeerError)


def test_the_gate_gives_all_ranks_one_verdict(tmp_path: Path) -> None:
    suite = tmp_path / "suite.yaml"
    suite.write_text("measurements:\n  - {task: knn, dataset: digits, margin: 0.02, settings: {ks: [5]}}\n")

    def work(shard: Shard) -> list[Verdict]:
        context = Context(cache=tmp_path / "cache", batch_size=8, progress=False)
        gate = Gate(Sweep("", suite=str(suite), limit=40), "pixels", "pixels", seeds=1)
        return run_gate(gate, context, tmp_path / f"results{shard.rank}", note=lambda _: None)

    first, second = in_ranks(2, work)
    assert first == second
    assert isinstance(first, list)
    assert [verdict.outcome for verdict in first] == ["pass"]
    assert not (tmp_path / "results1").exists()
