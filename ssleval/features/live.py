"""Patch grids of images that are made on the fly, for protocols whose features cannot be stored."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ssleval.core import Context, Readout
from ssleval.core.backbone import Backbone, PatchesOf
from ssleval.features.extract import forward_pixels
from ssleval.features.readouts import canonical


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


def centre_padded(
    pixels: Float[Tensor, "b 3 H W"], multiple: int, colour: Sequence[float]
) -> Float[Tensor, "b 3 K L"]:
    """Return images filled up with ``colour`` on all sides to a multiple of so many pixels.

    Source:
        CenterPadding of dinov2/eval, which pads normalised images with zeros: the mean colour.
    """
    height, width = (-(-side // multiple) * multiple for side in pixels.shape[2:])
    if (height, width) == tuple(pixels.shape[2:]):
        return pixels
    canvas = torch.tensor(colour, device=pixels.device).view(1, 3, 1, 1)
    canvas = canvas.repeat(len(pixels), 1, height, width)
    top, left = (height - pixels.shape[2]) // 2, (width - pixels.shape[3]) // 2
    canvas[:, :, top : top + pixels.shape[2], left : left + pixels.shape[3]] = pixels
    return canvas
