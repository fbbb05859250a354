import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from ssleval.cli.app import app
from ssleval.core import Metric, Samples, digest
from ssleval.core.registry import summaries
from ssleval.errors import ConfigError, DataError
from ssleval.metrics.intervals import estimates
from ssleval.metrics.recorded import describe
from ssleval.metrics.stats import mean_of
from ssleval.results import Result, Score, matrix, record
from ssleval.results.cost import overall_costs
from ssleval.results.overall import FAMILIES, Overall, overall
from ssleval.results.ranking import boards

ITEMS = 300
Over = Callable[..., Overall]
METRIC = Metric("top1", mean_of("top1"))


def right(accuracy: float, seed: int) -> np.ndarray:
    """Of one seed, what a weaker model gets right a stronger one does too."""
    return np.random.default_rng(seed).random(ITEMS) < accuracy


def measured(
    model: str, task: str, accuracy: float, dataset: str = "a", supervision: str = "self", seed: int = 0
) -> tuple[Result, Samples]:
    samples = Samples([f"{dataset}{item}" for item in range(ITEMS)], {"top1": right(accuracy, seed)})
    found = estimates([METRIC], samples)["top1"]
    score = Score(found.value, (found.low, found.high), ITEMS, statistic=describe(METRIC.statistic))
    result = Result(
        model=model,
        task=task,
        dataset=dataset,
        key=digest([model, task, dataset]),
        metrics={"top1": score},
        protocol={"version": 1},
        backbone={"name": model, "supervision": supervision},
        data={"test_split": "test", "fingerprints": {f"{dataset}/test": dataset}},
        weights_sha256="0" * 64,
        settings={"precision": "fp32", "seed": 0, "limit": None, "skip_corrupt": False},
    )
    return result, samples


@pytest.fixture
def over(tmp_path: Path) -> Over:
    """A function that stores results and aggregates their boards."""

    def aggregate(made: Sequence[tuple[Result, Samples]], *, incomplete: bool = False) -> Overall:
        stored = [record.write(tmp_path, result, samples) for result, samples in made]
        return overall(boards(stored), incomplete=incomplete)

    return aggregate


def suite(accuracies: dict[str, float], places: Sequence[tuple[str, str]]) -> list[tuple[Result, Samples]]:
    return [
        measured(model, task, accuracy, dataset)
        for model, accuracy in accuracies.items()
        for task, dataset in places
    ]


EIGHT = [(task, dataset) for task in ("knn", "linear") for dataset in "abcd"]


def test_models_are_ordered_by_mean_rank_and_placed_for_other_images_and_other_boards(over: Over) -> None:
    found = over(suite({"weak": 0.3, "strong": 0.9, "middle": 0.6}, EIGHT))
    assert found.models == ("strong", "middle", "weak")
    (standing,) = found.standings
    assert standing.boards == 8
    for name, values in (("mean_rank", [1, 2, 3]), ("borda", [16, 8, 0])):
        places = standing.places[name]
        assert [place.value for place in places] == pytest.approx(values)
        assert [place.rank for place in places] == [1, 2, 3]
        assert [place.images for place in places] == [(1, 1), (2, 2), (3, 3)]
        assert [place.boards for place in places] == [(1, 1), (2, 2), (3, 3)]
    strengths, means = standing.places["bradley_terry"], standing.places["mean_rank"]
    assert [(one.rank, one.images, one.boards) for one in strengths] == [
        (one.rank, one.images, one.boards) for one in means
    ]


def test_models_that_images_do_not_separate_share_a_set_of_ranks(over: Over) -> None:
    made = suite({"strong": 0.9, "weak": 0.3}, EIGHT[:2])
    # Two models that differ by one image in three hundred.
    made += [measured("weaker", task, 0.297, dataset) for task, dataset in EIGHT[:2]]
    places = dict(zip(over(made).models, over(made).standings[0].places["mean_rank"], strict=True))
    assert places["strong"].images == (1, 1)
    assert places["weak"].images == places["weaker"].images == (2, 3)


def test_below_eight_boards_nothing_is_said_of_other_boards(over: Over) -> None:
    found = over(suite({"weak": 0.3, "strong": 0.9}, EIGHT[:7]))
    assert {place.boards for place in found.standings[0].places["borda"]} == {None}
    assert "at least 8 boards, not 7" in matrix.markdown(found)


def test_families_are_ranked_apart(over: Over) -> None:
    made = suite({"x": 0.9, "y": 0.3}, [("knn", "a"), ("linear", "a")])
    made += [measured("x", "retrieval", 0.3), measured("y", "retrieval", 0.9)]
    first_of = {
        one.family: found.models[int(np.argmin([place.rank for place in one.places["mean_rank"]]))]
        for found in [over(made)]
        for one in found.standings
    }
    assert first_of == {"overall": "x", "classification": "x", "retrieval": "y"}


def test_every_task_belongs_to_a_family() -> None:
    assert set(summaries("ssleval.tasks")) == set(FAMILIES)


def test_a_model_that_lacks_a_board_is_not_ranked_unless_asked(over: Over) -> None:
    made = suite({"x": 0.9, "y": 0.3}, EIGHT[:2])
    made.append(measured("partial", "knn", 0.99, "a"))
    found = over(made)
    assert found.models == ("x", "y")
    assert found.left_out == {"partial": ("knn/b",)}
    assert "Not ranked: partial lacks knn/b." in matrix.markdown(found)
    asked = over(made, incomplete=True)
    assert asked.models == ("partial", "x", "y")
    # Without the missing scores nobody knows how the ranks would vary.
    assert {place.images for place in asked.standings[0].places["mean_rank"]} == {None}


def test_too_few_models_are_refused_with_what_the_nearest_lacks(over: Over) -> None:
    made = [measured("x", "knn", 0.9, "a"), measured("y", "knn", 0.3, "b"), measured("x", "knn", 0.5, "b")]
    with pytest.raises(
        DataError, match=r"fewer than two models have all 2 boards; y lacks knn/a; .*--incomplete"
    ):
        over(made)
    with pytest.raises(DataError, match="needs two models; there are results of 1"):
        over([measured("x", "knn", 0.9)])


def test_groups_are_compared_with_models_as_units(over: Over) -> None:
    kinds = {
        "s1": (0.9, "self"),
        "s2": (0.8, "self"),
        "s3": (0.7, "self"),
        "w1": (0.4, "weak"),
        "w2": (0.3, "weak"),
    }
    found = over([measured(name, "knn", acc, supervision=kind) for name, (acc, kind) in kinds.items()])
    assert [(group.supervision, group.models, group.mean_rank) for group in found.groups] == [
        ("self", 3, 2.0),
        ("weak", 2, 4.5),
    ]
    # Of ten ways to call two of five models weak, this one and its mirror image separate most.
    assert found.group_pvalue == pytest.approx(0.2)


def test_one_model_a_group_shows_nothing_about_groups(over: Over) -> None:
    found = over([measured("x", "knn", 0.9), measured("y", "knn", 0.3, supervision="weak")])
    assert found.group_pvalue is None


def test_the_matrix_marks_the_best_and_its_ties(over: Over) -> None:
    made = suite({"best": 0.9, "weak": 0.3}, [("knn", "a")])
    made.append(measured("tied", "knn", 0.897, "a"))
    text = matrix.markdown(over(made))
    best, tied, weak = (right(accuracy, 0).mean() * 100 for accuracy in (0.9, 0.897, 0.3))
    assert f"| best | **{best:.1f}** ±" in text
    assert f"| tied | <u>{tied:.1f}</u> ±" in text
    assert f"| weak | {weak:.1f} ±" in text


def test_latex_escapes_names_and_marks_the_best(over: Over) -> None:
    made = suite({"a_b&c%$#{}~^\\": 0.9, "weak": 0.3}, [("knn", "a")])
    text = matrix.latex(over(made))
    assert r"a\_b\&c\%\$\#\{\}\textasciitilde{}\textasciicircum{}\textbackslash{} & \textbf{" in text
    assert text.startswith("\\begin{tabular}{lr}\n\\toprule\n")
    assert r"$_{\pm " in text


def test_csv_and_json_hold_places_and_scores(over: Over) -> None:
    found = over(suite({"weak": 0.3, "strong": 0.9}, EIGHT))
    first, second = csv.DictReader(io.StringIO(matrix.csv(found)))
    assert (first["model"], second["model"]) == ("strong", "weak")
    assert float(first["knn/a"]) == pytest.approx(right(0.9, 0).mean(), abs=1e-5)
    assert first["overall/mean_rank/images_high"] == "1"
    rows = json.loads(json.dumps(matrix.records(found)))
    assert rows[1]["standings"]["overall"]["borda"] == {
        "value": 0.0,
        "rank": 2.0,
        "images": [2, 2],
        "boards": [2, 2],
    }
    assert rows[0]["scores"]["linear/d"]["metric"] == "top1"


def test_the_front_of_cost_holds_models_that_none_beats_in_both(over: Over) -> None:
    made = suite({"best": 0.9, "cheap": 0.6, "beaten": 0.4, "unknown": 0.2}, EIGHT)
    costs = {"best": (80.0, 20e9, 50.0), "cheap": (5.0, 1e9, 400.0), "beaten": (20.0, 4e9, 100.0)}
    spent: list[tuple[Result, Samples]] = []
    for place, (result, samples) in enumerate(made):
        if result.model in costs:
            parameters, flops, speed = costs[result.model]
            result = replace(  # noqa: PLW2901
                result,
                backbone={**result.backbone, "parameters": parameters},
                cost={"flops_per_image": flops, "image_side": 224} if place % 2 else {},
                timings={"images_per_second": speed + place % 3},
                hardware={"cpu": "abc", "cores": "2"},
            )
        spent.append((result, samples))
    found = over(spent)
    speed, parameters, flops = overall_costs(found)
    assert found.models == ("best", "cheap", "beaten", "unknown")
    assert (speed.name, flops.name) == (
        "Images per second (abc, 2 cores, fp32)", "GFLOPs an image of 224 pixels",
    )  # fmt: skip
    assert parameters.values == (80.0, 5.0, 20.0, None)
    assert flops.values == (20.0, 1.0, 4.0, None)
    for cost in (speed, parameters, flops):
        assert set(cost.front) == {0, 1}
    rows = matrix.records(found)
    assert rows[0]["costs"]["Parameters (millions)"] == {"value": 80.0, "front": True}
    assert rows[2]["costs"]["Parameters (millions)"] == {"value": 20.0, "front": False}
    assert rows[3]["costs"]["Parameters (millions)"] == {"value": None, "front": False}
    lines = list(csv.DictReader(io.StringIO(matrix.csv(found))))
    assert [line["GFLOPs an image of 224 pixels/front"] for line in lines] == [
        "True",
        "True",
        "False",
        "False",
    ]
    assert "| beaten | 3.00 | 101 | 20 | 4 |" in matrix.markdown(found)
    assert "| cheap | 2.00 | **401** | **5** | **1** |" in matrix.markdown(found)


def test_without_costs_nothing_is_said_of_them(over: Over) -> None:
    found = over(suite({"weak": 0.3, "strong": 0.9}, [("knn", "a")]))
    assert overall_costs(found) == []
    assert "lower cost" not in matrix.markdown(found)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--overall"], "| strong | **"),
        (["--overall", "--format", "csv"], "model,overall/mean_rank,"),
        (["--format", "latex"], "\\begin{tabular}"),
        (["--overall", "--json"], '{"model": "strong"'),
        (["--format", "csv"], "model,supervision"),
        (["--format", "json"], '{"model": "strong"'),
    ],
)
def test_the_command_prints_every_format(tmp_path: Path, options: list[str], expected: str) -> None:
    for result, samples in suite({"weak": 0.3, "strong": 0.9}, [("knn", "a")]):
        record.write(tmp_path, result, samples)
    done = CliRunner().invoke(app, ["leaderboard", str(tmp_path), *options])
    assert done.exit_code == 0
    assert expected in done.stdout


@pytest.mark.parametrize(
    "options", [["--incomplete"], ["--overall", "--published"], ["--overall", "--out", "x"]]
)
def test_options_that_contradict_each_other_are_refused(options: list[str], tmp_path: Path) -> None:
    for result, samples in suite({"weak": 0.3, "strong": 0.9}, [("knn", "a")]):
        record.write(tmp_path, result, samples)
    done = CliRunner().invoke(app, ["leaderboard", str(tmp_path), *options])
    assert isinstance(done.exception, ConfigError)
