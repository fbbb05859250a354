"""The committed reference results are what this code gives, and their tables are made from them."""

from pathlib import Path

import pytest

import ssleval
from ssleval import leaderboard
from ssleval.core import Context
from ssleval.results import Result, read_all

RESULTS = Path(__file__).parents[1] / "results"
COMMITTED = read_all(RESULTS)


@pytest.mark.parametrize(
    "stored", COMMITTED, ids=lambda stored: f"{stored.model}-{stored.task}-{stored.dataset}"
)
def test_a_committed_result_is_measured_again_and_agrees(stored: Result, tmp_path: Path) -> None:
    settings = {name: value for name, value in stored.protocol.items() if name != "version"}
    (found,) = ssleval.evaluate(
        stored.model,
        stored.task,
        dataset=stored.dataset,
        settings={stored.task: settings},
        limit=stored.settings["limit"],
        context=Context(cache=tmp_path, progress=False, seed=stored.settings["seed"]),
    )
    assert found.key == stored.key
    for name, score in stored.metrics.items():
        # Another processor may round a feature otherwise and so turn single votes of 500.
        assert found.metrics[name].value == pytest.approx(score.value, abs=0.006), name
        assert found.metrics[name].n == score.n


def test_the_committed_tables_are_those_of_the_committed_results(tmp_path: Path) -> None:
    for path in leaderboard.write_tables(leaderboard.boards(COMMITTED), tmp_path):
        assert path.read_text(encoding="utf-8") == (RESULTS / path.name).read_text(encoding="utf-8")


def test_there_is_a_floor_on_every_board() -> None:
    for board in leaderboard.boards(COMMITTED):
        assert "pixels" in {entry.result.model for entry in board.entries}
