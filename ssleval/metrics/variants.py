"""Whether classifiers are right on images, one row per image: of one split, of many variants, or of groups.

Of ImageNet-C, an image that could not be decoded in one variant is left out of all.
"""

from collections.abc import Sequence
from functools import reduce
from itertools import product
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from ssleval.core import DatasetCard, FeatureTable, Samples
from ssleval.core.corruptions import CORRUPTIONS, SEVERITIES
from ssleval.errors import DataError

IMAGENET_C = tuple(f"{name}-{severity}" for name, severity in product(CORRUPTIONS, SEVERITIES))
"""Splits of ImageNet-C, one for every variant."""


IMAGENET_9 = (
    "original", "mixed_same", "mixed_rand", "mixed_next", "only_fg", "no_fg", "only_bg_b", "only_bg_t"
)  # fmt: skip
"""Splits of ImageNet-9, one for every variation of foreground and background."""

HOUSEHOLDS = ("low_income", "medium_income", "high_income", "africa", "americas", "asia", "europe")
"""Groups of the images of Dollar Street."""

Relative: TypeAlias = Literal["top1", "real", "mce", "backgrounds", "households"]


def published_metric(card: DatasetCard) -> Relative:
    """Return the score that a relative of ImageNet-1k is published with."""
    if card.target == "multilabel":
        return "households" if card.name == "dollar_street" else "real"
    splits: dict[frozenset[str], Relative] = {
        frozenset(IMAGENET_C): "mce",
        frozenset(IMAGENET_9): "backgrounds",
    }
    return splits.get(frozenset(card.lengths), "top1")


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


def judged_in_groups(
    table: FeatureTable, logits: Float[np.ndarray, "n c"], truth: Bool[np.ndarray, "n c"], dataset: str
) -> Samples:
    """Return whether any label of each image is predicted, or is among the five best, also for `HOUSEHOLDS`.

    Ids begin with the groups of the image. In columns ``topK@GROUP`` images of other groups are NaN.

    Raises:
        DataError: no image is of one of the groups.
    """
    ranked = np.argsort(-logits, axis=1, kind="stable")[:, :5]
    hits = np.take_along_axis(truth, ranked, axis=1)
    columns: dict[str, Shaped[np.ndarray, " n"]] = {"row": table.rows, "predicted": ranked[:, 0]}
    columns |= {"top1": hits[:, 0], "top5": hits.max(axis=1)}
    groups = [one.split("/", 2)[:2] for one in table.ids]
    for group in HOUSEHOLDS:
        own = np.array([group in of for of in groups])
        if not own.any():
            raise DataError(f"{dataset}: no image of {group} is scored; raise --limit, or leave it out")
        columns |= {f"{name}@{group}": np.where(own, columns[name], np.nan) for name in ("top1", "top5")}
    return Samples(table.ids, columns)


def by_variation(judged: Sequence[Samples]) -> Samples:
    """Return one row for every image of every variation of `IMAGENET_9`, from the `judged_images` of each.

    ``top1@VARIATION`` is NaN for images of the others. The mean over parts of ``parted [n 2]`` over
    ``of_parts`` is the accuracy on ``mixed_same`` less that on ``mixed_rand``.
    """
    variation = np.repeat(np.arange(len(judged)), list(map(len, judged)))
    columns: dict[str, Shaped[np.ndarray, "n ..."]] = {
        name: np.concatenate([samples[name] for samples in judged]) for name in ("row", "predicted", "label")
    }
    right = np.concatenate([samples["top1"] for samples in judged])
    for place, name in enumerate(IMAGENET_9):
        columns[f"top1@{name}"] = np.where(variation == place, right, np.nan)
    parts = np.stack([variation == IMAGENET_9.index(name) for name in ("mixed_same", "mixed_rand")], axis=1)
    # The mean of twice the one and minus twice the other is their difference.
    columns |= {"variation": variation, "parted": parts * right[:, None] * np.array([2.0, -2.0])}
    ids = [f"{name}/{one}" for name, samples in zip(IMAGENET_9, judged, strict=True) for one in samples.ids]
    return Samples(ids, {**columns, "of_parts": parts})


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
