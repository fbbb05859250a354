"""Patch tokens of large norm: how many there are, and what can be read from them."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from ssleval.heads.dense.ridge import Moments, Ridge

Sums = dict[str, Float[np.ndarray, " n"]]
"""Sums over some patches of every image, by name."""


def norms_of(patches: Float[Tensor, "b h w d"]) -> Float[np.ndarray, "b h w"]:
    """Return the length of every token."""
    return torch.linalg.vector_norm(patches.float(), dim=3).cpu().numpy()


def above_medians(norms: Float[np.ndarray, "b h w"], medians: float) -> Bool[np.ndarray, "b h w"]:
    """Return which norms exceed ``medians`` times the median of their image."""
    return norms > medians * np.median(norms, axis=(1, 2), keepdims=True)


def largest_of(norms: Float[np.ndarray, "n h w"], share: float) -> Bool[np.ndarray, "n h w"]:
    """Return which ``share`` of all norms are the largest, one at least; of equal ones the first."""
    order = np.argsort(-norms.reshape(-1), kind="stable")
    chosen = np.zeros(norms.size, bool)
    chosen[order[: max(1, round(share * norms.size))]] = True
    return chosen.reshape(norms.shape)


def patch_pixels(images: UInt8[Tensor, "b H W 3"], grid: Sequence[int]) -> UInt8[np.ndarray, "b h w t"]:
    """Return the pixels of every patch, cut out row by row; those beyond whole patches are left out."""
    (height, width), (rows, columns) = images.shape[1:3], grid
    down, across = height // rows, width // columns
    cut = images[:, : rows * down, : columns * across].cpu().numpy()
    parts = cut.reshape(len(cut), rows, down, columns, across, 3).transpose(0, 1, 3, 2, 4, 5)
    return np.ascontiguousarray(parts).reshape(len(cut), rows, columns, -1)


def read_back(
    tokens: Float[np.ndarray, "n h w d"],
    pixels: UInt8[np.ndarray, "n h w t"],
    groups: dict[str, Bool[np.ndarray, "n h w"]],
    strength: float,
) -> Sums:
    """Read place and pixels of each patch from its token, by regressions fitted on the other half of images.

    Places are regressed as one of h w, and the largest is taken. Returned are for every group of patches
    their ``count@GROUP`` in each image and sums over these: ``position@`` (1 for the right place),
    ``distance@`` (patches between the places) and ``pixels@`` (root mean squared error, in grey levels).
    """
    count, rows, columns, width = tokens.shape
    places = np.eye(rows * columns)
    found: Sums = {f"{name}@{group}": np.zeros(count) for group in groups for name in _SUMS}
    for scored in range(2):
        moments = Moments.empty(width, rows * columns + pixels.shape[3])
        for image in range(1 - scored, count, 2):
            moments.add(tokens[image].reshape(-1, width), _targets(places, pixels[image]))
        model = Ridge.fit(moments, strength)
        for image in range(scored, count, 2):
            judged = _judged(model.predict(tokens[image].reshape(-1, width)), pixels[image])
            for group, chosen in groups.items():
                for name, values in judged.items():
                    found[f"{name}@{group}"][image] = values[chosen[image]].sum()
    return found


_SUMS = ("count", "position", "distance", "pixels")


def _targets(places: Float[np.ndarray, "m m"], pixels: UInt8[np.ndarray, "h w t"]) -> np.ndarray:
    return np.concatenate([places, pixels.reshape(len(places), -1)], axis=1)


def _judged(
    predicted: Float[np.ndarray, "m t"], pixels: UInt8[np.ndarray, "h w p"]
) -> dict[str, Float[np.ndarray, "h w"]]:
    """Return one number for every patch of an image, by the names of `_SUMS`."""
    shape = pixels.shape[:2]
    true = np.arange(shape[0] * shape[1])
    place = predicted[:, : len(true)].argmax(axis=1)
    down, across = place // shape[1] - true // shape[1], place % shape[1] - true % shape[1]
    error = predicted[:, len(true) :] - pixels.reshape(len(true), -1)
    values = {
        "count": np.ones(len(true)),
        "position": (place == true).astype(float),
        "distance": np.hypot(down, across),
        "pixels": np.sqrt((error**2).mean(axis=1)),
    }
    return {name: values[name].reshape(shape) for name in _SUMS}
