"""The floor of every comparison: an image is described by its mean colours; there are no weights."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from ssleval.backbones.zoo import find_card
from ssleval.core import BackboneCard
from ssleval.core.backbone import Backbone, Features, Loader, Tokens, WeightsFrom, backbones
from ssleval.errors import UnknownNameError, WeightsError

_GRID = 8


class Pixels(Backbone):
    """Patch tokens are the mean RGB of 16x16 pixels; ``pooled`` is an 8x8 grid of mean colours."""

    def __init__(self, card: BackboneCard) -> None:
        super().__init__(card, num_blocks=1)

    def extract(self, images: Float[Tensor, "b 3 H W"], blocks: Sequence[int], *, norm: bool) -> Features:  # noqa: ARG002
        """Average colours; there is no norm."""
        patches = functional.avg_pool2d(images, self.card.patch_size).permute(0, 2, 3, 1)
        pooled = functional.adaptive_avg_pool2d(images, _GRID).flatten(1)
        return Features(pooled, tuple(Tokens(patches) for _ in blocks))


def _card(identifier: str) -> BackboneCard:
    if identifier not in {"", "pixels"}:
        raise UnknownNameError(f"pixels has one model, got {identifier!r}; say pixels")
    return find_card("pixels")


def _build(card: BackboneCard, weights: WeightsFrom) -> Backbone:
    if weights.kind == "checkpoint":
        raise WeightsError(f"{card.name} has no weights to read {weights.path} into")
    return Pixels(card)


backbones.register("pixels")(Loader(_card, _build))
