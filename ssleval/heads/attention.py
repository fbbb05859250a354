"""Binary masks of attention maps: the patches with the most attention."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def mass_mask(attention: Float[Tensor, "*b h w"], mass: float) -> Bool[Tensor, "*b h w"]:
    """Return, for every map, the fewest patches that together hold the fraction ``mass`` of the attention.

    Of patches with equal attention, the later ones (row by row) are taken first.

    Source:
        facebookresearch/dino, visualize_attention.py: in rising order, a running sum beyond 1 - mass.
    """
    # In float64: float32 running sums over thousands of patches have errors in the fifth digit.
    flat = attention.flatten(-2).double()
    rising, order = (flat / flat.sum(-1, keepdim=True)).sort(dim=-1, stable=True)
    kept = rising.cumsum(-1) > 1 - mass
    return torch.zeros_like(kept).scatter(-1, order, kept).reshape(attention.shape)
