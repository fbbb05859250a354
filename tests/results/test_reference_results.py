"""The committed reference results are what this code gives, and their tables are made from them."""

import json
from pathlib import Path
from typing import Any

import pytest

import ssleval
from ssleval.core import Context, DatasetCard, digest
from ssleval.datasets.catalog import list_datasets
from ssleval.datasets.scenes.store import VERSION, golden
from ssleval.results import Result, leaderboard, matrix, ranking, read_all
from ssleval.results.overall import overall
from ssleval.run.suiteboards import boards_of

RESULTS = Path(__file__).parents[2] / "results"
COMMITTED = read_all(RESULTS)
KNN = ("knn", "scenes")
RENDERED = [stored for stored in COMMITTED if stored.dataset.partition(":")[0] == "scenes"]
"""Minutes to render and measure: what is checked is that they are of the pixels this code renders."""


REAL = [stored for stored in COMMITTED if stored.dataset not in {"digits", "scenes"}]
"""Their images and weights do not come with the package: docs/board.md says where they are."""


def measured_again() -> list[Any]:
    """The results on images that come with a library; of a large network it takes a minute."""
    return [
        pytest.param(
            stored,
            marks=[pytest.mark.slow] if stored.model == "random:vit_tiny" else [],
            id=f"{stored.model}-{stored.task}-{stored.dataset}",
        )
        for stored in COMMITTED
        if stored not in (*RENDERED, *REAL)
    ]


@pytest.mark.parametrize("stored", measured_again())
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


@pytest.mark.parametrize("stored", RENDERED, ids=lambda stored: f"{stored.model}-{stored.task}")
def test_a_committed_result_on_scenes_is_of_this_version_of_its_pixels(stored: Result) -> None:
    target = stored.dataset.partition(":")[2]
    for name, fingerprint in stored.data["fingerprints"].items():
        split = name.partition("/")[2]
        assert fingerprint == digest([VERSION, split, golden()[split], target])


def test_results_of_real_networks_are_of_the_published_images_and_say_which_weights() -> None:
    cards = list_datasets()
    page = (RESULTS.parent / "docs" / "board.md").read_text(encoding="utf-8")
    for stored in REAL:
        card = cards.get(stored.dataset)
        if isinstance(card, DatasetCard):
            assert stored.data["lengths"] == dict(card.lengths)
        assert stored.settings["limit"] is None
        assert not stored.timings.get("images_per_second")
        assert stored.model in page
        assert stored.weights_sha256[:12] in page
    assert len({stored.model for stored in REAL}) == 7


def test_the_board_of_real_networks_is_on_its_page() -> None:
    lines, _ = boards_of("board", ranking.boards(COMMITTED))
    assert all(len(found) == 1 for found in lines.values())
    found = overall([board for (board,) in lines.values()])
    page = (RESULTS.parent / "docs" / "board.md").read_text(encoding="utf-8")
    assert matrix.markdown(found).strip() in page


def test_scenes_is_hard_for_pixels_and_untrained_networks_and_easy_for_labels() -> None:
    floors = {
        stored.model: stored.metrics["top1@20"] for stored in RENDERED if (stored.task, stored.dataset) == KNN
    }
    assert {"pixels", "random:vit_tiny"} <= set(floors)
    assert max(floors[name].ci95[1] for name in ("pixels", "random:vit_tiny")) < 0.40
    headroom = json.loads((RESULTS / "scenes_headroom.json").read_text(encoding="utf-8"))
    assert headroom["dataset"] == VERSION
    assert headroom["top1"] >= 0.90


def test_the_committed_tables_are_those_of_the_committed_results(tmp_path: Path) -> None:
    for path in leaderboard.write_tables(ranking.boards(COMMITTED), tmp_path):
        assert path.read_text(encoding="utf-8") == (RESULTS / path.name).read_text(encoding="utf-8")


def test_there_is_a_floor_on_every_board() -> None:
    for board in ranking.boards(COMMITTED):
        assert "pixels" in {entry.result.model for entry in board.entries}
