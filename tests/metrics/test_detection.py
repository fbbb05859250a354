"""Average precision of detections against pycocotools on the whole set; its intervals against a bootstrap."""

from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from typing import Any, Literal

import numpy as np
import pytest

from ssleval.core import Metric, Samples
from ssleval.core.targets import Objects
from ssleval.metrics.detection import (
    Detections,
    coco_average_precision_of,
    coco_precision_at_half_of,
    matches,
    padded,
)
from ssleval.metrics.influence import influence_of, spread
from ssleval.metrics.intervals import estimates

runs: Any = import_module("pycocotools.mask")
coco: Any = import_module("pycocotools.coco")
cocoeval: Any = import_module("pycocotools.cocoeval")

COLUMNS = {name: name for name in ("scores", "labels", "matched", "ignored", "objects")}
AP = Metric("ap", coco_average_precision_of(**COLUMNS))
AP50 = Metric("ap50", coco_precision_at_half_of(**COLUMNS))
SIZE = (24, 30)
Image = tuple[Objects, Detections]


def filled(boxes: np.ndarray) -> np.ndarray:
    masks = np.zeros((len(boxes), *SIZE), bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes.round().astype(int), strict=True):
        mask[top:bottom, left:right] = True
    return masks


def corners(random: np.random.Generator, count: int) -> np.ndarray:
    start = random.integers(0, 16, (count, 2))
    return np.concatenate([start, start + random.integers(2, 9, (count, 2))], axis=1).astype(float)


def drawn(random: np.random.Generator, classes: int, flagged: float = 0.15) -> Image:
    """An image whose detections are its objects, moved a little, and others."""
    m = int(random.integers(0, 5))
    boxes, labels = corners(random, m), random.integers(0, classes, m)
    truth = Objects(
        SIZE, boxes, labels, random.random(m) < flagged, random.random(m) < flagged, filled(boxes)
    )
    copies = np.repeat(boxes, 2, axis=0)
    moved = (copies + random.normal(0, 0.8, copies.shape)).clip(0, 24)
    moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
    found = np.concatenate([moved, corners(random, int(random.integers(0, 4)))])
    guessed = np.concatenate([np.repeat(labels, 2), random.integers(0, classes, len(found) - 2 * m)])
    wrong = random.random(len(found)) < 0.2
    guessed = np.where(wrong, random.integers(0, classes, len(found)), guessed)
    # Of few values, so that there are ties within images and between them.
    scores = np.sort(random.integers(1, 40, len(found)) / 40)[::-1]
    return truth, Detections(found, scores, guessed, filled(found))


def samples(images: list[Image], classes: int, kind: Literal["bbox", "segm"]) -> Samples:
    rows = [matches(truth, found, classes, kind) for truth, found in images]
    columns = {name: padded([row[name] for row in rows], 0) for name in ("matched", "ignored")}
    columns["scores"] = padded([found.scores for _, found in images], 0)
    columns["labels"] = padded([found.labels for _, found in images], -1)
    columns["objects"] = np.stack([row["objects"] for row in rows])
    return Samples([str(row) for row in range(len(images))], columns)


def official(images: list[Image], classes: int, kind: str) -> tuple[float, float]:
    """Return AP and AP50 as pycocotools computes them from a file of results."""

    def annotation(number: int, image: int, label: int, box: np.ndarray, mask: np.ndarray) -> dict[str, Any]:
        left, top, right, bottom = map(float, box)
        outline = runs.encode(np.asfortranarray(mask, np.uint8))
        place = {"bbox": [left, top, right - left, bottom - top], "area": 50.0, "segmentation": outline}
        return {"id": number, "image_id": image, "category_id": int(label) + 1, "iscrowd": 0, **place}

    truth: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image, (objects, found) in enumerate(images):
        assert objects.masks is not None
        assert isinstance(found.masks, np.ndarray)
        for row, label in enumerate(objects.labels):
            one = annotation(len(truth) + 1, image, label, objects.boxes[row], objects.masks[row])
            one |= {"iscrowd": int(objects.crowd[row]), "area": -1.0 if objects.difficult[row] else 50.0}
            truth.append(one)
        for row, label in enumerate(found.labels):
            one = annotation(0, image, label, found.boxes[row], found.masks[row])
            results.append({**one, "score": float(found.scores[row])})
            del results[-1]["bbox" if kind == "segm" else "segmentation"]
    with redirect_stdout(StringIO()):
        known = coco.COCO()
        known.dataset = {
            "images": [{"id": image, "height": SIZE[0], "width": SIZE[1]} for image in range(len(images))],
            "categories": [{"id": label + 1} for label in range(classes)],
            "annotations": truth,
        }
        known.createIndex()
        judge = cocoeval.COCOeval(known, known.loadRes(results), kind)
        judge.params.areaRng, judge.params.areaRngLbl = [[0, 1e10]], ["all"]
        judge.evaluate()
        judge.accumulate()
    precision = judge.eval["precision"][:, :, :, 0, -1]
    return tuple(float(part[part > -1].mean()) for part in (precision, precision[:1]))  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize("case", range(100))
def test_average_precision_is_that_of_pycocotools(case: int) -> None:
    random = np.random.default_rng(case)
    classes = int(random.integers(1, 4))
    kind: Literal["bbox", "segm"] = "segm" if case % 2 else "bbox"
    images = [drawn(random, classes) for _ in range(int(random.integers(3, 12)))]
    while not any(truth.counted.any() and len(found.scores) for truth, found in images):
        images.append(drawn(random, classes))
    rows = samples(images, classes, kind)
    assert [AP.score(rows), AP50.score(rows)] == pytest.approx(official(images, classes, kind), abs=1e-9)


def test_difficult_objects_and_crowds_are_neither_found_nor_missed() -> None:
    box = np.array([[2.0, 2, 12, 12], [15, 2, 25, 12]])
    found = Detections(np.concatenate([box, box[1:] + 0.1]), np.array([0.5, 0.9, 0.8]), np.zeros(3, int))

    def score(difficult: bool, crowd: bool) -> float:
        truth = Objects(
            SIZE, box, np.zeros(2, int), np.array([False, difficult]), np.array([False, crowd]), None
        )
        return AP50.score(samples([(truth, found)], 1, "bbox"))

    # A crowd takes all detections inside it; a difficult object one, and the other is wrong.
    assert score(difficult=False, crowd=True) == 1
    assert score(difficult=True, crowd=False) == pytest.approx(1 / 2)
    # Both found, and a wrong one between them.
    assert score(difficult=False, crowd=False) == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)


def test_nothing_found_is_zero_and_classes_without_objects_do_not_count() -> None:
    nothing = Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))
    truth = Objects(SIZE, np.array([[2.0, 2, 8, 8]]), np.zeros(1, int), np.zeros(1, bool), np.zeros(1, bool))
    right = Detections(truth.boxes, np.array([0.3]), truth.labels)
    assert AP.score(samples([(truth, nothing)], 2, "bbox")) == 0
    assert AP.score(samples([(truth, right)], 2, "bbox")) == 1


def many(count: int, seed: int = 0) -> Samples:
    random = np.random.default_rng(seed)
    return samples([drawn(random, 3) for _ in range(count)], 3, "bbox")


def test_the_interval_is_as_wide_as_the_bootstrap_of_images() -> None:
    rows = many(150)
    draws = (
        np.random.default_rng(1).multinomial(len(rows), np.full(len(rows), 1 / len(rows)), 600).astype(float)
    )
    for metric in (AP, AP50):
        spreads = metric.statistic(rows, draws).std()
        deviation = spread(influence_of(metric, rows, None))[0] ** 0.5
        assert deviation == pytest.approx(spreads, rel=0.15)


def area(rows: Samples, left_out: int, label: int, bit: int) -> float:
    """Return the average precision of a class without an image, by the loops of VOC's kit of 2010."""
    kept = [row for row in range(len(rows)) if row != left_out]
    ranked = [
        (-rows["scores"][row, place], row, place)
        for row in kept
        for place in range(rows["labels"].shape[1])
        if rows["labels"][row, place] == label and not rows["ignored"][row, place] & bit
    ]
    right = np.array([rows["matched"][row, place] & bit > 0 for _, row, place in sorted(ranked)], float)
    total = rows["objects"][kept, label].sum()
    recall = np.concatenate([[0], right.cumsum() / total, [1]])
    precision = np.concatenate([[0], right.cumsum() / np.arange(1, len(right) + 1), [0]])
    for place in range(len(precision) - 2, -1, -1):
        precision[place] = max(precision[place], precision[place + 1])
    steps = np.flatnonzero(recall[1:] != recall[:-1])
    return float(((recall[steps + 1] - recall[steps]) * precision[steps + 1]).sum())


def test_moves_are_those_of_smooth_scores_without_an_image() -> None:
    rows = many(12)
    found = influence_of(AP50, rows, None)
    for label in range(3):
        moves = [area(rows, -1, label, 1) - area(rows, row, label, 1) for row in range(12)]
        np.testing.assert_allclose(3 * found.moves[:, label], moves, atol=1e-12)
    shown = (rows["objects"] > 0).sum(0)
    assert shown.min() > 1
    np.testing.assert_array_equal(found.carriers, shown)
    # Of all thresholds, the mean.
    every = influence_of(AP, rows, None)
    move = np.mean([area(rows, -1, 0, 1 << bit) - area(rows, 5, 0, 1 << bit) for bit in range(10)])
    assert 3 * every.moves[5, 0] == pytest.approx(move, abs=1e-12)


def test_classes_that_no_image_shows_are_said() -> None:
    truth = Objects(SIZE, np.array([[2.0, 2, 8, 8]]), np.zeros(1, int), np.zeros(1, bool), np.zeros(1, bool))
    right = Detections(truth.boxes, np.array([0.3]), truth.labels)
    note = estimates([AP], samples([(truth, right)] * 12, 2, "bbox"), class_names=("cat", "dog"))["ap"].note
    assert note == "in no item: 1 class (dog)"
