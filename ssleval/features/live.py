"""Patch grids of images that are made on the fly, for protocols whose features cannot be stored."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ssleval.backbone import Backbone
from ssleval.core import Context, Readout
from ssleval.features.extract import forward_pixels
from ssleval.features.readouts import canonical
from ssleval.heads.dense.crops import PatchesOf
from ssleval.heads.dense.windows import centre_padded

__all__ = ["live_patches"]


def live_patches(backbone: Backbone, readouts: Sequence[Readout], context: Context) -> PatchesOf:
    """Return a function that gives float32 patch grids, channels of all ``readouts`` concatenated.

    Images of any size are filled up to whole patches with the model's mean colour, on all sides.
    """
    wanted = tuple(canonical(readout, backbone) for readout in readouts)

    def patches_of(pixels: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b h w d"]:
        padded = centre_padded(pixels, backbone.card.patch_size, backbone.card.mean)
        found = forward_pixels(backbone, padded, wanted, context)
        return torch.cat([found[readout].float() for readout in wanted], dim=3)

    return patches_of
