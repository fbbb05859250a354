import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ssleval.display.report.contrast import contrast
from ssleval.display.report.curves import POINTS, training_curves, training_runs
from ssleval.errors import DataError
from ssleval.results import Result
from ssleval.results.cost import costs, pareto_front
from ssleval.results.ranking import boards
from tests.results.test_leaderboard import right, store


def kind(result: Result, supervision: str) -> Result:
    return replace(result, backbone={**result.backbone, "supervision": supervision})


# Cost ---------------------------------------------------------------------------------------------


def dominated(spent: np.ndarray, gained: np.ndarray, i: int) -> bool:
    """By definition: some other point is nowhere worse and somewhere better."""
    no_worse = (spent <= spent[i]) & (gained >= gained[i])
    better = (spent < spent[i]) | (gained > gained[i])
    return bool((no_worse & better).any())


@pytest.mark.parametrize("seed", range(20))
def test_the_front_is_what_nothing_dominates(seed: int) -> None:
    random = np.random.default_rng(seed)
    spent, gained = random.integers(0, 6, (2, 12)).astype(float)
    front = pareto_front(spent.tolist(), gained.tolist())
    assert sorted(front) == [i for i in range(12) if not dominated(spent, gained, i)]
    assert list(spent[front]) == sorted(spent[front])


def timed(result: Result, speed: float, cpu: str, parameters: float = 5.5) -> Result:
    return replace(
        result,
        timings={"images_per_second": speed},
        hardware={"cpu": cpu, "cores": "2"},
        backbone={**result.backbone, "parameters": parameters},
    )


def test_speeds_of_different_machines_are_on_different_axes(tmp_path: Path) -> None:
    found = [store(tmp_path, name, right(p)) for name, p in (("a", 0.9), ("b", 0.7), ("c", 0.5), ("d", 0.3))]
    speeds = [(10.0, "slow"), (30.0, "slow"), (20.0, "slow"), (90.0, "fast")]
    (board,) = boards([timed(one, *of) for one, of in zip(found, speeds, strict=True)])
    names = [cost.name for cost in costs(board)]
    assert names == [
        "Images per second (fast, 2 cores, fp32)",
        "Images per second (slow, 2 cores, fp32)",
        "Parameters (millions)",
        "GFLOPs an image",
    ]
    slow = costs(board)[1]
    assert slow.values == (10.0, 30.0, 20.0, None)
    assert slow.front == (1, 0), "c is slower than b and worse"


def test_what_was_not_recorded_is_no_zero(tmp_path: Path) -> None:
    (board,) = boards([timed(store(tmp_path, "a", right(0.5)), 0.0, "x", parameters=0.0)])
    found = costs(board)
    assert [cost.name for cost in found] == ["Images per second", "Parameters (millions)", "GFLOPs an image"]
    assert all(cost.values == (None,) and cost.front == () and cost.missing for cost in found)


def test_flops_have_a_front_of_their_own(tmp_path: Path) -> None:
    found = [
        store(tmp_path, name, right(p)) for name, p in (("a", 0.9), ("b", 0.7), ("c", 0.5), ("old", 0.3))
    ]
    flops = [{"flops_per_image": 9e9}, {"flops_per_image": 2e9}, {"flops_per_image": 4e9}, {}]
    (board,) = boards([replace(one, cost=cost) for one, cost in zip(found, flops, strict=True)])
    counted = costs(board)[-1]
    assert counted.values == (9.0, 2.0, 4.0, None)
    assert counted.front == (1, 0)


def test_the_front_is_turned_where_less_is_better(tmp_path: Path) -> None:
    found = [store(tmp_path, name, right(p), higher=False) for name, p in (("a", 0.9), ("b", 0.2))]
    (board,) = boards([timed(one, 1.0, "x", size) for one, size in zip(found, (5.0, 50.0), strict=True)])
    assert [board.entries[place].label for place in costs(board)[1].front] == ["a", "b"]


# Self- against weakly supervised ------------------------------------------------------------------


def test_the_best_of_either_kind_are_compared_on_shared_items(tmp_path: Path) -> None:
    base = right(0.6)
    better = base.copy()
    better[np.flatnonzero(~base)[:40]] = True
    found = [
        kind(store(tmp_path, "own", better), "self"),
        kind(store(tmp_path, "weak", base), "weak"),
        kind(store(tmp_path, "worse", right(0.3, 2)), "weak"),
        kind(store(tmp_path, "full", right(0.95, 3)), "full"),
    ]
    (board,) = boards(found)
    answer = contrast(board)
    assert answer is not None
    assert [board.entries[place].label for place in (answer.own, answer.weak)] == ["own", "weak"]
    assert answer.difference == pytest.approx(0.1)
    assert answer.low < 0.1 < answer.high
    assert (answer.tried, answer.n, answer.verdict) == ((1, 2), 400, "self-supervised better")


@pytest.mark.parametrize("own_is_better", [True, False])
def test_positive_is_better_for_self_supervision_whatever_the_metric(
    tmp_path: Path, own_is_better: bool
) -> None:
    errors = (0.2, 0.7) if own_is_better else (0.7, 0.2)
    found = [
        kind(store(tmp_path, name, right(error, seed), higher=False), name)
        for seed, (name, error) in enumerate(zip(("self", "weak"), errors, strict=True))
    ]
    (board,) = boards(found)
    answer = contrast(board)
    assert answer is not None
    assert (answer.low > 0) == own_is_better
    assert answer.low <= answer.difference <= answer.high
    assert answer.verdict.startswith("self" if own_is_better else "weakly")


def test_without_both_kinds_there_is_no_contrast(tmp_path: Path) -> None:
    (board,) = boards([store(tmp_path, "own", right(0.5))])
    assert contrast(board) is None


# Training -----------------------------------------------------------------------------------------


def test_curves_are_those_of_the_log_and_long_ones_are_averaged(tmp_path: Path) -> None:
    steps = 2 * POINTS + 1
    lines = [{"step": step, "epoch": 0, "loss": float(step)} for step in range(steps)]
    score = {"value": 0.25, "ci95": [0.2, 0.3], "n": 100}
    lines.insert(7, {"step": 6, "epoch": 0, "evaluation": {"top1@20": score}})  # pyright: ignore[reportArgumentType]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "log.jsonl").write_text(text + '{"step": 9', encoding="utf-8")
    found = training_curves(tmp_path)
    loss = found["terms"]["loss"]
    assert list(found["terms"]) == ["loss"]
    assert loss["steps_per_point"] == 3
    assert len(loss["x"]) <= POINTS
    assert loss["y"][:2] == [1.0, 4.0]
    assert (
        loss["x"][-1] == loss["y"][-1] == pytest.approx(np.mean(range(steps - steps % 3 or steps - 3, steps)))
    )
    assert found["scores"] == {"top1@20": {"x": [6], "y": [0.25], "low": [0.2], "high": [0.3]}}


@pytest.mark.parametrize("text", ["[1]\n", "{\n", '{"loss": 1}\n', '{"step": 1, "evaluation": {"a": 3}}\n'])
def test_what_is_no_log_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "log.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="no log of `ssleval train`"):
        training_curves(tmp_path)


def test_runs_of_one_name_can_be_told_apart(tmp_path: Path) -> None:
    folders = [tmp_path / "a" / "run", tmp_path / "b" / "run", tmp_path / "other"]
    for folder in folders:
        folder.mkdir(parents=True)
        line = {"step": 0, "epoch": 0, "loss": 1, "freeze_last_layer": True}
        (folder / "log.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    runs = training_runs(folders)
    assert [run["name"] for run in runs] == [folders[0].as_posix(), folders[1].as_posix(), "other"]
    assert list(runs[0]["terms"]) == ["loss"], "a switch is no curve"


def test_a_folder_without_a_log_says_what_to_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="name the folder that `ssleval train --out` wrote"):
        training_curves(tmp_path)
