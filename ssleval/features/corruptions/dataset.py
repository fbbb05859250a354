"""A dataset's test images under corruptions: one split with every variant of every image.

Images are resized and cropped before they are corrupted, as in ImageNet-C, so that a severity means the same
whatever the size of the file.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from PIL import Image

from ssleval.core import Dataset, Geometry, Split, digest
from ssleval.core.geometry import apply
from ssleval.features.corruptions import VERSION, corrupt

Variant = tuple[str, int]
"""Name of a corruption and its severity."""

CLEAN: Variant = ("clean", 0)
"""Resized and cropped only."""


def _variant(split: Split, geometry: Geometry, variants: tuple[Variant, ...], index: int) -> Image.Image:
    variant, row = divmod(index, len(split))
    pixels = apply(geometry, split.image(row))
    if variants[variant] != CLEAN:
        pixels = corrupt(pixels, *variants[variant], split.ids[row])
    return Image.fromarray(pixels)


def corrupted(dataset: Dataset, geometry: Geometry, variants: Sequence[Variant], items: int) -> Dataset:
    """Return ``dataset`` with the split ``corrupted``: variant after variant of the same images.

    Images are at ``geometry``; ids are ``NAME-SEVERITY/ID``. At most ``items`` images are taken, a fixed
    draw from the scored split; 0 takes all.
    """
    card = dataset.card
    count = len(first_items(card.lengths[card.test_split], items))

    def open_split(name: str) -> Split:  # noqa: ARG001
        split = dataset.split(card.test_split)
        split = split.subset(first_items(len(split), items))
        return Split(
            ids=[f"{kind}-{severity}/{item}" for kind, severity in variants for item in split.ids],
            image=partial(_variant, split, geometry, tuple(variants)),
            targets=None if split.targets is None else np.concatenate([split.targets] * len(variants)),
            fingerprint=digest(
                [VERSION, split.fingerprint, geometry.recorded(), [list(v) for v in variants]]
            ),
            refuse_changed=split.refuse_changed,
        )

    lengths = {"corrupted": count * len(variants)}
    return Dataset(replace(card, lengths=lengths, test_split="corrupted"), open_split)


def first_items(count: int, items: int) -> np.ndarray:
    """Return the rows, in order, of a fixed draw of ``items`` out of ``count``; 0 takes all."""
    if not 0 < items < count:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).permutation(count)[:items])
