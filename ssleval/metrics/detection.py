"""COCO's average precision of boxes and of masks: matches by pycocotools, image by image; their statistic.

pycocotools decides which detection finds which object. Its average precision is of a whole set; here it is
computed from the matches, so that images can be left out and counted twice.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from itertools import repeat
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int64, Integer, Shaped

from ssleval.core import Metric, Samples
from ssleval.core.targets import Objects
from ssleval.metrics.stats import Scores, Weights, divide, mean_of_known, statistic

THRESHOLDS = 10
"""Intersections over union from which on a detection is right: 0.5, 0.55, ..., 0.95."""
_RECALLS = np.linspace(0.0, 1.0, 101)
_VALUES_AT_ONCE = 4_000_000
_OF_DETECTIONS = ("scores", "labels", "matched", "ignored")


class Detections(NamedTuple):
    """What was found in an image, the surest first."""

    boxes: Float[np.ndarray, "k 4"]
    """As those of `Objects`."""
    scores: Float[np.ndarray, " k"]
    labels: Integer[np.ndarray, " k"]
    masks: Iterable[Bool[np.ndarray, "H W"]] | None = None
    """Pixels of each, read once."""


def matches(
    objects: Objects, found: Detections, num_classes: int, kind: Literal["bbox", "segm"]
) -> dict[str, Shaped[np.ndarray, " _"]]:
    """Return what pycocotools makes of the detections in one image, by their boxes or by their masks.

    ``matched`` and ``ignored`` have a number for each detection, whose bit t is set where, at threshold t, it
    finds an object, and where it counts neither way. ``objects`` has the number of objects of each class.
    """
    coco: Any = import_module("pycocotools.coco")
    cocoeval: Any = import_module("pycocotools.cocoeval")
    # Outside the range of areas, an object that need not be found is matched as any other, then left out.
    areas = np.where(objects.difficult, -1.0, 1.0)
    segm = kind == "segm"
    truth = _annotations(
        objects.boxes, objects.labels, objects.masks if segm else None, area=areas, iscrowd=objects.crowd
    )
    guesses = _annotations(found.boxes, found.labels, found.masks if segm else None, score=found.scores)
    columns = {name: np.zeros(len(found.scores), np.uint16) for name in ("matched", "ignored")}
    counts = np.zeros(num_classes, np.int64)
    with redirect_stdout(StringIO()):
        sides = [coco.COCO(), coco.COCO()]
        for side, annotations in zip(sides, (truth, guesses), strict=True):
            image = {"id": 1, "height": objects.size[0], "width": objects.size[1]}
            classes = [{"id": label} for label in range(num_classes)]
            side.dataset = {"images": [image], "categories": classes, "annotations": annotations}
            side.createIndex()
        judge = cocoeval.COCOeval(*sides, kind)
        judge.params.areaRng, judge.params.maxDets = [[0, 1e10]], [max(1, len(guesses))]
        judge.evaluate()
    bits = 1 << np.arange(THRESHOLDS)[:, None]
    for judged in filter(None, judge.evalImgs):
        places = np.array(judged["dtIds"], np.int64) - 1
        columns["matched"][places] = ((judged["dtMatches"] > 0) * bits).sum(0)
        columns["ignored"][places] = (judged["dtIgnore"] * bits).sum(0)
        counts[judged["category_id"]] = (judged["gtIgnore"] == 0).sum()
    return {**columns, "objects": counts}


def _annotations(
    boxes: Float[np.ndarray, "k 4"],
    labels: Integer[np.ndarray, " k"],
    masks: Iterable[Bool[np.ndarray, "H W"]] | None,
    **fields: np.ndarray,
) -> list[dict[str, Any]]:
    runs: Any = import_module("pycocotools.mask")

    given = {"area": np.ones(len(labels)), "iscrowd": np.zeros(len(labels)), **fields}
    annotations: list[dict[str, Any]] = []
    outlines = repeat(None, len(labels)) if masks is None else masks
    for place, (box, label, mask) in enumerate(zip(boxes.tolist(), labels.tolist(), outlines, strict=True)):
        sides = [*box[:2], box[2] - box[0], box[3] - box[1]]
        # From 1: pycocotools takes 0 for no match.
        row = {"id": place + 1, "image_id": 1, "category_id": label, "bbox": sides}
        row |= {name: float(values[place]) for name, values in given.items()}
        if mask is not None:
            row["segmentation"] = runs.encode(np.asfortranarray(mask, np.uint8))
        annotations.append(row)
    return annotations


def padded(rows: Sequence[Shaped[np.ndarray, " _"]], fill: int) -> Shaped[np.ndarray, "n k"]:
    """Return rows of different lengths as one array, filled up with ``fill``; k is 1 at least."""
    width = max(1, *map(len, rows))
    return np.stack([np.pad(row, (0, width - len(row)), constant_values=fill) for row in rows])


@statistic
def coco_average_precision_of(
    samples: Samples, weights: Weights, scores: str, labels: str, matched: str, ignored: str, objects: str
) -> Scores:
    """Return the statistic that is COCO's AP: the mean over classes, and over IoUs of 0.5, 0.55 to 0.95.

    ``scores`` and ``labels [n k]`` are of the detections in image i, -1 being the label of none; ``matched``
    ``ignored [n k]`` and ``objects [n c]`` are those of `matches`. Precision is the largest at a recall or a
    higher one, averaged over the recalls 0, 0.01, ..., 1. A class without objects is left out.

    Source:
        pycocotools, COCOeval.accumulate.
    """
    columns = {"scores": scores, "labels": labels, "matched": matched, "ignored": ignored, "objects": objects}
    return mean_of_known(class_precisions(samples, weights, THRESHOLDS, columns))


@statistic
def coco_precision_at_half_of(
    samples: Samples, weights: Weights, scores: str, labels: str, matched: str, ignored: str, objects: str
) -> Scores:
    """Return COCO's AP50: that of an IoU of 0.5 alone; otherwise `coco_average_precision_of`."""
    columns = {"scores": scores, "labels": labels, "matched": matched, "ignored": ignored, "objects": objects}
    return mean_of_known(class_precisions(samples, weights, 1, columns))


def coco_metrics(side: str, kind: str) -> tuple[Metric, Metric]:
    """Return AP50 and AP of the columns that begin with ``side``, those of `matches` with ``kind`` too."""
    columns = f"{side}scores", f"{side}labels", f"{side}{kind}matched", f"{side}{kind}ignored", "objects"
    half, every = coco_precision_at_half_of(*columns), coco_average_precision_of(*columns)
    return Metric(f"{side}{kind}ap50", half), Metric(f"{side}{kind}ap", every)


def class_precisions(
    samples: Samples, weights: Weights, thresholds: int, columns: Mapping[str, str], *, smooth: bool = False
) -> Float[np.ndarray, "r c"]:
    """Return the average precision of every class, averaged over the first ``thresholds``.

    NaN for a class without objects of any weight. ``columns`` are those of `coco_average_precision_of`. The
    mean over 101 recalls jumps where one of them is no longer reached; ``smooth``, it is over all: the area
    that VOC's kit takes since 2010.
    """
    scores, labels, matched, ignored = (samples[columns[name]] for name in _OF_DETECTIONS)
    totals = weights @ samples[columns["objects"]].astype(np.float64)
    precisions = np.zeros(totals.shape)
    for label in range(totals.shape[1]):
        rows, places = np.nonzero(labels == label)
        order = np.argsort(-scores[rows, places], kind="stable")
        rows, places = rows[order], places[order]
        found, left_out = matched[rows, places], ignored[rows, places]
        step = max(1, _VALUES_AT_ONCE // max(1, len(rows)))
        for start in range(0, len(weights), step):
            part = slice(start, start + step)
            drawn, total = weights[part][:, rows], totals[part, label]
            areas = [
                _areas(drawn, total, found, left_out, 1 << bit, smooth=smooth) for bit in range(thresholds)
            ]
            precisions[part, label] = np.mean(areas, axis=0)
    return np.where(totals > 0, precisions, np.nan)


def _areas(
    drawn: Float[np.ndarray, "r e"],
    totals: Float[np.ndarray, " r"],
    matched: Integer[np.ndarray, " e"],
    ignored: Integer[np.ndarray, " e"],
    bit: int,
    *,
    smooth: bool,
) -> Scores:
    """Return the mean over recalls of the largest precision there or further down the ranking."""
    counts = ignored & bit == 0
    # Recall is gained only at right detections, and precision is largest there: others need no place.
    right: Int64[np.ndarray, " p"] = np.flatnonzero((matched & bit > 0) & counts)
    hits = drawn[:, right].cumsum(axis=1)
    seen = (drawn * counts).cumsum(axis=1)[:, right]
    best = np.maximum.accumulate(divide(hits, seen, 0.0)[:, ::-1], axis=1)[:, ::-1]
    recalls = divide(hits, np.broadcast_to(totals[:, None], hits.shape), 0.0)
    if smooth:
        return (best * np.diff(recalls, axis=1, prepend=0.0)).sum(axis=1)
    reached = np.concatenate([best, np.zeros((len(best), 1))], axis=1)
    places = [np.searchsorted(row, _RECALLS, side="left") for row in recalls]
    return np.array([row[place].mean() for row, place in zip(reached, places, strict=True)])
