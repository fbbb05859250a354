"""Attention maps as masks: the patches that hold most of what a head looks at."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def mass_mask(attention: Float[Tensor, "*b h w"], mass: float) -> Bool[Tensor, "*b h w"]:
    """Return the fewest patches of every map that together hold ``mass`` of it, a fraction.

    Of equal patches those further down count first.

    Source:
        facebookresearch/dino, visualize_attention.py: patches in rising order whose running sum exceeds
        1 - mass.
    """
    # In float64: running sums of thousands of patches in float32 are off in the fifth digit.
    flat = attention.flatten(-2).double()
    rising, order = (flat / flat.sum(-1, keepdim=True)).sort(dim=-1, stable=True)
    kept = rising.cumsum(-1) > 1 - mass
    return torch.zeros_like(kept).scatter(-1, order, kept).reshape(attention.shape)
