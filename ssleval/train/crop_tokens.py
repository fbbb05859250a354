"""The pass of crops of several sizes through a backbone."""

from collections.abc import Sequence
from typing import cast

from jaxtyping import Bool, Float
from torch import Tensor, nn

from ssleval.backbones.vit import Vit


def crop_tokens(
    backbone: nn.Module,
    crops: Sequence[Float[Tensor, "_b 3 _s _s"]],
    masks: Bool[Tensor, "b n"] | None,
    firsts: Sequence[int | None],
    *,
    pack: bool,
) -> list[Float[Tensor, "_b _f d"]]:
    """Return the ``firsts`` tokens of each batch of crops, or all; ``masks`` are of the first batch.

    With ``pack``, a `Vit` sees all batches in one pass; see `Vit.packed`.
    """
    if pack and len(crops) > 1:
        return cast("Vit", backbone).packed(crops, masks, firsts)
    return [
        backbone(part, None if index else masks, first)
        for index, (part, first) in enumerate(zip(crops, firsts, strict=True))
    ]
