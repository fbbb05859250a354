"""One class for every patch: masks in the pixels of patches, and scaled patch tokens."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64, UInt8
from PIL import Image

from ssleval.core import IGNORED
from ssleval.errors import ConfigError, DataError
from ssleval.heads.dense.grid import Targets


@dataclass(frozen=True, slots=True)
class PatchMasks:
    """Masks squashed to squares, of which every patch has whole pixels."""

    masks: Targets
    size: int

    def square(self, row: int) -> UInt8[np.ndarray, "s s"]:
        """Return the mask of an image, resized by nearest neighbours."""
        square = self.size, self.size
        return np.array(Image.fromarray(self.masks(row)).resize(square, Image.Resampling.NEAREST))

    def classes(self, row: int, grid: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
        """Return the most frequent value of every patch of ``grid`` (h, w); of equals, the smallest."""
        height, width = grid
        if self.size % height or self.size % width:
            raise ConfigError(f"{self.size} pixels are no whole number for each of {height}x{width} patches")
        cells = self.square(row).reshape(height, self.size // height, width, self.size // width)
        flat = cells.transpose(0, 2, 1, 3).reshape(height * width, -1).astype(np.int64)
        first = 256 * np.arange(len(flat))[:, None]
        counts = np.bincount((first + flat).ravel(), minlength=256 * len(flat)).reshape(-1, 256)
        return counts.argmax(axis=1).astype(np.uint8).reshape(grid)


@dataclass(frozen=True, slots=True)
class Scaling:
    """Subtracts a mean and divides by a deviation, channel by channel; (0, 1) leaves tokens as they are."""

    mean: Float[np.ndarray, " d"] | float
    deviation: Float[np.ndarray, " d"] | float

    @classmethod
    def of(cls, tokens: Float[np.ndarray, "n h w d"], rows: Int64[np.ndarray, " m"]) -> "Scaling":
        """Return that of all patches of some images; channels that never vary are only centred."""
        count, total, squares = 0, np.zeros(tokens.shape[3]), np.zeros(tokens.shape[3])
        for row in rows.tolist():
            flat = tokens[row].reshape(-1, tokens.shape[3]).astype(np.float64)
            count, total, squares = count + len(flat), total + flat.sum(0), squares + (flat**2).sum(0)
        variance = np.maximum(squares / count - (total / count) ** 2, 0)
        return cls(total / count, np.where(variance > 0, np.sqrt(variance), 1))

    def __call__(self, tokens: Float[np.ndarray, "... d"]) -> Float[np.ndarray, "... d"]:
        """Return scaled tokens in float32."""
        return ((tokens.astype(np.float64) - self.mean) / self.deviation).astype(np.float32)


def labelled_patches(
    tokens: Float[np.ndarray, "n h w d"],
    masks: PatchMasks,
    rows: Int64[np.ndarray, " m"],
    scaling: Scaling,
    every: int = 1,
) -> tuple[Float[np.ndarray, "k d"], Int64[np.ndarray, " k"]]:
    """Return the patches of some images, scaled, and their most frequent class; ignored ones are left out.

    Of all patches of these images, one after the other, only each ``every``-th is taken.
    """
    labels = np.concatenate([masks.classes(row, tokens.shape[1:3]).ravel() for row in rows.tolist()])[::every]
    known = labels != IGNORED
    if not known.any():
        raise DataError(f"not one labelled patch in {len(rows)} training images")
    first = -np.arange(len(rows)) * tokens.shape[1] * tokens.shape[2] % every
    parts = [
        scaling(tokens[row].reshape(-1, tokens.shape[3])[start::every])
        for row, start in zip(rows.tolist(), first.tolist(), strict=True)
    ]
    return np.concatenate(parts)[known], labels[known].astype(np.int64)
