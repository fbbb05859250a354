"""Training curves from the logs of `ssleval train`. Imports no torch."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssleval.errors import DataError
from ssleval.train.logfile import read_log

POINTS = 600
"""Largest number of points of a curve; in longer logs each point is the mean of several steps."""


def training_runs(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the curves of several runs; runs with equal names are named by their folder's path."""
    runs = [training_curves(folder) for folder in folders]
    names = [run["name"] for run in runs]
    for run, folder in zip(runs, folders, strict=True):
        if names.count(run["name"]) > 1:
            run["name"] = folder.as_posix()
    return runs


def training_curves(folder: Path) -> dict[str, Any]:
    """Return the name of one run, the curve of every term of its log, and the scores of its evaluations.

    Raises:
        DataError: there is no log, or it cannot be read.
    """
    try:
        lines = read_log(folder)
        steps = [line for line in lines if "evaluation" not in line]
        evaluations = [line for line in lines if "evaluation" in line]
        terms = {name: _curve(steps, name) for name in _terms(steps)}
        names = dict.fromkeys(name for line in evaluations for name in line["evaluation"])
        scores = {name: _scores(evaluations, name) for name in names}
    except (json.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{folder / 'log.jsonl'} is no log of `ssleval train` ({error})") from error
    if not lines:
        raise DataError(f"no training log in {folder}; name the folder that `ssleval train --out` wrote")
    return {"name": folder.resolve().name, "terms": terms, "scores": scores}


def _scores(evaluations: list[dict[str, Any]], name: str) -> dict[str, list[Any]]:
    """Return the steps, values and 95 % intervals of one score."""
    scores = [(line["step"], line["evaluation"][name]) for line in evaluations if name in line["evaluation"]]
    rows = [(step, score["value"], *score["ci95"]) for step, score in scores]
    return dict(zip(("x", "y", "low", "high"), map(list, zip(*rows, strict=True)), strict=True))


def _terms(steps: list[dict[str, Any]]) -> list[str]:
    numbers = {name: 0 for line in steps for name, value in line.items() if type(value) in {int, float}}
    return [name for name in numbers if name not in {"step", "epoch"}]


def _curve(steps: list[dict[str, Any]], name: str) -> dict[str, Any]:
    points = np.array([(line["step"], line[name]) for line in steps if name in line], dtype=np.float64)
    per_point = -(-len(points) // POINTS)
    starts = np.arange(0, len(points), per_point)
    means = np.add.reduceat(points, starts) / np.diff(starts, append=len(points))[:, None]
    return {"x": means[:, 0].tolist(), "y": means[:, 1].tolist(), "steps_per_point": per_point}
