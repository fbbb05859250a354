"""Where the counterpart of a query comes in a ranking: an image of a caption, a caption of an image."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

_QUERIES = 256
"""Queries compared at a time."""


def ranks_of(
    queries: Float[Tensor, "q p"], gallery: Float[Tensor, "g p"], wanted: Int[Tensor, " q"]
) -> Int[Tensor, " q"]:
    """Return how many of the gallery rank before the ``wanted`` row of each query, by inner product.

    Of equally near ones the earlier ranks first.
    """
    parts: list[Tensor] = []
    places = torch.arange(len(gallery), device=gallery.device)
    for vectors, right in zip(queries.split(_QUERIES), wanted[:, None].split(_QUERIES), strict=True):
        scores = vectors @ gallery.T
        own = scores.gather(1, right)
        parts.append(((scores > own) | ((scores == own) & (places < right))).sum(dim=1))
    return torch.cat(parts)


def ranks_of_nearest_own(
    owners: Float[Tensor, "n p"], gallery: Float[Tensor, "g p"], owner: Int[Tensor, " g"]
) -> Int[Tensor, " n"]:
    """Return how many of the gallery rank before the nearest of the rows whose ``owner`` is the query."""
    nearest: list[Tensor] = []
    numbers = torch.arange(len(owners), device=owners.device)[:, None]
    for vectors, own in zip(owners.split(_QUERIES), numbers.split(_QUERIES), strict=True):
        nearest.append((vectors @ gallery.T).masked_fill(owner != own, -torch.inf).argmax(dim=1))
    return ranks_of(owners, gallery, torch.cat(nearest))
