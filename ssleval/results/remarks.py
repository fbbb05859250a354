"""What must stand beside a score: its own note, data that the model saw before, scores without leaks."""

from collections.abc import Mapping
from typing import Any

from ssleval.results.numbers import with_interval
from ssleval.results.record import Result

SEEDED = "†"
"""Marks a score on data that the model's pre-training data holds, or was chosen by."""


def mark(result: Result) -> str:
    """Return `SEEDED` where the model's card names the dataset among those that its training data knew."""
    dataset = str(result.data.get("name") or result.dataset)
    source, _, location = dataset.partition(":")
    names = {dataset, source, *([location.lower()] if source == "torchvision" else [])}
    return SEEDED if names & set(result.backbone.get("seeded_by") or ()) else ""


def seeded(result: Result) -> str:
    """Return what the mark says; '' where there is none."""
    return f"{SEEDED} the pre-training data holds this set, or was chosen by it" if mark(result) else ""


def remarks(result: Result, name: str) -> str:
    """Return what must be said of one score, in one line; '' where nothing is."""
    return "; ".join(filter(None, (own_remarks(result, name), seeded(result))))


def own_remarks(result: Result, name: str) -> str:
    """Return the same without what is said of all scores of a result."""
    return "; ".join(filter(None, (result.metrics[name].note, without_leaks(result, name))))


def without_leaks(result: Result, name: str) -> str:
    """Return one score of the images without a copy in the other split, in words; '' if not known."""
    leaks: Mapping[str, Any] = result.leaks
    if name not in leaks.get("metrics", {}):
        return ""
    score = leaks["metrics"][name]
    low, high = score["ci95"]
    return f"{with_interval(score['value'], (low, high), score['unit'])} without {leaks['dropped']} leaked"
