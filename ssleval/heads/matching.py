"""Dense correspondence by patch tokens: nearest neighbours of given points, and mutual nearest neighbours."""

from collections.abc import Sequence
from itertools import product
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

Positions: TypeAlias = Literal["pixels", "patches"]
"""Where matches are searched: at every pixel, by tokens upsampled bilinearly, or at patch centres."""

CHUNK = 32
"""Points whose similarity maps of the whole image are held at a time."""


def tokens_at(grid: Float[Tensor, "h w d"], points: Float[Tensor, "k 2"]) -> Float[Tensor, "k d"]:
    """Return tokens interpolated bilinearly at points (x, y), given as fractions of the image."""
    places = points.to(grid)[None, None] * 2 - 1
    channels_first = grid.permute(2, 0, 1)[None]
    sampled = functional.grid_sample(channels_first, places, padding_mode="border", align_corners=False)
    return sampled[0, :, 0].T


def upsampled_at(
    grid: Float[Tensor, "h w d"], size: tuple[int, int], cells: Int[np.ndarray, "k 2"]
) -> Float[Tensor, "k d"]:
    """Return the tokens of cells, column and row, once the grid is upsampled bicubically to ``size``.

    Source:
        ``estimate_correspondence_xyz`` of probe3d.
    """
    fine = functional.interpolate(grid.permute(2, 0, 1)[None], size, mode="bicubic")[0]
    columns, rows = torch.from_numpy(cells.T).to(grid.device)
    return fine[:, rows, columns].T


def match(
    first: Float[Tensor, "h w d"],
    second: Float[Tensor, "h2 w2 d"],
    points: Float[Tensor, "k 2"],
    size: tuple[int, int],
    positions: Positions,
) -> Float[Tensor, "k 2"]:
    """Return the nearest neighbours in ``second``, by cosine, of the tokens of ``first`` at ``points``.

    Points and matches are (x, y) in fractions of their image. ``size`` is the height and width of the second
    image; ``positions=pixels`` searches the centres of its pixels. Of ties the first, row by row, is taken.

    Source:
        Tang et al. 2023, arXiv:2306.03881, upsample tokens before they are compared (``pixels``); El Banani
        et al. 2024, arXiv:2404.08636, compare patches.
    """
    tokens = functional.normalize(tokens_at(first, points), dim=1)
    if positions == "patches":
        height, width = second.shape[:2]
        best = (tokens @ functional.normalize(second.flatten(0, 1), dim=1).T).argmax(1)
        rows, columns = best // width, best % width
    else:
        height, width = size
        best = _best_pixels(tokens, second, size)
        rows, columns = best.unbind(1)
    return torch.stack([(columns + 0.5) / width, (rows + 0.5) / height], dim=1)


def match_pixels(
    points: Float[np.ndarray, "k 2"],
    grids: Sequence[Float[Tensor, "_ _ d"]],
    sizes: Sequence[tuple[int, int]],
    positions: Positions,
) -> Float[np.ndarray, "k 2"]:
    """Return the `match` of points of the first of two images in pixels; ``sizes`` are (width, height)."""
    first, second = grids
    width, height = sizes[1]
    places = torch.from_numpy(points / np.array(sizes[0])).to(first)
    return match(first, second, places, (height, width), positions).cpu().numpy() * np.array(sizes[1])


def match_corners(
    points: Float[np.ndarray, "k 2"], grids: Sequence[Float[Tensor, "_ _ d"]]
) -> Float[np.ndarray, "k 2"]:
    """Return the corners of the patches of the second image nearest, by cosine, to points of the first.

    Points and corners are (x, y) in fractions of square images. Normalised tokens are interpolated
    bilinearly, corners aligned: fraction 0 is the centre of the first patch, 1 that of the last.

    Source:
        ``compute_errors`` in evaluate_spair_correspondence.py of probe3d.
    """
    first, second = (functional.normalize(grid, dim=2) for grid in grids)
    places = torch.from_numpy(points).to(first)[None, None] * 2 - 1
    channels_first = first.permute(2, 0, 1)[None]
    sampled = functional.grid_sample(channels_first, places, align_corners=True)
    height, width = second.shape[:2]
    best = (sampled[0, :, 0].T @ second.flatten(0, 1).T).argmax(1).cpu().numpy()
    return np.stack([best % width / width, best // width / height], axis=1)


def most_distinct(
    first: Float[Tensor, "n d"], second: Float[Tensor, "m d"], count: int
) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"]]:
    """Return the rows of the ``count`` matches that the ratio test trusts most, the first of them first.

    A row of ``first`` is matched to its nearest of ``second`` by cosine; the smaller its distance beside that
    of the second nearest, the more it is trusted. ``second`` has two rows or more.

    Source:
        ``get_correspondences_ratio_test`` of probe3d, after Lowe 2004.
    """
    keys = functional.normalize(second, dim=1).T
    best = [(functional.normalize(part, dim=1) @ keys).topk(2, dim=1) for part in first.split(1024)]
    cosines, rows = (torch.cat([part[index] for part in best]) for index in (0, 1))
    near, next_near = (1 - cosines).clamp(min=1e-9).unbind(1)
    kept = (1 - near / next_near).topk(min(count, len(first))).indices
    return kept.cpu().numpy(), rows[kept, 0].cpu().numpy()


def mutual(first: Float[Tensor, "n d"], second: Float[Tensor, "m d"]) -> Int[Tensor, "k 2"]:
    """Return the mutual nearest neighbours by cosine: rows of ``first`` and ``second``, best pair first."""
    cosines = functional.normalize(first, dim=1) @ functional.normalize(second, dim=1).T
    there, back = cosines.argmax(1), cosines.argmax(0)
    rows = torch.arange(len(first), device=first.device)
    kept = rows[back[there] == rows]
    order = cosines[kept, there[kept]].argsort(descending=True, stable=True)
    return torch.stack([kept, there[kept]], dim=1)[order]


def _best_pixels(
    tokens: Float[Tensor, "k d"], grid: Float[Tensor, "h w d"], size: tuple[int, int]
) -> Int[Tensor, "k 2"]:
    """Return row and column of the pixel most similar to each token, by tokens upsampled bilinearly.

    Beyond the outermost patch centres tokens repeat; only the pixels up to the centres are searched.
    """
    first, rows = _between(size[0], grid.shape[0], grid.device)
    left, columns = _between(size[1], grid.shape[1], grid.device)
    lengths = _lengths(grid, rows, columns)
    pixels: list[Tensor] = []
    for chunk in tokens.split(CHUNK):
        # A product with a fixed token commutes with interpolation, so tokens themselves are not upsampled.
        products = torch.einsum("kd,hwd->khw", chunk, grid)
        fine = functional.interpolate(products[None], size, mode="bilinear", align_corners=False)[0]
        cosines = fine[:, first : first + len(rows), left : left + len(columns)] / lengths
        best = cosines.flatten(1).argmax(1)
        pixels.append(torch.stack([first + best // len(columns), left + best % len(columns)], dim=1))
    return torch.cat(pixels)


def _lengths(
    grid: Float[Tensor, "h w d"], rows: Float[Tensor, " p"], columns: Float[Tensor, " q"]
) -> Float[Tensor, "p q"]:
    """Return the length of the tokens interpolated at (row, column), from products of neighbouring tokens."""
    height, width = grid.shape[:2]
    padded = functional.pad(grid.permute(2, 0, 1)[None], (0, 1, 0, 1), mode="replicate")[0]
    down, right = rows - rows.floor(), columns - columns.floor()
    corners = [
        (padded[:, y : y + height, x : x + width], below[:, None] * beside)
        for y, below in enumerate((1 - down, down))
        for x, beside in enumerate((1 - right, right))
    ]
    total = torch.zeros(len(rows), len(columns), device=grid.device)
    for (near, weight), (other, other_weight) in product(corners, corners):
        total += weight * other_weight * (near * other).sum(0)[rows.long()][:, columns.long()]
    return total.clamp(min=1e-24).sqrt()


def _between(pixels: int, cells: int, device: torch.device) -> tuple[int, Float[Tensor, " p"]]:
    """Return the first pixel between the outermost cell centres, and the positions of all, in cells."""
    first = max(0, -(-pixels // (2 * cells)) - 1)
    last = min(pixels - 1, (2 * cells - 1) * pixels // (2 * cells))
    place = (torch.arange(first, last + 1, device=device) + 0.5) * cells / pixels - 0.5
    return first, place.clamp(0, cells - 1)
