"""Checks of scores on the embedded digits, by the usual tasks: pixel floor, shuffled labels, spectrum."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ssleval.backbones.zoo import load
from ssleval.checks.doctor.finding import Finding
from ssleval.checks.doctor.wiring import side_of
from ssleval.core import Context, Dataset, DatasetOptions, Split
from ssleval.core.backbone import Backbone
from ssleval.datasets.catalog import open_dataset
from ssleval.errors import DataError
from ssleval.results import Score
from ssleval.run.jobs import make_job
from ssleval.run.measure import measure

_KNN = {"ks": (10,), "preprocessing": "card"}
_SPECTRUM = {"first": 1, "last": 50, "preprocessing": "card"}
_PUBLISHED = {"preprocessing": "protocol"}
"""The geometry of the task itself: 224 pixels."""
_COLLAPSED = 2.0
"""Features of a lower effective rank are one direction and rounding errors."""


def score_checks(backbone: Backbone, context: Context, limit: int) -> dict[str, Callable[[], Finding]]:
    """Return the checks by name; the first one extracts the features for all."""
    digits = open_dataset("digits", DatasetOptions()).limited(limit)
    own = backbone.card.native_geometry().fixed_size
    seen: dict[str, Any] = {} if side_of(backbone) == own else _PUBLISHED

    def scores(model: Backbone, task: str, settings: dict[str, Any], dataset: Dataset = digits) -> Any:
        job = make_job(task, "digits", dataset, settings, limit)
        (result,) = measure(model, [job], context, None)
        return result.metrics

    def floor() -> Finding:
        pixels = scores(load("pixels", device=context.device), "knn", _KNN)["top1@10"]
        untrained = backbone.card.supervision == "none" and not backbone.card.weights
        return _against_floor(scores(backbone, "knn", _KNN | seen)["top1@10"], pixels, untrained=untrained)

    def permutation() -> Finding:
        top1 = scores(backbone, "knn", _KNN | seen, shuffled(digits))["top1@10"]
        return _against_chance(top1, digits.card.num_classes)

    def spectrum() -> Finding:
        try:
            return _of_spectrum(scores(backbone, "spectrum", _SPECTRUM | seen), backbone)
        except DataError as error:
            advice = "features have collapsed; check that the right network of the checkpoint was loaded"
            return Finding("fail", str(error), advice)

    return {"pixel floor": floor, "shuffled": permutation, "spectrum": spectrum}


def shuffled(dataset: Dataset) -> Dataset:
    """Return the same images with permuted labels; their stored features are reused."""

    def open_split(name: str) -> Split:
        split = dataset.split(name)
        assert split.targets is not None
        return replace(split, targets=np.random.default_rng(0).permutation(split.targets))

    return replace(dataset, open=open_split)


def _against_floor(top1: Score, floor: Score, *, untrained: bool) -> Finding:
    shown = f"10-NN on {top1.n} digits: {top1.shown}, mean colours {floor.shown}"
    if untrained:
        return Finding("skip", f"{shown}; an untrained network is a floor itself")
    if top1.ci95[1] < floor.value / 2:
        advice = "untrained networks score so; check the checkpoint's keys, mean and std, and norm layers"
        return Finding("fail", f"{shown}: less than half of the floor", advice)
    if top1.ci95[1] < floor.ci95[0]:
        return Finding(
            "warn", f"{shown}: below the floor", "colours suffice for digits; check with your own data"
        )
    return Finding("pass", shown)


def _against_chance(top1: Score, classes: int) -> Finding:
    shown = f"10-NN with shuffled labels: {top1.shown}, chance {100 / classes:.1f}"
    if top1.ci95[0] > 2 / classes:
        advice = "labels leak into the features; check whether the model keeps state between images"
        return Finding("fail", shown, advice)
    return Finding("pass", shown)


def _of_spectrum(scores: dict[str, Score], backbone: Backbone) -> Finding:
    rank, dead = scores["effective_rank"].value, scores["dead_dimensions"].value
    width = backbone.card.pooled_dim or backbone.card.embed_dim
    shown = f"effective rank {rank:.1f} of {width}, {100 * dead:.0f} % of dimensions dead"
    advice = "features lie along few directions; compare with other checkpoints of this model"
    if rank < _COLLAPSED or dead > 0.5:
        return Finding("fail", shown, advice)
    if dead > 0 or rank < 0.02 * width:
        return Finding("warn", shown, advice)
    return Finding("pass", shown)
