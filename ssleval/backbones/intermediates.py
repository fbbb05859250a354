"""Tokens of some blocks of a timm model, which open_clip wraps too."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from ssleval.core.backbone import Tokens


def final_and_blocks(
    model: Any, images: Tensor, blocks: Iterable[int], *, norm: bool
) -> tuple[Tensor, dict[int, Tokens]]:
    """Run a timm model once; return its final output, and the tokens of ``blocks`` by index."""
    indices, has_cls = sorted(set(blocks)), getattr(model, "cls_token", None) is not None
    if not getattr(model, "num_prefix_tokens", 0):
        final, maps = model.forward_intermediates(images, indices=indices, norm=norm)
        tokens = [Tokens(patches.permute(0, 2, 3, 1)) for patches in maps]
    else:
        final, pairs = model.forward_intermediates(
            images, indices=indices, norm=norm, return_prefix_tokens=True
        )
        tokens = [
            Tokens.from_prefix(patches.permute(0, 2, 3, 1), prefix, has_cls=has_cls)
            for patches, prefix in pairs
        ]
    return final, dict(zip(indices, tokens, strict=True))
