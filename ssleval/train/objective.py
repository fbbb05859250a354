"""What an objective without a teacher is: a network on top of the backbone, and losses of its outputs.

Shapes: ``v`` crops of ``b`` images, ``d`` channels of a projection, ``w`` of a class token.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ssleval.train.crop_tokens import crop_tokens
from ssleval.train.spread import effective_rank, spread
from ssleval.train.views import Views


class Objective(nn.Module, ABC):
    """A projector of class tokens, and losses that compare the projections of crops.

    `forward` runs under autocast, where the optimiser's parameters are replicated or sharded; `losses` and
    `indicators` run in float32. An objective that sees images in another way overrides `forward`.
    """

    def __init__(self, projector: nn.Module) -> None:
        super().__init__()
        self.projector = projector
        self.pack = False
        """Whether crops of all sizes pass through the backbone together."""

    def begin(self, backbone: nn.Module) -> None:
        """Initialise the untrained backbone in another way than as in DINO; here, do not."""
        del backbone

    def forward(
        self, backbone: nn.Module, views: Views, masks: Bool[Tensor, "c n"] | None
    ) -> tuple[Float[Tensor, "v b d"], Float[Tensor, "g b w"]]:
        """Return the outputs that `losses` takes, and the class tokens of global crops.

        Here the outputs are the projections of all crops, the two global ones first. ``masks`` are patches
        of the global crops, one row per crop, for objectives that hide some.
        """
        del masks
        batch = views.globals.shape[1]
        crops = [part.flatten(0, 1) for part in (views.globals, views.locals) if len(part)]
        tokens = crop_tokens(backbone, crops, None, [1] * len(crops), pack=self.pack)
        classes = torch.cat([part[:, 0] for part in tokens])
        return self.projector(classes).unflatten(0, (-1, batch)), classes[: 2 * batch].unflatten(0, (2, -1))

    @abstractmethod
    def losses(self, outputs: Tensor, views: Views, masks: Tensor | None) -> dict[str, Tensor]:
        """Return the weighted terms of the loss, each averaged over the images of this process."""

    @torch.no_grad()
    def indicators(self, outputs: Tensor, classes: Float[Tensor, "g b w"]) -> dict[str, Tensor]:
        """Return how class tokens and projections are spread; see `watch.CollapseWatch`."""
        projections = outputs[:2].flatten(0, 1)
        return {
            "feature_rank": effective_rank(classes.flatten(0, 1)),
            "projection_rank": effective_rank(projections),
            "projection_spread": spread(projections),
        }


def projector(sizes: Sequence[int], *, batch_norm: bool, last: Sequence[nn.Module]) -> nn.Sequential:
    """Return linear maps from each size to the next with ReLU, then ``last``.

    With ``batch_norm``, every hidden layer is normalised, and linear maps before a norm need no bias.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        norm = [nn.BatchNorm1d(outputs)] if batch_norm else []
        layers += [nn.Linear(inputs, outputs, bias=not batch_norm), *norm, nn.ReLU()]
    return nn.Sequential(*layers, *last)
