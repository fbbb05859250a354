"""What must stand beside a score: its own note, data that the model saw before, scores without leaks."""

from collections.abc import Mapping
from typing import Any

from ssleval.results.numbers import with_interval
from ssleval.results.record import Result

SEEDED = "†"
"""Marks a score on data that the model's pre-training data holds, or was chosen by."""
_OTHER_NAMES = {
    "coco2017": "coco", "fgvcaircraft": "aircraft", "nyuv2_normals": "nyuv2",
    "oxford_flowers102": "flowers102", "oxford_iiit_pet": "pets", "oxfordiiitpet": "pets",
    "stanfordcars": "cars", "voc2012_detection": "voc2012", "voc2012_instances": "voc2012",
}  # fmt: skip
"""How cards of models name the images of sets: of other targets, and of other sources."""


def mark(result: Result) -> str:
    """Return `SEEDED` where the model's card names the dataset among those that its training data knew."""
    names = _names(str(result.data.get("name") or result.dataset))
    return SEEDED if names & set(result.backbone.get("seeded_by") or ()) else ""


def _names(dataset: str) -> set[str]:
    """Return the names under which cards know the images of a dataset."""
    source, _, location = dataset.partition(":")
    if source == "list":
        return _names(location.rpartition("@")[2])
    if source == "torchvision":
        source = location.lower()
    elif source == "vtab":
        source = location.rstrip("/").rpartition("/")[2]
    return {dataset, source, _OTHER_NAMES.get(source, source)}


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
