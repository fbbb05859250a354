"""`attention`: where the heads of the last block look, and the patches that hold 60 % of it."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ssleval.core import Geometry
from ssleval.core.backbone import Backbone
from ssleval.display.pictures.canvas import Tile, heat, page, spotlit
from ssleval.display.pictures.look import Look, Picture
from ssleval.errors import ConfigError
from ssleval.features import Live, pixels_of
from ssleval.heads.attention import mass_mask

MASS = 0.6
"""Part of a head's attention that its mask holds, as in DINO's figures."""
SHOWN = 6
"""Most heads that are drawn one by one."""


def draw_attention(backbone: Backbone, pictures: Sequence[Picture], look: Look) -> Image.Image:
    """Draw the attention of the class token to the patches: the mean, the heads, and their masks below."""
    if look.block != -1:
        raise ConfigError("attention is drawn of the last block; leave out the block")
    side, live = look.side(backbone), Live(backbone, look.context)
    geometry = Geometry(side, "long", multiple=backbone.card.patch_size)
    rows: list[list[Tile | None]] = []
    count = 0
    for picture in pictures:
        image = picture.image
        heads = live.attention(pixels_of(image, geometry))[0].float().cpu()
        count = len(heads)
        maps = {"mean of heads": heads.mean(0)}
        maps |= {f"head {number}": head for number, head in enumerate(heads[:SHOWN], 1)}
        coloured = [Tile(heat(_stretched(head), image.size), name) for name, head in maps.items()]
        masks = [
            Tile(spotlit(image, mass_mask(head, MASS).numpy()), f"{MASS:.0%} of it") for head in maps.values()
        ]
        rows.append([Tile(image, picture.name), *coloured])
        rows.append([None, *masks])
    more = f"; {SHOWN} of {count} heads" if count > SHOWN else ""
    title = f"{backbone.card.name}: attention of the class token in the last block, {side} px{more}"
    return page(title, rows)


def _stretched(attention: Float[Tensor, "h w"]) -> Float[np.ndarray, "h w"]:
    # A few patches with most of the attention would leave the others black.
    high = torch.quantile(attention, 0.995)
    return (attention / high.clamp(min=1e-12)).clamp(max=1).numpy()
