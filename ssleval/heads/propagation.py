"""Label propagation along a video: every patch takes the labels of the most similar patches around it.

Only patches inside the window are compared: tile by tile, the patches of the new frame with the part of every
context frame that their windows cover. Memory is that of one strip of tiles.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, normalize, one_hot

from ssleval.core.settings import Count, Natural, Positive, check

TILE = 8
"""Patches per side of a tile: large enough for a fast product, small compared with the window."""


@dataclass(frozen=True, slots=True)
class Propagation:
    """Which patches a patch takes its labels from, and how they are weighted."""

    context: Natural = 7
    """Preceding frames that labels come from, besides the first frame."""
    radius: Natural = 12
    """Of the square window, in patches."""
    topk: Count = 5
    """Context patches that labels come from; more where they tie."""
    temperature: Positive = 0.1
    """Of the weights exp(cosine / temperature)."""

    def __post_init__(self) -> None:
        check(self, "propagation")


def follow(
    frames: Iterable[Float[Tensor, "h w d"]],
    mask: UInt8[np.ndarray, "H W"],
    scale: int,
    settings: Propagation,
) -> Iterator[UInt8[np.ndarray, "H W"]]:
    """Yield the mask of every frame after the first, at the size of ``mask``, which is that of the first.

    Masks are resized by the nearest pixel: the first to the patches, the others from ``scale`` pixels a
    patch, to which `harden` upsamples labels. The rest is as in `propagate`.
    """
    remaining = iter(frames)
    tokens = next(remaining)
    height, width = tokens.shape[:2]
    small = Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST)
    labels = torch.from_numpy(np.array(small, dtype=np.int64))
    first = one_hot(labels, int(mask.max()) + 1).float().to(tokens.device)
    for soft in propagate(chain([tokens], remaining), first, settings):
        hard = Image.fromarray(harden(soft, scale).cpu().numpy())
        yield np.array(hard.resize(mask.shape[::-1], Image.Resampling.NEAREST))


def propagate(
    frames: Iterable[Float[Tensor, "h w d"]], first: Float[Tensor, "h w c"], settings: Propagation
) -> Iterator[Float[Tensor, "h w c"]]:
    """Yield the soft labels of every frame after the first.

    ``frames`` are patch tokens, not normalised; labels of the ``first`` frame sum to one at every patch.

    Source:
        Jabri et al. 2020, arXiv:2006.14613, sec. 3.2, with the settings of Caron et al. 2021; agrees with
        facebookresearch/dino, eval_video_segmentation.py.
    """
    recent: deque[tuple[Tensor, Tensor]] = deque(maxlen=settings.context)
    units = (normalize(frame.float(), dim=-1) for frame in frames)
    anchor = next(units), first
    for tokens in units:
        seen, known = (torch.stack(parts) for parts in zip(anchor, *recent, strict=True))
        labels = carry(tokens, seen, known, settings)
        recent.append((tokens, labels))
        yield labels


def carry(
    tokens: Float[Tensor, "h w d"],
    seen: Float[Tensor, "f h w d"],
    known: Float[Tensor, "f h w c"],
    settings: Propagation,
) -> Float[Tensor, "h w c"]:
    """Return one frame's labels from unit tokens ``seen`` in context frames and their labels ``known``."""
    (height, width, _), radius = tokens.shape, settings.radius
    labels = known.new_empty(height, width, known.shape[-1])
    for columns in _tiles(width):
        across = _around(columns, radius, width)
        # Copied once per strip, so that the rows that a tile sees are contiguous.
        keys, values = seen[:, :, across].contiguous(), known[:, :, across].contiguous()
        for rows in _tiles(height):
            down = _around(rows, radius, height)
            outside = _outside((rows, columns), (down, across), radius).to(tokens.device)
            queries = tokens[rows, columns].flatten(0, 1)
            votes = _weighted(queries, keys[:, down], values[:, down], outside, settings)
            labels[rows, columns] = votes.unflatten(0, (rows.stop - rows.start, -1))
    return labels


def _tiles(length: int) -> list[slice]:
    return [slice(start, min(start + TILE, length)) for start in range(0, length, TILE)]


def harden(labels: Float[Tensor, "h w c"], scale: int) -> UInt8[Tensor, "H W"]:
    """Return the label of every pixel: upsampled ``scale`` times, each channel rescaled to [0, 1].

    Rescaling favours objects whose labels have faded. A constant channel stays as it is, where the published
    code divides by zero.

    Source:
        facebookresearch/dino, eval_video_segmentation.py, ``norm_mask``.
    """
    maps = interpolate(labels.permute(2, 0, 1)[None], scale_factor=scale, mode="bilinear")[0]
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    stretched = torch.where(high > low, (maps - low) / (high - low), maps)
    return stretched.argmax(dim=0).to(torch.uint8)


def _weighted(
    queries: Float[Tensor, "q d"],
    keys: Float[Tensor, "f y x d"],
    values: Float[Tensor, "f y x c"],
    outside: Bool[Tensor, "q n"],
    settings: Propagation,
) -> Float[Tensor, "q c"]:
    """Return the mean of the values of the top-k keys, weighted by exp(cosine / temperature)."""
    topk, temperature = settings.topk, settings.temperature
    cosine = queries.new_empty(len(queries), len(keys), outside.shape[1])
    for place, frame in enumerate(keys):
        torch.mm(queries, frame.flatten(0, 1).T, out=cosine[:, place])
    cosine = cosine.masked_fill_(outside[:, None], -torch.inf).flatten(1)
    best, key = cosine.topk(min(topk + 1, cosine.shape[1]))
    if bool((best[:, topk:] == best[:, topk - 1 : topk]).any()):
        return _weighted_with_ties(cosine, best[:, :topk], values, temperature)
    weights = ((best[:, :topk] - best[:, :1]) / temperature).exp()
    votes = weights[:, :, None] * values.flatten(0, 2)[key[:, :topk]]
    return votes.sum(dim=1) / weights.sum(dim=1, keepdim=True)


def _weighted_with_ties(
    cosine: Float[Tensor, "q n"],
    best: Float[Tensor, "q k"],
    values: Float[Tensor, "f y x c"],
    temperature: float,
) -> Float[Tensor, "q c"]:
    """Return the same mean over all keys that are at least as similar as the last of the ``best``."""
    query, key = (cosine >= best[:, -1:]).nonzero(as_tuple=True)
    weights = ((cosine[query, key] - best[query, 0]) / temperature).exp()
    votes = weights[:, None] * values.flatten(0, 2)[key]
    total = weights.new_zeros(len(cosine)).index_add_(0, query, weights)
    return values.new_zeros(len(cosine), values.shape[-1]).index_add_(0, query, votes) / total[:, None]


def _around(part: slice, radius: int, length: int) -> slice:
    return slice(max(0, part.start - radius), min(length, part.stop + radius))


def _outside(tile: tuple[slice, slice], around: tuple[slice, slice], radius: int) -> Bool[Tensor, "q n"]:
    """Return which patches of ``around`` lie outside the window of each patch of the tile, row by row."""
    rows, columns = (
        (torch.arange(own.start, own.stop)[:, None] - torch.arange(far.start, far.stop)).abs() > radius
        for own, far in zip(tile, around, strict=True)
    )
    return (rows[:, None, :, None] | columns[None, :, None, :]).flatten(2).flatten(0, 1)
