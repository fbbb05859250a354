"""Surface normals as targets: stored as colours, or differenced from depth."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float32, Float64, Real
from scipy import ndimage

from ssleval.core import Split
from ssleval.datasets.files.dense import DepthFiles, DepthFormat, TargetFiles
from ssleval.errors import DataError

UNIT = 0.05
"""Largest mean deviation of stored lengths from 1: those of 8 bits deviate by less than a hundredth."""


@dataclass(frozen=True, slots=True)
class NormalFiles(TargetFiles):
    """Reads the i-th image of colours 255 (n + 1) / 2 in a list; black is unknown."""

    def __call__(self, index: int) -> Float32[np.ndarray, "H W 3"]:
        """Return unit vectors, 0 where unknown; their axes are those of the files."""
        stored = self.stored(index, ("RGB",), "normals as colours of 8 bits")
        known: Bool[np.ndarray, "H W"] = stored.max(axis=2) > 0
        normals = (stored.astype(np.float32) / 127.5 - 1) * known[..., None]
        lengths = np.linalg.norm(normals, axis=2)
        if known.any() and np.abs(lengths[known] - 1).mean() > UNIT:
            raise DataError(
                f"{self.root / self.targets[index]}: no unit vectors n, stored as 255 (n + 1) / 2"
            )
        return normals / np.maximum(lengths, np.float32(1e-6))[..., None]


@dataclass(frozen=True, slots=True)
class DifferencedDepth:
    """Normals of the i-th depth image of a list; can be pickled."""

    depths: DepthFiles
    intrinsics: Float64[np.ndarray, "3 3"]
    form: DepthFormat

    def __call__(self, index: int) -> Float32[np.ndarray, "H W 3"]:
        """Return `normals_of` depth; refuse intrinsics of another size of image."""
        depth = self.depths(index)
        off = np.abs(self.intrinsics[:2, 2] / depth.shape[::-1] - 0.5)
        if (off > 0.25).any():
            column, row = self.intrinsics[:2, 2]
            raise DataError(
                f"{self.depths.root / self.depths.targets[index]}: {depth.shape[1]}x{depth.shape[0]} pixels, "
                f"and intrinsics with the centre at {column:g}, {row:g}; state those of this size"
            )
        return normals_of(depth, self.intrinsics, self.form.radius, self.form.edge)

    def split(self, *, full_hash: bool) -> Split:
        """Return the split of images with normals; ids are the paths of the images."""
        form, depths = self.form, self.depths
        reading = [depths.scale, list(depths.invalid), list(self.intrinsics.flat), form.radius, form.edge]
        return replace(depths.split(reading, full_hash=full_hash), target=self)


def normals_of(
    depth: Real[np.ndarray, "H W"], intrinsics: Float64[np.ndarray, "3 3"], radius: int, edge: float
) -> Float32[np.ndarray, "H W 3"]:
    """Return unit normals of depth in metres, towards the camera (x right, y down, z forward); 0: unknown.

    Central differences of back-projected points, ``radius`` pixels to each side (at least 1). Before that,
    inverse depth is averaged over squares of ``radius`` pixels to each side: it is linear on a plane, whose
    normal is therefore exact. A normal is unknown where one of the pixels that it is computed of is outside
    the image or unknown, or differs from its neighbour by more than the part ``edge`` of its depth.
    """
    step = max(radius, 1)
    known = ndimage.minimum_filter(_smooth(depth, edge), 2 * (radius + step) + 1, mode="constant", cval=0)
    inverse = 1 / np.where(depth > 0, depth, 1).astype(np.float64)
    averaged = ndimage.uniform_filter(inverse, 2 * radius + 1)
    rows, columns = np.indices(depth.shape) + 0.5
    rays = np.stack([columns, rows, np.ones_like(rows)], axis=2) @ np.linalg.inv(intrinsics).T
    points = rays / averaged[..., None]
    down, right = (np.roll(points, -step, axis) - np.roll(points, step, axis) for axis in (0, 1))
    normals = np.cross(down, right)
    normals /= np.maximum(np.linalg.norm(normals, axis=2, keepdims=True), 1e-30)
    return (normals * known[..., None]).astype(np.float32)


def _smooth(depth: Real[np.ndarray, "H W"], edge: float) -> np.ndarray:
    """Return 1 where depth is known and near that of all four neighbours, else 0."""
    smooth = (depth > 0).astype(np.uint8)
    for axis in (0, 1):
        first, second = np.moveaxis(depth, axis, 0)[:-1], np.moveaxis(depth, axis, 0)[1:]
        nearer = np.minimum(first, second)
        apart = (nearer > 0) & (np.abs(first - second) > edge * nearer)
        view = np.moveaxis(smooth, axis, 0)
        view[:-1][apart] = 0
        view[1:][apart] = 0
    return smooth
