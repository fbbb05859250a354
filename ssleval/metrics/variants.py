"""Whether classifiers are right on images, and one row per image that is judged in many variants.

An image that could not be decoded in one variant is left out of all.
"""

from collections.abc import Sequence
from functools import reduce
from itertools import product
from typing import Literal

import numpy as np
from jaxtyping import Float, Int, Shaped

from ssleval.core import DatasetCard, FeatureTable, Samples
from ssleval.core.corruptions import CORRUPTIONS, SEVERITIES
from ssleval.errors import DataError

IMAGENET_C = tuple(f"{name}-{severity}" for name, severity in product(CORRUPTIONS, SEVERITIES))
"""Splits of ImageNet-C, one for every variant."""


def published_metric(card: DatasetCard) -> Literal["top1", "real", "mce"]:
    """Return the score that a relative of ImageNet-1k is published with."""
    if card.target == "multilabel":
        return "real"
    return "mce" if set(card.lengths) == set(IMAGENET_C) else "top1"


def judged_images(
    table: FeatureTable, predicted: Int[np.ndarray, " n"], truth: Shaped[np.ndarray, "n ..."]
) -> Samples:
    """Return what was predicted for every image, its ``row`` in the split, and whether it is right.

    That is ``top1`` beside ``label``, or ``real`` where images have several labels, any of which is right.
    """
    columns = {"row": table.rows, "predicted": predicted}
    if truth.ndim > 1:
        return Samples(table.ids, {**columns, "real": truth[np.arange(len(truth)), predicted]})
    return Samples(table.ids, {**columns, "label": truth, "top1": predicted == truth})


def errors_by_image(judged: Sequence[Samples], dataset: str) -> Samples:
    """Return what `mean_corruption_error_of` reads, from what was judged on each of the `IMAGENET_C` splits.

    ``judged`` are the `judged_images` of every split.

    Raises:
        DataError: no image was decoded in all variants, or a row is not the same image in all splits.
    """
    _refuse_other_images(judged, dataset)
    kept = reduce(np.intersect1d, [samples["row"] for samples in judged])
    if not len(kept):
        raise DataError(f"{dataset}: no image could be decoded in all its variants")
    places = [np.searchsorted(samples["row"], kept) for samples in judged]
    right = np.stack([samples["top1"][place] for samples, place in zip(judged, places, strict=True)], axis=1)
    wrong = ~right.reshape(len(kept), len(CORRUPTIONS), len(SEVERITIES))
    first, rows = judged[0], places[0]
    columns = {"label": first["label"][rows], "wrong": wrong, "error": wrong.mean(axis=(1, 2))}
    return Samples([first.ids[int(row)] for row in rows], columns)


def _refuse_other_images(judged: Sequence[Samples], dataset: str) -> None:
    names: dict[int, str] = {}
    for variant, samples in zip(IMAGENET_C, judged, strict=True):
        for row, name in zip(samples["row"].tolist(), samples.ids, strict=True):
            if names.setdefault(row, name) != name:
                raise DataError(
                    f"{dataset}/{variant}: image {name} where other splits have {names[row]}; "
                    "the copy is not the published one"
                )


def by_variant(
    correct: Shaped[np.ndarray, " m"], rows: Int[np.ndarray, " m"], variants: int, images: int
) -> Float[np.ndarray, "v n"]:
    """Return whether each image was right (or another value) in each variant, for those that have all.

    Row ``i * images + j`` is image ``j`` in variant ``i``.
    """
    table = np.full(variants * images, np.nan)
    table[rows] = correct
    table = table.reshape(variants, images)
    return table[:, ~np.isnan(table).any(axis=0)]


def accuracy_columns(
    correct: Float[np.ndarray, "v n"], variants: Sequence[tuple[str, int]]
) -> dict[str, Float[np.ndarray, "n ..."]]:
    """Return how often each image was right among its variants, the first of which is the clean one.

    Columns are ``corrupted`` (all but the first), ``clean``, ``lost`` (their difference), one for the name of
    every corruption, and ``severityS`` for every severity.
    """
    clean, corrupted = correct[0], correct[1:].mean(axis=0)
    columns = {"corrupted": corrupted, "clean": clean, "lost": clean - corrupted}
    for name in dict.fromkeys(name for name, _ in variants[1:]):
        columns[name] = correct[[kind == name for kind, _ in variants]].mean(axis=0)
    for severity in dict.fromkeys(severity for _, severity in variants[1:]):
        columns[f"severity{severity}"] = correct[[strength == severity for _, strength in variants]].mean(
            axis=0
        )
    return columns
