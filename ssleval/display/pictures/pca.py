"""`pca`: principal components of patch tokens as colours, the same for all images.

The patch tokens of all images together give one set of principal components. The first one separates
foreground from background, at the threshold with the least variance within both sides (Otsu 1979). Its
sign is arbitrary: the foreground is the side with the smaller part of its patches at the borders of the
images. The tokens of the foreground alone give three components: red, green and blue, from their 2nd to
their 98th percentile.

Source: Oquab et al. 2023, arXiv:2304.07193, sec. 7.7 and fig. 1, where threshold and sign are set by hand.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from ssleval.core.backbone import Backbone
from ssleval.display.pictures.canvas import Tile, beside, page
from ssleval.display.pictures.look import Look, Picture, as_image, patch_tokens
from ssleval.errors import NotApplicableError
from ssleval.heads.dense.grid import resized

NOTES = (
    "One set of colours for all images.",
    "Foreground: the side of the first component with fewer patches at the borders.",
)
DARK = 0.12
"""Part of its brightness that the background keeps."""


def draw_pca(backbone: Backbone, pictures: Sequence[Picture], look: Look) -> Image.Image:
    """Draw every picture beside the components of all its patches, and of its foreground."""
    grids = patch_tokens(backbone, pictures, look)
    tokens = torch.cat([grid.flatten(0, 1) for grid in grids])
    everything = components(tokens, 3)
    border = torch.cat([_border(grid).flatten() for grid in grids])
    signed = _oriented(everything[:, 0], border)
    threshold = otsu(signed)
    inside = signed > threshold
    seen = _stretched(everything, torch.ones_like(inside))
    if int(inside.sum()) < 4:
        raise NotApplicableError(f"{backbone.card.name}: all patch tokens are alike, there is no foreground")
    own = torch.zeros_like(everything)
    own[inside] = components(tokens[inside], 3)
    shown = _stretched(own, inside)
    rows: list[list[Tile | None]] = []
    counts = [grid.shape[0] * grid.shape[1] for grid in grids]
    parts = zip(*(one.split(counts) for one in (seen, shown, signed - threshold)), strict=True)
    for picture, grid, (all_of_it, of_it, depth) in zip(pictures, grids, parts, strict=True):
        shape, size = (*grid.shape[:2], -1), picture.image.size
        fine = _upsampled(of_it.view(shape), size)
        mask = _upsampled(depth.view(shape), size) > 0
        dim = np.asarray(picture.image, dtype=np.float32) / 255 * DARK
        everywhere = Tile(as_image(_upsampled(all_of_it.view(shape), size)), "all patches")
        masked = Tile(as_image(np.where(mask, fine, dim)), "foreground")
        rows.append([Tile(picture.image, picture.name), everywhere, masked])
    side = look.side(backbone)
    title = f"{backbone.card.name}: principal components of patch tokens, block {look.block}, {side} px"
    return page(title, beside(rows), NOTES)


def components(tokens: Float[Tensor, "n d"], count: int) -> Float[Tensor, "n c"]:
    """Return the coordinates of tokens along their first principal directions.

    Of each direction the largest entry is positive: without a rule its sign is arbitrary.
    """
    if tokens.shape[1] < count:
        raise NotApplicableError(f"pca: {count} components of {tokens.shape[1]} channels")
    centred = tokens.double() - tokens.double().mean(0)
    _, directions = torch.linalg.eigh(centred.T @ centred)
    first = directions[:, -count:].flip(1)
    largest = first.gather(0, first.abs().argmax(0, keepdim=True))
    return (centred @ (first * largest.sign())).float()


def otsu(values: Float[Tensor, " n"]) -> float:
    """Return the threshold that splits values in two with the least variance within both sides.

    Source:
        Otsu 1979, over all values in place of a histogram.
    """
    ordered = values.double().sort().values
    total, count = ordered.sum(), len(ordered)
    below = torch.arange(1, count, dtype=torch.float64)
    sums = ordered.cumsum(0)[:-1]
    between = (sums / below - (total - sums) / (count - below)).square() * below * (count - below)
    place = int(between.argmax())
    return float((ordered[place] + ordered[place + 1]) / 2)


def _oriented(values: Float[Tensor, " n"], border: Bool[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Return values with the sign that puts the smaller part of border patches on the upper side."""
    above = values > otsu(values)
    shares = [float(border[side].float().mean()) if bool(side.any()) else 1.0 for side in (above, ~above)]
    return values if shares[0] <= shares[1] else -values


def _border(grid: Float[Tensor, "h w d"]) -> Bool[Tensor, "h w"]:
    border = torch.ones(grid.shape[:2], dtype=torch.bool)
    border[1:-1, 1:-1] = False
    return border


def _stretched(values: Float[Tensor, "n 3"], kept: Bool[Tensor, " n"]) -> Float[Tensor, "n 3"]:
    some = values[kept][:: max(1, int(kept.sum()) // 100_000)]
    low, high = torch.quantile(some, torch.tensor([0.02, 0.98]), dim=0)
    return ((values - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)


def _upsampled(values: Float[Tensor, "h w c"], size: tuple[int, int]) -> Float[np.ndarray, "H W c"]:
    """Return maps at ``size`` (width, height), bilinearly."""
    return resized(values.permute(2, 0, 1)[None], (size[1], size[0]))[0].permute(1, 2, 0).numpy()
