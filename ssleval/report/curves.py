"""Training curves from the logs of `ssleval train`."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from ssleval.errors import DataError

__all__ = ["training_curves"]

POINTS = 600
"""Most points of a curve; beyond, each is the mean of as many steps."""


def training_curves(folder: Path) -> dict[str, Any]:
    """Return the curves of one run: a name, steps and values of every term, scores of the evaluations.

    Raises:
        DataError: there is no log, or it is none.
    """
    try:
        lines = _lines(folder)
        steps = [line for line in lines if "evaluation" not in line]
        scored = [line for line in lines if "evaluation" in line]
        terms = {name: _curve(steps, name) for name in _terms(steps)}
        scores = {
            name: {
                "x": [line["step"] for line in has],
                "y": [line["evaluation"][name]["value"] for line in has],
            }
            for name in dict.fromkeys(name for line in scored for name in line["evaluation"])
            if (has := [line for line in scored if name in line["evaluation"]])
        }
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{folder / 'log.jsonl'} is no log of `ssleval train` ({error})") from error
    if not lines:
        raise DataError(f"no training log in {folder}; name the folder that `ssleval train --out` wrote")
    return {"name": folder.name or str(folder), "terms": terms, "scores": scores}


def _lines(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a log; a last one without an end was being written when it was read.

    Not by the reader of the trainer, which would import torch.
    """
    path = folder / "log.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _terms(steps: list[dict[str, Any]]) -> list[str]:
    numbers = dict.fromkeys(
        name for line in steps for name, value in line.items() if isinstance(value, int | float)
    )
    return [name for name in numbers if name not in {"step", "epoch"}]


def _curve(steps: list[dict[str, Any]], name: str) -> dict[str, Any]:
    points = np.array([(line["step"], line[name]) for line in steps if name in line], dtype=np.float64)
    per_point = -(-len(points) // POINTS)
    starts = np.arange(0, len(points), per_point)
    means = np.add.reduceat(points, starts) / np.diff(starts, append=len(points))[:, None]
    return {"x": means[:, 0].tolist(), "y": means[:, 1].tolist(), "steps_per_point": per_point}
