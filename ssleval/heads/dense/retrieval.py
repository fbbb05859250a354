"""Dense nearest-neighbour retrieval: a bank of patch tokens with soft labels, and the vote of neighbours."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor, nn

from ssleval.core import IGNORED
from ssleval.errors import ConfigError, DataError
from ssleval.heads.dense.grid import Targets


@dataclass(frozen=True, slots=True)
class Bank:
    """Patch tokens of training images, and their labels."""

    keys: Float[np.ndarray, "n d"]
    """Tokens as they are stored, not normalised."""
    labels: Float[Tensor, "n c"]
    """The share of each class in a patch's labelled pixels; rows sum to one."""


def fill_bank(
    tokens: Float[np.ndarray, "n h w d"], masks: Targets, *, memory_size: int, num_classes: int, seed: int
) -> Bank:
    """Fill a bank with at most ``memory_size`` patches, equally many from each image.

    ``tokens`` may be memory-mapped: they are read image by image.
    """
    count = len(tokens)
    share = memory_size // max(1, count)
    if not share:
        raise ConfigError(f"a bank of {memory_size} patches cannot hold one of each of {count} images")
    generator = np.random.default_rng(seed)
    keys: list[Float[np.ndarray, "k d"]] = []
    labels: list[Float[np.ndarray, "k c"]] = []
    for row, grid in enumerate(tokens):
        soft = patch_labels(masks(row), grid.shape[:2], num_classes).reshape(-1, num_classes)
        kept = rare_patches(soft, share, generator)
        keys.append(grid.reshape(-1, grid.shape[2])[kept])
        labels.append(soft[kept])
    if not any(len(part) for part in keys):
        raise DataError(f"a bank of patches: not one labelled pixel in {count} training images")
    return Bank(np.concatenate(keys), torch.from_numpy(np.concatenate(labels)))


def patch_labels(
    mask: Integer[np.ndarray, "H W"], grid: tuple[int, int], num_classes: int
) -> Float[np.ndarray, "h w c"]:
    """Return soft labels: the share of each class in the labelled pixels of every patch.

    A pixel belongs to the patch that contains its centre, whatever the sizes of mask and ``grid`` (h, w).
    A patch without a labelled pixel has zeros.
    """
    rows, columns = (
        ((2 * np.arange(pixels) + 1) * patches) // (2 * pixels)
        for pixels, patches in zip(mask.shape, grid, strict=True)
    )
    labelled = mask != IGNORED
    patches = (rows[:, None] * grid[1] + columns)[labelled]
    flat = np.bincount(patches * num_classes + mask[labelled], minlength=grid[0] * grid[1] * num_classes)
    counts = flat.reshape(*grid, num_classes).astype(np.float32)
    return counts / np.maximum(counts.sum(2, keepdims=True), 1)


def rare_patches(
    labels: Float[np.ndarray, "n c"], count: int, generator: np.random.Generator
) -> Int[np.ndarray, " k"]:
    """Draw ``count`` patches of one image, preferring classes that are rare in it; all, if there are fewer.

    The patches drawn have the smallest product of a random number in [0, 1) and the summed frequencies of
    the classes they contain. The frequency of a class is the number of patches that contain it. Patches
    without a labelled pixel are left out.

    Source:
        ``sample_features`` of open-hummingbird-eval.
    """
    present = labels > 0
    scores = (present * present.sum(0)).sum(1) * generator.random(len(labels))
    known = np.flatnonzero(present.any(axis=1))
    return known[np.argsort(scores[known], kind="stable")[:count]]


def soft_votes(
    similarity: Float[Tensor, "m k"], index: Int[Tensor, "m k"], bank: Bank, beta: float
) -> Float[Tensor, "m c"]:
    """Return the mean label of the neighbours, weighted by the softmax of their cosines over ``beta``.

    Source:
        Balazevic et al. 2023, arXiv:2306.01667, eq. 1 and 2.
    """
    weights = (similarity / beta).softmax(1)
    return nn.functional.embedding_bag(index, bank.labels, per_sample_weights=weights, mode="sum")
