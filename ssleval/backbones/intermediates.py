"""Tokens of some blocks of a timm model, which open_clip wraps too."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from torch import Tensor

from ssleval.core.backbone import Features, Tokens

Head: TypeAlias = Callable[[Tensor], Tensor]


def features_of(
    model: Any, images: Tensor, blocks: Sequence[int], head: Head, *, maps: bool, norm: bool
) -> Features:
    """Run a timm model once; ``head`` makes ``pooled`` of its final output.

    A model that has ``maps`` has one block: its last map.
    """
    if not blocks:
        return Features(head(model.forward_features(images)))
    wanted = [len(model.feature_info) - 1] * len(blocks) if maps else blocks
    indices, has_cls = sorted(set(wanted)), getattr(model, "cls_token", None) is not None
    if not getattr(model, "num_prefix_tokens", 0):
        final, found = model.forward_intermediates(images, indices=indices, norm=norm)
        tokens = [Tokens(patches.permute(0, 2, 3, 1)) for patches in found]
    else:
        final, found = model.forward_intermediates(
            images, indices=indices, norm=norm, return_prefix_tokens=True
        )
        tokens = [
            Tokens.from_prefix(patches.permute(0, 2, 3, 1), prefix, has_cls=has_cls)
            for patches, prefix in found
        ]
    return Features(head(final), tuple(tokens[indices.index(index)] for index in wanted))
