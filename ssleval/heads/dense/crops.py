"""Linear segmentation trained on augmented crops, for which the backbone runs at every iteration."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from ssleval.core import IGNORED, Split
from ssleval.errors import ContractError
from ssleval.heads.dense.augment import Augmentation
from ssleval.heads.dense.grid import Fit, LinearHead, descend, resized
from ssleval.heads.dense.segmentation import pixel_loss, poly

Batch: TypeAlias = tuple[Float[Tensor, "b 3 s s"], UInt8[Tensor, "b s s"]]
GridBatch: TypeAlias = tuple[Float[Tensor, "b h w d"], UInt8[Tensor, "b s s"]]
"""Patch grids of a batch of crops, and their masks."""


@dataclass(frozen=True, slots=True)
class Crops(Dataset[Batch]):
    """Batches of augmented crops: item i is batch i, the same in every worker process it is pickled into."""

    split: Split
    rows: Int[np.ndarray, "i b"]
    """Rows of the split, one batch a line."""
    augmentation: Augmentation
    colour: tuple[float, float, float]
    """RGB in [0, 1] that pads crops smaller than the square: the colour that normalisation maps to zero."""
    seed: int

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Batch:
        target, side = self.split.target, self.augmentation.crop
        if target is None:
            raise ContractError("a split opened without the masks its card promises")
        generator = np.random.default_rng([self.seed, 2, index])
        rows: list[int] = self.rows[index].tolist()
        images = torch.tensor(self.colour).view(1, 3, 1, 1).repeat(len(rows), 1, side, side)
        masks = torch.full((len(rows), side, side), IGNORED, dtype=torch.uint8)
        for place, row in enumerate(rows):
            pixels, mask = self.augmentation(self.split.image(row), target(row), generator)
            height, width = mask.shape
            images[place, :, :height, :width] = torch.from_numpy(pixels).permute(2, 0, 1) / 255
            masks[place, :height, :width] = torch.from_numpy(mask)
        return images, masks


def fit_on_crops(crops: Iterable[GridBatch], settings: Fit, head: LinearHead, device: str) -> LinearHead:
    """Train ``head``, one batch of crops an iteration.

    Logits are upsampled to the crop; the loss is `pixel_loss`, which ignores the padding.
    """

    def losses() -> Iterator[Float[Tensor, ""]]:
        for grids, masks in crops:
            logits = resized(head(grids.to(device)), (masks.shape[1], masks.shape[2]))
            yield pixel_loss(logits, masks.to(device))

    return descend(head, losses(), settings, poly, device)
