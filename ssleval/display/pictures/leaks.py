"""Near-duplicates side by side: an image, and what it is a copy of."""

from PIL import Image

from ssleval.core.text import counted
from ssleval.display.pictures.canvas import Tile, page
from ssleval.errors import DataError
from ssleval.run.leaks import Leaks

_ACROSS = 4
"""Pairs in a row."""


def draw_leaks(leaks: Leaks, most: int) -> Image.Image:
    """Draw the pairs, nearest first, at most ``most``: left an image that is scored, right its match.

    Raises:
        DataError: there is no pair.
    """
    same = {pair: (*pair, 1.0) for pair in leaks.identical}
    pairs = [*same.values(), *(pair for pair in leaks.pairs if pair[:2] not in same)]
    if not pairs:
        raise DataError(f"{leaks.test}: no image has a copy in {leaks.train}; there is no pair to draw")
    tiles = [tile for pair in pairs[:most] for tile in _pair(leaks, pair)]
    rows = [tiles[start : start + 2 * _ACROSS] for start in range(0, len(tiles), 2 * _ACROSS)]
    limit = leaks.threshold
    note = (
        f"{counted(len(pairs), 'pair')}, nearest first: left {leaks.test}, right {leaks.train}. Above "
        f"{limit.value:.3f} lie {limit.alarms} of images without a copy ({leaks.non_copies})."
    )
    return page(f"{leaks.model}: near-duplicates", rows, [note], 120)


def _pair(leaks: Leaks, pair: tuple[int, int, float]) -> tuple[Tile, Tile]:
    row, other, similarity = pair
    test, train = leaks.test.split, leaks.train.split
    return (
        Tile(test.image(row), f"{similarity:.3f} {test.ids[row]}"),
        Tile(train.image(other), train.ids[other]),
    )
