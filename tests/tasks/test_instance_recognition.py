import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ssleval.core import Dataset, FeatureRequest, FeatureTable, Geometry, Metric, Readout, Samples
from ssleval.errors import ConfigError, ContractError, DataError, NotApplicableError
from ssleval.metrics.intervals import estimates
from ssleval.metrics.paired import mcnemar_outcomes, paired_test
from ssleval.metrics.recorded import describe, statistic_from
from ssleval.tasks.instance_recognition import InstanceRecognition
from tests.tasks.feature_tables import Tables, dataset, evaluated

WIDTH, SHOWN = 6, np.repeat(np.arange(40) * 7, 2)
"""Forty exhibits by numbers with gaps, two photographs of each."""
ASKED = {"val": np.arange(-20, 30), "test": np.arange(-35, 40)}
"""Which of them a query shows, below 0 for none."""
TARGETS = {
    "database": SHOWN,
    **{split: np.where(index >= 0, index * 7, -1) for split, index in ASKED.items()},
}
FAST: dict[str, Any] = {"ks": (1, 3, 12), "logit_scales": (0.1, 5.0, 20.0), "dim": 5}


def tables(spread: float = 0.5, *, targets: dict[str, np.ndarray] = TARGETS) -> Tables:
    """Photographs about their exhibit; other things lie anywhere; channels of unequal variance."""
    mixed = np.diag([4.0, 2.0, 1.0, 1.0, 0.5, 0.3])

    def features(readout: Readout, split: str) -> np.ndarray:
        part = len(readout.kind)
        centres = np.random.default_rng(part).standard_normal((40, WIDTH))
        random = np.random.default_rng([part, len(split)])
        noise = random.standard_normal((len(TARGETS[split]), WIDTH))
        index = TARGETS[split] // 7
        found = np.where(index[:, None] >= 0, centres[index] + spread * noise, noise)
        return (found[: len(targets[split])] @ mixed + 0.7).astype(np.float32)

    return Tables(targets, features, WIDTH)


def met(source: Tables | None = None, **card: Any) -> Dataset:
    return dataset(
        source or tables(), **{"target": "open_set", "train_split": "database", "class_names": (), **card}
    )


def measured(source: Tables | None = None, **settings: Any) -> Samples:
    source = source or tables()
    return evaluated(InstanceRecognition(**{**FAST, **settings}), source, met(source))


def scores(samples: Samples) -> dict[str, float]:
    return {one.name: one.score(samples) for one in InstanceRecognition().metrics}


# Independent references: loops in the words of the paper -------------------------------------------


def gap_by_hand(found: list[tuple[float, bool, bool]]) -> float:
    """Of (confidence, right, known) of every query, no two confidences alike."""
    right = 0
    total = 0.0
    for place, (_, is_right, _) in enumerate(sorted(found, reverse=True), start=1):
        right += is_right
        total += is_right * right / place
    return total / sum(known for *_, known in found)


def whitened_by_hand(learnt: np.ndarray, rows: np.ndarray, dim: int) -> np.ndarray:
    mean = learnt.mean(axis=0)
    _, roots, directions = np.linalg.svd((learnt - mean) / math.sqrt(len(learnt)))
    return (rows - mean) @ directions[:dim].T / roots[:dim]


def classified_by_hand(cosines: np.ndarray, k: int, t: float) -> tuple[int, float]:
    """Return the class and the probability of one query from its cosines with the database."""
    best: dict[int, float] = {}
    for row in np.argsort(-cosines, kind="stable")[:k]:
        label = int(SHOWN[row])
        best[label] = max(best.get(label, 0.0), float(cosines[row]))
    weights = {label: math.exp(t * cosine) for label, cosine in best.items()}
    total = sum(weights.values()) + (len(set(SHOWN.tolist())) - len(weights)) * math.exp(0)
    label = min(best, key=lambda one: (-best[one], one))
    return label, weights[label] / total


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def by_hand(split: str, k: int, t: float, dim: int | None) -> list[tuple[float, bool, bool]]:
    raw = {
        name: unit(tables().features(Readout("pooled"), name).astype(float)) for name in ("database", split)
    }
    if dim is not None:
        raw = {name: unit(whitened_by_hand(raw["database"], rows, dim)) for name, rows in raw.items()}
    found: list[tuple[float, bool, bool]] = []
    for query, truth in zip(raw[split], TARGETS[split].tolist(), strict=True):
        label, probability = classified_by_hand(raw["database"] @ query, k, t)
        found.append((probability, truth >= 0 and label == truth, truth >= 0))
    return found


@pytest.mark.parametrize("dim", [4, None])
@pytest.mark.parametrize(("k", "t"), [(1, 20.0), (3, 5.0), (12, 0.5)])
def test_scores_are_those_of_plain_loops(k: int, t: float, dim: int | None) -> None:
    plain: dict[str, Any] = {"whitening": "none", "dim": 512} if dim is None else {"dim": dim}
    samples = measured(ks=(k,), logit_scales=(t,), **plain)
    found = by_hand("test", k, t, dim)
    odds = [math.log(probability / (1 - probability)) for probability, *_ in found]
    assert samples["confidence"][:, 0] == pytest.approx(odds, abs=1e-4)
    assert samples["right"][:, 0].tolist() == [right for _, right, _ in found]
    known = [one for one in found if one[2]]
    assert scores(samples) == pytest.approx(
        {
            "gap": gap_by_hand(found),
            "gap_minus": gap_by_hand(known),
            "top1": sum(right for _, right, _ in known) / len(known),
        }
    )
    assert scores(samples)["gap"] < scores(samples)["gap_minus"] < scores(samples)["top1"]


def test_k_and_logit_scale_are_those_of_the_best_gap_on_val() -> None:
    samples = measured()
    tried = {
        (k, t): gap_by_hand(by_hand("val", k, t, FAST["dim"]))
        for k in FAST["ks"]
        for t in FAST["logit_scales"]
    }
    best = max(tried, key=lambda pair: tried[pair])
    assert len({round(value, 9) for value in tried.values()}) > 3
    assert (set(samples["k"]), set(samples["logit_scale"])) == ({best[0]}, {best[1]})
    given = measured(ks=best[:1], logit_scales=best[1:])
    assert scores(given) == scores(samples)


def test_of_equally_good_ones_the_first_is_taken() -> None:
    source = tables(1e-4)
    # One neighbour alone: the smaller scales order queries alike.
    for order in ((5.0, 6.0), (6.0, 5.0)):
        assert set(measured(source, ks=(1,), logit_scales=order)["logit_scale"]) == {order[0]}


def test_separable_exhibits_are_recognised_and_shuffled_ones_are_not() -> None:
    samples = measured(tables(1e-4))
    assert scores(samples)["top1"] == scores(samples)["gap_minus"] == 1
    moved = {**TARGETS, "database": np.random.default_rng(0).permutation(SHOWN)}
    assert scores(measured(tables(1e-4, targets=moved)))["top1"] < 0.2


@pytest.mark.parametrize(
    "setting",
    [
        {"readout": "cls"},
        {"whitening": "none", "dim": 512},
        {"dim": 2},
        {"shrinkage": 0.5},
        {"ks": (1,)},
        {"logit_scales": (0.01,)},
    ],
    ids=str,
)
def test_settings_change_the_answer(setting: dict[str, Any]) -> None:
    usual: dict[str, Any] = {"ks": (3,), "logit_scales": (20.0,)}
    first, second = measured(**usual), measured(**{**usual, **setting})
    assert scores(first) != scores(second)


class Scaled(Tables):
    """Features that depend on the size of the images."""

    def load(self, request: FeatureRequest) -> FeatureTable:
        table = super().load(request)
        assert isinstance(request.geometry, Geometry)
        moved = np.random.default_rng([request.geometry.resize or 0, len(table.ids)])
        arrays = {
            key: (3 * array + moved.standard_normal(array.shape)).astype(np.float32)
            for key, array in table.arrays.items()
        }
        return replace(table, arrays=arrays)


def test_scales_are_summed_as_vectors_of_length_one() -> None:
    asked: dict[str, Any] = {"ks": (1,), "logit_scales": (9.0,), "whitening": "none"}
    plain = tables()
    source = Scaled(plain.targets, plain.features, WIDTH)
    task = InstanceRecognition(**asked, scales=(1.0, 0.5))
    requests = task.requests(met(source))
    assert [one.geometry.resize for one in requests if isinstance(one.geometry, Geometry)] == [500, 250] * 2
    vectors = {split: np.zeros((len(TARGETS[split]), WIDTH)) for split in ("test", "database")}
    for one in requests:
        vectors[one.split] += unit(source.load(one)[Readout("pooled")].astype(float))
    near = (unit(vectors["test"]) @ unit(vectors["database"]).T).max(axis=1).clip(0)
    samples = evaluated(task, source, met(source))
    assert samples["confidence"][:, 0] == pytest.approx(9 * near - math.log(39), abs=1e-4)
    alone = evaluated(InstanceRecognition(**asked), source, met(source))
    assert scores(alone) != scores(samples)


def test_requests_are_the_protocols() -> None:
    requests = InstanceRecognition(**FAST).requests(met())
    assert [one.split for one in requests] == ["test", "val", "database"]
    assert {one.geometry for one in requests} == {Geometry(500, "long", None, "lanczos", multiple="patch")}
    assert {one.readouts for one in requests} == {(Readout("pooled"),)}
    fixed = InstanceRecognition(ks=(1,), logit_scales=(1.0,), size=96, interpolation="bicubic", readout="cls")
    found = fixed.requests(met(lengths={"database": 80, "test": 75, "whitening": 50}))
    assert [one.split for one in found] == ["test", "database", "whitening"]
    assert found[0].geometry == Geometry(96, "long", None, "bicubic", multiple="patch")
    assert found[0].readouts == (Readout("cls"),)
    plain = replace(fixed, whitening="none").requests(
        met(lengths={"database": 80, "test": 75, "whitening": 50})
    )
    assert [one.split for one in plain] == ["test", "database"]
    assert InstanceRecognition().ks == (1, 2, 3, 5, 7, 10, 15, 20, 50)
    assert len(InstanceRecognition().logit_scales) == 12


def test_a_whitening_split_is_what_is_learnt_on() -> None:
    inside = measured(ks=(3,), logit_scales=(20.0,))
    source = tables(targets={**TARGETS, "whitening": TARGETS["test"]})
    usual = source.features
    source.features = lambda readout, split: usual(readout, "test" if split == "whitening" else split)
    assert scores(measured(source, ks=(3,), logit_scales=(20.0,))) != scores(inside)


# Statistics ----------------------------------------------------------------------------------------


def test_metrics_are_recorded_statistics_with_intervals_over_queries() -> None:
    samples, metrics = measured(), InstanceRecognition().metrics
    for metric in metrics:
        stored = Metric(metric.name, statistic_from(describe(metric.statistic)))
        assert stored.score(samples) == metric.score(samples)
    found = estimates(metrics, samples)
    for metric in metrics:
        assert found[metric.name].low < metric.score(samples) < found[metric.name].high
    assert len(samples) == len(TARGETS["test"])


def test_a_paired_difference_is_that_of_the_queries_drawn_together() -> None:
    first, second = measured(ks=(3,), logit_scales=(20.0,)), measured(tables(0.7))
    (gap, *_, top1) = InstanceRecognition().metrics
    found = paired_test(gap, first, second)
    assert found.value == gap.score(first) - gap.score(second) > 0
    assert found.error > 0
    same = paired_test(gap, first, first)
    assert (same.value, same.error) == (0, 0)
    # A mean is of the queries that have an answer.
    assert paired_test(top1, first, second).n == np.count_nonzero(~np.isnan(first["top1"])) < len(first)
    assert mcnemar_outcomes(gap, first, second) is None


def test_a_run_is_the_same_twice() -> None:
    first, again = measured(), measured()
    for name, column in first.columns.items():
        np.testing.assert_array_equal(column, again[name])


# Refusals ------------------------------------------------------------------------------------------


def test_other_labels_and_splits_are_refused() -> None:
    task = InstanceRecognition(**FAST)
    with pytest.raises(NotApplicableError, match="labels of a training split; blobs has target 'label'"):
        evaluated(task, tables(), met(target="label"))
    with pytest.raises(NotApplicableError, match="on a split 'val'; blobs has none; give one of each"):
        task.requests(met(lengths={"database": 80, "test": 75}))
    with pytest.raises(ConfigError, match="would be chosen on 'val', which is scored"):
        task.requests(met(test_split="val"))
    assert InstanceRecognition(ks=(1,), logit_scales=(1.0,)).requests(met(test_split="val"))
    with pytest.raises(ConfigError, match="blobs/whitening show no known instance"):
        task.requests(met(test_split="whitening", lengths={"database": 80, "val": 75, "whitening": 90}))
    with pytest.raises(ConfigError, match="81 neighbours among 80 images of blobs; ask for fewer"):
        InstanceRecognition(ks=(1, 81)).requests(met())


def test_sets_in_which_nothing_can_be_recognised_are_refused() -> None:
    nothing = {**TARGETS, "val": np.full(5, -1)}
    with pytest.raises(
        DataError, match=r"blobs/val: none of the 5 queries shows a known instance; .*--limit"
    ):
        measured(tables(targets=nothing))
    alone = {**TARGETS, "database": np.zeros(80, np.int64)}
    with pytest.raises(DataError, match="one instance alone"):
        measured(tables(targets=alone))


def test_directions_that_are_known_from_nothing_are_refused() -> None:
    few = {**TARGETS, "database": SHOWN[:4]}
    with pytest.raises(DataError, match=r"whitening to 5 dimensions: the 4 images .* vary in 3; offer more"):
        measured(tables(targets=few), ks=(1,))
    assert measured(tables(targets=few), ks=(1,), dim=3)["known"].any()


def test_features_that_are_not_finite_are_refused() -> None:
    source = tables()
    source.features = lambda _, split: np.full((len(TARGETS[split]), 6), np.nan, np.float32)
    with pytest.raises(ContractError, match="NaN"):
        measured(source)


def test_a_label_of_none_is_never_right() -> None:
    targets = {**TARGETS, "database": np.where(SHOWN == 0, -1, SHOWN)}
    samples = measured(tables(targets=targets))
    assert not samples["right"][~samples["known"]].any()


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 0},
        {"scales": ()},
        {"scales": (0.0,)},
        {"scales": (float("nan"),)},
        {"dim": 0},
        {"shrinkage": -0.1},
        {"shrinkage": 1.1},
        {"whitening": "none", "dim": 3},
        {"whitening": "none", "shrinkage": 0.5},
        {"ks": ()},
        {"ks": (0,)},
        {"logit_scales": ()},
        {"logit_scales": (0.0,)},
        {"logit_scales": (float("nan"),)},
        {"logit_scales": (1.0, float("inf"))},
    ],
    ids=str,
)
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^instance_recognition(\.\w+=|: .* no effect)"):
        InstanceRecognition(**wrong)
