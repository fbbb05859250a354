"""`retrieval`: the first picture is the query; the others are ranked by the cosine of their descriptors."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import normalize

from ssleval.core import Readout
from ssleval.core.backbone import Backbone
from ssleval.display.pictures.canvas import Tile, page
from ssleval.display.pictures.look import Look, Picture
from ssleval.errors import ConfigError
from ssleval.features import Live

SHOWN = 11
"""Most ranked pictures that are drawn: two rows of six with the query."""
ACROSS = 6
RIGHT, WRONG, QUERY = "#2ea043", "#cf463c", "#3c5ac8"


def draw_retrieval(backbone: Backbone, pictures: Sequence[Picture], look: Look) -> Image.Image:
    """Draw the query and the pictures most like it, framed by whether their labels are the query's.

    Images go through the model as it was published; the descriptor is ``pooled``.
    """
    if len(pictures) < 2:
        raise ConfigError("retrieval ranks pictures by their likeness to the first; give at least two")
    if look.block != -1 or look.size:
        raise ConfigError("retrieval uses the model's own descriptor and size; leave out block and size")
    geometry, readout = backbone.card.native_geometry(), Readout("pooled")
    live = Live(backbone, look.context)
    vectors = [live.read_image(picture.image, geometry, readout).cpu() for picture in pictures]
    unit = normalize(torch.stack(vectors), dim=1)
    cosines = (unit[1:] @ unit[0]).tolist()
    order = np.argsort(-np.array(cosines), kind="stable").tolist()
    query = pictures[0]
    tiles: list[Tile | None] = [Tile(query.image, f"query: {query.name}", QUERY)]
    for rank, place in enumerate(order[:SHOWN], 1):
        other = pictures[1 + place]
        tiles.append(Tile(other.image, f"{rank}: {cosines[place]:.2f} {other.name}", _frame(query, other)))
    rows = [tiles[start : start + ACROSS] for start in range(0, len(tiles), ACROSS)]
    known = any(_frame(query, one) for one in pictures[1:])
    notes = [f"{len(cosines)} pictures ranked by cosine." + (" Green: the query's label." if known else "")]
    return page(f"{backbone.card.name}: nearest by {readout}", rows, notes, 176)


def _frame(query: Picture, other: Picture) -> str | None:
    """Return the colour of right or wrong, None where labels are not known."""
    if not all(isinstance(one.target, int | np.integer) for one in (query, other)):
        return None
    return RIGHT if int(query.target) == int(other.target) else WRONG
