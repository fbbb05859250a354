"""Scores of the embedded checkpoint on rendered pictures, to the digit, from renderer to metrics.

A hundred pictures of each split are rendered, not the whole set, so that this takes seconds. A change that
moves one of these numbers moves scores: it belongs under *Scores* in the changelog, with a new task version.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssleval.backbones.zoo import load
from ssleval.core import Context, Dataset, DatasetOptions, Split
from ssleval.datasets.catalog import open_dataset
from ssleval.datasets.scenes.store import array, render_split
from ssleval.datasets.scenes.targets import picture, stored
from ssleval.run.jobs import make_job
from ssleval.run.measure import measure

LENGTHS = {"train": 100, "test": 100}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    for split, length in LENGTHS.items():
        render_split(root / split, split, length)
    return root


def rendered(folder: Path, target: str) -> Dataset:
    """Return the first pictures of `scenes` with one of its targets."""
    whole = open_dataset(f"scenes:{target}" if target else "scenes", DatasetOptions())

    def open_split(name: str) -> Split:
        place = folder / name
        labels = np.array(array(place, "label")) if not target else None
        dense = partial(stored, target, place) if target else None
        ids = [f"{name}/{row:03d}" for row in range(LENGTHS[name])]
        return Split(ids, partial(picture, place), labels, f"{name} {target}", dense)

    return replace(whole, card=replace(whole.card, lengths=LENGTHS), open=open_split)


@pytest.mark.parametrize(
    ("task", "target", "settings", "expected"),
    [
        ("knn", "", {"ks": (5,), "preprocessing": "card"}, {"top1@5": 0.58, "top5@5": 0.86}),
        ("logreg", "", {"count": 5, "preprocessing": "card"}, {"top1": 0.68}),
        ("segmentation_knn", "mask", {"size": 112, "memory_size": 20_000}, {"mean_iou": 0.360100982}),
    ],
)
def test_scores_are_what_they_were(
    folder: Path, tmp_path: Path, task: str, target: str, settings: dict[str, Any], expected: dict[str, float]
) -> None:
    job = make_job(task, f"scenes:{target}", rendered(folder, target), settings, None)
    (result,) = measure(load("dino_scenes"), [job], Context(cache=tmp_path, progress=False), None)
    scores = {name: result.metrics[name].value for name in expected}
    assert scores == pytest.approx(expected, abs=1e-6)
