"""Training curves from the logs of `ssleval train`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssleval.errors import DataError
from ssleval.train.logfile import read_log

POINTS = 600
"""Most points of a curve; beyond, each is the mean of as many steps."""


def training_runs(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the curves of several runs, named so that they can be told apart."""
    runs = [training_curves(folder) for folder in folders]
    names = [run["name"] for run in runs]
    for run, folder in zip(runs, folders, strict=True):
        if names.count(run["name"]) > 1:
            run["name"] = folder.as_posix()
    return runs


def training_curves(folder: Path) -> dict[str, Any]:
    """Return the curves of one run: a name, steps and values of every term, scores of the evaluations.

    Raises:
        DataError: there is no log, or it is none.
    """
    try:
        lines = read_log(folder)
        steps = [line for line in lines if "evaluation" not in line]
        scored = [line for line in lines if "evaluation" in line]
        terms = {name: _curve(steps, name) for name in _terms(steps)}
        names = dict.fromkeys(name for line in scored for name in line["evaluation"])
        scores = {name: _scores(scored, name) for name in names}
    except (json.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{folder / 'log.jsonl'} is no log of `ssleval train` ({error})") from error
    if not lines:
        raise DataError(f"no training log in {folder}; name the folder that `ssleval train --out` wrote")
    return {"name": folder.resolve().name, "terms": terms, "scores": scores}


def _scores(scored: list[dict[str, Any]], name: str) -> dict[str, list[Any]]:
    """Return one score of every evaluation that has it, with the ends of its 95 % interval."""
    has = [(line["step"], line["evaluation"][name]) for line in scored if name in line["evaluation"]]
    ends = [score["ci95"] for _, score in has]
    return {
        "x": [step for step, _ in has],
        "y": [score["value"] for _, score in has],
        "low": [low for low, _ in ends],
        "high": [high for _, high in ends],
    }


def _terms(steps: list[dict[str, Any]]) -> list[str]:
    numbers = dict.fromkeys(
        name for line in steps for name, value in line.items() if type(value) in {int, float}
    )
    return [name for name in numbers if name not in {"step", "epoch"}]


def _curve(steps: list[dict[str, Any]], name: str) -> dict[str, Any]:
    points = np.array([(line["step"], line[name]) for line in steps if name in line], dtype=np.float64)
    per_point = -(-len(points) // POINTS)
    starts = np.arange(0, len(points), per_point)
    means = np.add.reduceat(points, starts) / np.diff(starts, append=len(points))[:, None]
    return {"x": means[:, 0].tolist(), "y": means[:, 1].tolist(), "steps_per_point": per_point}
