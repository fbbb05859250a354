from dataclasses import replace
from pathlib import Path

import pytest

from ssleval.display.report import overview as module
from ssleval.display.report.overview import overview
from ssleval.results import Result, matrix, read_all
from ssleval.results.overall import overall
from ssleval.results.ranking import boards
from tests.display.report.made_up import fill
from tests.results.test_leaderboard import right, store


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[Result]:
    folder = tmp_path_factory.mktemp("overview")
    fill(folder, models=5, boards=4, items=60, lacking=1)
    return read_all(folder)


def test_every_cell_is_the_entry_of_its_model_on_its_board(found: list[Result]) -> None:
    ranked = boards(found)
    shown = overview(ranked)
    entries = [(board, entry) for board in ranked for entry in board.entries]
    seen = 0
    for model in shown["models"]:
        for board, row in zip(ranked, model["rows"], strict=True):
            if row is not None:
                assert entries[row][0] is board
                assert entries[row][1].label == model["name"]
                seen += 1
    assert seen == len(entries) == len(found)


def test_ranks_and_tables_are_those_of_the_overall_leaderboard(found: list[Result]) -> None:
    ranked = boards(found)
    shown, whole = overview(ranked), overall(ranked)
    assert [model["name"] for model in shown["models"] if model["ranked"]] == list(whole.models)
    assert [model["name"] for model in shown["models"] if not model["ranked"]] == list(whole.left_out)
    for standing in whole.standings:
        places = standing.places["mean_rank"]
        assert shown["standings"][standing.family] == [
            (pytest.approx(place.value, abs=1e-4), place.images, place.boards) for place in places
        ]
    assert [family["name"] for family in shown["families"]] == ["classification", "dense"]
    assert "\n".join(shown["latex"]) == matrix.latex(whole)
    assert "\n".join(shown["csv"]).startswith("model,overall/mean_rank,")


def test_where_models_have_no_board_in_common_none_is_ranked_and_it_is_said(tmp_path: Path) -> None:
    made = [store(tmp_path, "a", right(0.5)), store(tmp_path, "b", right(0.6), k=10)]
    shown = overview(boards(made))
    assert [model["ranked"] for model in shown["models"]] == [False, False]
    assert shown["why"] == "fewer than two models have all 2 boards"
    assert shown["standings"] == {}
    boards_of = [f"knn/digits#{board.protocol}" for board in boards(made)]
    assert shown["csv"][0].split(",")[::3] == [
        "model",
        f"{boards_of[0]}/ci95_high",
        f"{boards_of[1]}/ci95_high",
    ]
    assert sorted(line.partition(",")[0] for line in shown["csv"][1:3]) == ["a", "b"]


def test_of_very_many_results_ranks_have_no_sets(
    found: list[Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_CELLS", 3)
    shown = overview(boards(found))
    assert all(place[1:] == (None, None) for place in shown["standings"]["overall"])
    assert [model["name"] for model in shown["models"] if model["ranked"]]


def test_models_of_one_name_and_other_weights_have_rows_of_their_own(tmp_path: Path) -> None:
    made = [store(tmp_path, "a", right(0.5)), store(tmp_path, "a", right(0.6), weights="1" * 64, mean=(0.5,))]
    shown = overview(boards([made[0], replace(made[1], key="other")]))
    assert len(shown["models"]) == len({model["name"] for model in shown["models"]}) == 2
