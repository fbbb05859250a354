import csv
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ssleval.core import Samples
from ssleval.core.packaged import packaged
from ssleval.errors import DataError
from ssleval.results import Result, leaderboard, record
from ssleval.results.average import _half, _of_groups, averages
from ssleval.results.ranking import Board, boards
from tests.results.test_overall import measured

Averages = Callable[[list[tuple[Result, Samples]]], tuple[list[Board], dict[str, str]]]


@pytest.fixture
def averaged(tmp_path: Path) -> Averages:
    """A function that stores results, and averages their boards as lines of a suite."""

    def average(made: list[tuple[Result, Samples]]) -> tuple[list[Board], dict[str, str]]:
        lines: dict[str, list[Board]] = {}
        for board in boards([record.write(tmp_path, result, samples) for result, samples in made]):
            lines.setdefault(board.name, []).append(board)
        return averages("mine", lines)

    return average


def rescored(result: Result, right: np.ndarray) -> Result:
    score = replace(result.metrics["top1"], value=float(right.mean()))
    return replace(result, metrics={"top1": score})


def scored(made: tuple[Result, Samples], value: float, low: float, high: float) -> tuple[Result, Samples]:
    """Return a result with another score, whose samples nothing reads."""
    result, samples = made
    score = replace(result.metrics["top1"], value=value, ci95=(low, high))
    return replace(result, metrics={"top1": score}), samples


@pytest.mark.parametrize("arch", ["ViT-S/14", "ViT-B/14", "ViT-L/14", "ViT-g/14"])
def test_the_average_of_what_dinov2_prints_is_the_average_that_it_prints(arch: str) -> None:
    with (packaged("benchmarks") / "published.csv").open(encoding="utf-8", newline="") as file:
        rows = [
            row
            for row in csv.DictReader(file)
            if (row["source"], row["model"], row["arch"]) == ("2304.07193 Table 8", "DINOv2", arch)
        ]
    printed = {row["dataset"]: float(row["value"]) for row in rows}
    expected = printed.pop("Avg12")
    made = [measured(arch, "logreg", 0.5, name) for name in printed]
    made = [
        scored(one, value / 100, value / 100, value / 100)
        for one, value in zip(made, printed.values(), strict=True)
    ]
    lines = {board.name: [board] for board in boards([result for result, _ in made])}
    (board,), lacking = averages("dinov2_table8", lines, read=lambda found: [made[0][1]] * len(found))
    assert (len(printed), lacking) == (12, {})
    assert board.entries[0].result.metrics["mean"].value * 100 == pytest.approx(expected, abs=0.05)
    if arch == "ViT-S/14":
        text = (packaged("benchmarks") / "dinov2_table8.yaml").read_text(encoding="utf-8")
        heads = re.findall(r"^# expect \S+ \S+ \S+ (\S+)$", text, re.M)
        assert sorted(map(float, heads)) == sorted(printed.values())


def test_ends_of_the_interval_are_as_far_as_those_of_independent_boards_add_up_to(averaged: Averages) -> None:
    made = [
        scored(measured("x", "knn", 0.5, "a"), 0.5, 0.47, 0.6),
        scored(measured("x", "knn", 0.5, "b"), 0.8, 0.76, 0.83),
    ]
    lines = {board.name: [board] for board in boards([result for result, _ in made])}
    (board,), _ = averages("mine", lines, read=lambda found: [made[found[0].dataset == "b"][1]])
    score = board.entries[0].result.metrics["mean"]
    assert score.value == pytest.approx(0.65)
    # 3-4-5 triangles: distances 0.03 and 0.04 below, 0.1 and 0.03 above.
    assert score.ci95 == pytest.approx((0.65 - 0.05 / 2, 0.65 + (0.1**2 + 0.03**2) ** 0.5 / 2))
    assert (score.n, score.unit, board.name) == (2, "fraction", "average/mine")


def test_errors_on_the_same_images_are_added_up_as_if_they_were_the_same(averaged: Averages) -> None:
    (alone,), _ = averaged([measured("x", "knn", 0.7)])
    (twice,), _ = averaged([measured("x", "knn", 0.7), measured("x", "linear", 0.7)])
    (apart,), _ = averaged([measured("x", "knn", 0.7), measured("x", "knn", 0.7, "b")])
    widths = [
        high - low
        for low, high in (one.entries[0].result.metrics["mean"].ci95 for one in (alone, twice, apart))
    ]
    assert widths[1] == pytest.approx(widths[0])
    assert widths[2] == pytest.approx(widths[0] / 2**0.5)


def test_the_interval_holds_the_true_mean_nineteen_times_in_twenty() -> None:
    truth, draws = np.array([0.9, 0.6, 0.97]), 1000
    right = np.random.default_rng(0).binomial(200, truth, (draws, 3))
    # Agresti and Coull's intervals, which boards have.
    centre = (right + 1.92) / 203.84
    half = 1.96 * np.sqrt(centre * (1 - centre) / 203.84)
    below, above = right / 200 - (centre - half), (centre + half) - right / 200
    images = [("a",), ("b",), ("c",)]
    means = right.mean(axis=1) / 200
    held = sum(
        mean - _half(list(lower), images) <= truth.mean() <= mean + _half(list(upper), images)
        for mean, lower, upper in zip(means, below, above, strict=True)
    )
    assert 0.935 * draws <= held <= 0.97 * draws


def test_models_share_a_rank_unless_their_mean_difference_is_separated(averaged: Averages) -> None:
    accuracies = {"strong": 0.9, "weak": 0.3, "weaker": 0.297}
    made = [measured(model, "knn", value, name) for model, value in accuracies.items() for name in "ab"]
    (board,), lacking = averaged(made)
    assert lacking == {}
    assert [(one.label, one.rank, one.tied) for one in board.entries] == [
        ("strong", 1, False),
        ("weak", 2, True),
        ("weaker", 2, True),
    ]


def test_what_one_board_does_not_separate_eight_do(averaged: Averages) -> None:
    ranks: list[list[int]] = []
    for names in ("c", "cdefghij"):
        made = [measured("x", "knn", 0.5, name) for name in names]
        for name in names:
            result, samples = measured("y", "knn", 0.5, name)
            # Right on 20 images where x is wrong, wrong on 10 where x is right: 3.3 points.
            better = samples["top1"].copy()
            better[np.flatnonzero(~better)[:20]] = True
            better[np.flatnonzero(samples["top1"])[:10]] = False
            made.append((rescored(result, better), Samples(samples.ids, {"top1": better})))
        (board,), _ = averaged(made)
        assert board.entries[0].label == "y"
        ranks.append([entry.rank for entry in board.entries])
    assert ranks == [[1, 1], [1, 2]]


def test_a_model_that_lacks_a_board_has_no_average(averaged: Averages) -> None:
    made = [measured("whole", "knn", 0.5, name) for name in "abc"] + [measured("part", "knn", 0.9, "b")]
    (board,), lacking = averaged(made)
    assert [entry.label for entry in board.entries] == ["whole"]
    assert lacking == {"part": "knn/a, knn/c"}
    assert averages("mine", {"knn/z": []}) == ([], {})


def other_copy(made: tuple[Result, Samples]) -> tuple[Result, Samples]:
    result, samples = made
    data = {**result.data, "fingerprints": {"a/test": "another"}}
    return replace(result, data=data, key=result.key[::-1]), samples


def test_models_on_other_copies_of_the_data_are_ranked_apart(averaged: Averages) -> None:
    made = [measured("x", "knn", 0.5), other_copy(measured("y", "knn", 0.9))]
    found, _ = averaged(made)
    assert [[entry.label for entry in board.entries] for board in found] == [["x"], ["y"]]
    assert len({board.protocol for board in found}) == 2


def test_two_results_for_a_line_are_refused_rather_than_one_chosen(averaged: Averages) -> None:
    with pytest.raises(DataError, match=r"x has two results for knn/a, .*move one of them away"):
        averaged([measured("x", "knn", 0.5), other_copy(measured("x", "knn", 0.9))])


@pytest.mark.parametrize("other", [{"unit": "m"}, {"higher_is_better": False}])
def test_what_is_no_fraction_of_which_more_is_better_has_no_mean(other: dict[str, object]) -> None:
    result, _ = measured("x", "depth", 0.5)
    score = replace(result.metrics["top1"], **other)  # pyright: ignore[reportArgumentType]
    found = boards([replace(result, metrics={"top1": score})])
    with pytest.raises(DataError, match="mine has no average: top1 of depth/a is no fraction"):
        averages("mine", {"depth/a": found})


def test_every_table_has_the_average(averaged: Averages) -> None:
    means, _ = averaged([measured(model, "knn", 0.5, name) for model in "xy" for name in "ab"])
    assert "### average/mine (mean of 2 boards, n = 2, protocol" in leaderboard.markdown(means)
    (row, _) = leaderboard.records(means)
    assert (row["task"], row["dataset"], row["metric"], row["rank"], row["tied"]) == (
        "average",
        "mine",
        "mean",
        1,
        True,
    )
    assert "average/mine/mean" in leaderboard.csv_text(leaderboard.wide_rows(means))


def groups_of(values: dict[str, list[float]], model: str = "x") -> list[tuple[Result, Samples]]:
    """Return a model's results on sets of some groups, called ``GROUP0`` and so on."""
    return [
        measured(model, "knn", value, f"{name}{place}")
        for name, scores in values.items()
        for place, value in enumerate(scores)
    ]


def averaged_by_groups(made: list[tuple[Result, Samples]], folder: Path) -> Board:
    lines: dict[str, list[Board]] = {}
    for board in boards([record.write(folder, result, samples) for result, samples in made]):
        lines.setdefault(board.name, []).append(board)
    (board,), _ = averages("vtab_1k", lines, {name: name.partition("/")[2][0] for name in lines})
    return board


def test_a_mean_of_groups_weighs_groups_and_not_sets(tmp_path: Path) -> None:
    made = groups_of({"n": [0.9, 0.7, 0.8, 0.8], "s": [0.4, 0.2]})
    values = [result.metrics["top1"].value for result, _ in made]
    board = averaged_by_groups(made, tmp_path)
    scores = board.entries[0].result.metrics
    natural, structured = sum(values[:4]) / 4, sum(values[4:]) / 2
    assert [(name, score.value, score.n) for name, score in scores.items()] == [
        ("mean", pytest.approx((natural + structured) / 2), 6),
        ("n", pytest.approx(natural), 4),
        ("s", pytest.approx(structured), 2),
    ]
    assert board.split == "mean of 2 groups of boards"
    assert board.headline == "mean"


def test_the_interval_of_a_mean_of_groups_holds_that_of_other_sets() -> None:
    """Nineteen sets drawn of a world whose mean is known: the interval holds it as often as it says."""
    random, truth = np.random.default_rng(0), np.array([0.8, 0.85, 0.5])
    sizes = (7, 4, 8)
    members = np.split(np.arange(19), np.cumsum(sizes)[:-1])
    held, draws = 0, 200
    for _ in range(draws):
        scores = np.concatenate(
            [random.normal(mean, 0.1, size) for mean, size in zip(truth, sizes, strict=True)]
        )
        value, low, high = _of_groups(scores, [part.tolist() for part in members])
        assert value == pytest.approx(np.mean([scores[part].mean() for part in members]))
        held += low <= truth.mean() <= high
    assert 0.92 * draws <= held


def test_models_are_told_apart_by_their_differences_on_sets(tmp_path: Path) -> None:
    base = {"n": [0.9, 0.5, 0.7, 0.3], "s": [0.4, 0.2, 0.6]}
    better = {
        name: [value + 0.05 + 0.001 * place for place, value in enumerate(of)] for name, of in base.items()
    }
    board = averaged_by_groups([*groups_of(base), *groups_of(better, "y")], tmp_path)
    assert [(entry.label, entry.rank, entry.tied) for entry in board.entries] == [
        ("y", 1, False),
        ("x", 2, False),
    ]
    mixed = {
        name: [value + (-1) ** place * 0.1 for place, value in enumerate(of)] for name, of in base.items()
    }
    board = averaged_by_groups([*groups_of(base), *groups_of(mixed, "z")], tmp_path / "again")
    assert [entry.rank for entry in board.entries] == [1, 1]
