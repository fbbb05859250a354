"""Checks of scores on the embedded digits, by the ordinary tasks: pixel floor, shuffled labels, spectrum."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from ssleval.backbones.zoo import load
from ssleval.checks.doctor.finding import Finding
from ssleval.core import Context, Dataset, DatasetOptions, Split
from ssleval.core.backbone import Backbone
from ssleval.datasets.catalog import open_dataset
from ssleval.errors import DataError
from ssleval.results import Score
from ssleval.run.jobs import make_job
from ssleval.run.measure import measure

_KNN = {"ks": (10,), "preprocessing": "card"}
_SPECTRUM = {"first": 1, "last": 50, "preprocessing": "card"}
_COLLAPSED = 2.0
"""Effective rank below which features are one direction and some rounding."""


def score_checks(
    backbone: Backbone, context: Context, limit: int
) -> Iterator[tuple[str, Callable[[], Finding]]]:
    """Yield the names of the checks and the checks; features are extracted by the first, for all."""
    digits = open_dataset("digits", DatasetOptions()).limited(limit)

    def scores(task: str, dataset: Dataset, settings: dict[str, Any]) -> dict[str, Score]:
        job = make_job(task, "digits", dataset, settings, limit)
        (result,) = measure(backbone, [job], context, None)
        return dict(result.metrics)

    def floor() -> Finding:
        job = make_job("knn", "digits", digits, _KNN, limit)
        (pixels,) = measure(load("pixels", device=context.device), [job], context, None)
        found = scores("knn", digits, _KNN)["top1@10"]
        untrained = backbone.card.supervision == "none" and not backbone.card.weights
        return _against_floor(found, pixels.metrics["top1@10"], untrained=untrained)

    def permutation() -> Finding:
        return _against_chance(scores("knn", shuffled(digits), _KNN)["top1@10"], digits.card.num_classes)

    def spectrum() -> Finding:
        try:
            return _of_spectrum(scores("spectrum", digits, _SPECTRUM), backbone)
        except DataError as error:
            return Finding(
                "spectrum", "fail", str(error), "features have collapsed: is this the network meant?"
            )

    yield "pixel floor", floor
    yield "shuffled", permutation
    yield "spectrum", spectrum


def _against_floor(found: Score, floor: Score, *, untrained: bool) -> Finding:
    shown = f"10-NN on {found.n} digits: {_percent(found)}, mean colours {_percent(floor)}"
    if untrained:
        return Finding("pixel floor", "skip", f"{shown}; an untrained network is a floor itself")
    if found.ci95[1] < floor.value / 2:
        return Finding(
            "pixel floor",
            "fail",
            f"{shown}: not half of the floor",
            "an untrained network scores so; check the keys of the checkpoint, mean and std, and norm layers",
        )
    if found.ci95[1] < floor.ci95[0]:
        return Finding(
            "pixel floor", "warn", f"{shown}: below the floor", "digits are easy; check with data of your own"
        )
    return Finding("pixel floor", "pass", shown)


def _against_chance(found: Score, classes: int) -> Finding:
    shown = f"10-NN with shuffled labels: {_percent(found)}, chance {100 / classes:.1f}"
    if found.ci95[0] > 2 / classes:
        return Finding(
            "shuffled",
            "fail",
            shown,
            "labels reach the features: does the model keep anything between images?",
        )
    return Finding("shuffled", "pass", shown)


def _of_spectrum(scores: dict[str, Score], backbone: Backbone) -> Finding:
    rank, dead = scores["effective_rank"].value, scores["dead_dimensions"].value
    width = backbone.card.pooled_dim or backbone.card.embed_dim
    shown = f"effective rank {rank:.1f} of {width}, {100 * dead:.0f} % of dimensions dead"
    advice = "features lie along few directions: compare with other checkpoints of this model"
    if rank < _COLLAPSED or dead > 0.5:
        return Finding("spectrum", "fail", shown, advice)
    if dead > 0 or rank < 0.02 * width:
        return Finding("spectrum", "warn", shown, advice)
    return Finding("spectrum", "pass", shown)


def shuffled(dataset: Dataset) -> Dataset:
    """Return the same images, so that their features are reused, with labels of others."""

    def open_split(name: str) -> Split:
        split = dataset.split(name)
        assert split.targets is not None
        return replace(split, targets=np.random.default_rng(0).permutation(split.targets))

    return replace(dataset, open=open_split)


def _percent(score: Score) -> str:
    return f"{100 * score.value:.1f} [{100 * score.ci95[0]:.1f}, {100 * score.ci95[1]:.1f}]"
