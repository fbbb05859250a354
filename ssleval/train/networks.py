"""Student and teacher: a backbone and its head. The teacher is the student's moving average."""

from dataclasses import replace
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ssleval.backbones.vit import Vit
from ssleval.train.config import TrainConfig
from ssleval.train.convnet import Convnet, build_convnet
from ssleval.train.head import DinoHead
from ssleval.train.views import Views


class Network(nn.Module):
    """A backbone with the head of its class token, and of its patches where they have one of their own."""

    def __init__(self, backbone: Vit | Convnet, config: TrainConfig) -> None:
        super().__init__()
        self.backbone = backbone
        width = backbone.config.embed_dim if isinstance(backbone, Vit) else backbone.width
        self.head = DinoHead(width, config.head)
        self.hides = not config.loss.distill
        """Whether the patches that are charged are hidden too."""
        separate = config.loss.ibot > 0 and not config.loss.shared_head
        self.patch_head = DinoHead(width, config.head) if separate else None
        if separate and config.loss.dino <= 0:
            # Nothing is charged through this head, and processes would wait for gradients that never come.
            self.head.requires_grad_(False)

    def forward(
        self, views: Views, masks: Bool[Tensor, "c n"] | None, temperature: float
    ) -> tuple[Float[Tensor, "v b k"], Float[Tensor, "m k"] | None, Float[Tensor, "2 b d"]]:
        """Return logits of every crop and of every charged patch, and the class tokens of global crops.

        All crops of one size go through the backbone as one batch, and all class tokens through the head.

        Args:
            views: ``v`` crops of ``b`` images; without local crops they may be empty.
            masks: patches of the global crops that are charged, one row per crop, and hidden unless a frozen
                teacher is distilled.
            temperature: what logits are divided by.
        """
        batch = views.globals.shape[1]
        hidden = masks if self.hides else None
        tokens = self.backbone(views.globals.flatten(0, 1), hidden, _wanted(masks))
        classes = tokens[:, 0]
        everyone = [classes]
        if len(views.locals):
            everyone.append(self.backbone(views.locals.flatten(0, 1), None, 1)[:, 0])
        logits = self.head(torch.cat(everyone), temperature).unflatten(0, (-1, batch))
        patches = None if masks is None else self._patches(tokens, masks, temperature)
        return logits, patches, classes.unflatten(0, (2, batch))

    def assignments(
        self, crops: Float[Tensor, "2 b 3 s s"], masks: Bool[Tensor, "c n"] | None
    ) -> tuple[Float[Tensor, "2 b k"], Float[Tensor, "m k"] | None, Float[Tensor, "c d"]]:
        """Return the teacher's logits of whole global crops, of what masks hide, and all class tokens."""
        tokens = self.backbone(crops.flatten(0, 1), None, _wanted(masks))
        logits = self.head(tokens[:, 0]).unflatten(0, (2, -1))
        patches = None if masks is None else self._patches(tokens, masks, 1.0)
        return logits, patches, tokens[:, 0]

    def _patches(self, tokens: Tensor, masks: Tensor, temperature: float) -> Tensor:
        hidden = tokens[:, cast("Vit", self.backbone).config.num_prefix :][masks]
        return (self.patch_head or self.head)(hidden, temperature)


def _wanted(masks: Tensor | None) -> int | None:
    """Return how many of the first tokens are wanted: the class token, or all where patches are charged."""
    return 1 if masks is None else None


def build_networks(config: TrainConfig) -> tuple[Network, Network]:
    """Return a student and a teacher with the same weights; only the student drops branches at random."""
    student = untrained(config, drop_path=config.model.drop_path)
    teacher = untrained(config, drop_path=0.0)
    teacher.load_state_dict(student.state_dict())
    return student, teacher.requires_grad_(False)


def untrained(config: TrainConfig, *, drop_path: float) -> Network:
    """Return a network with the weights of ``config.run.seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.run.seed)
        backbone = (
            Vit(replace(config.vit(), drop_path=drop_path))
            if config.is_transformer
            else build_convnet(config)
        )
        return Network(backbone, config)


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Move the teacher towards the student: ``momentum`` of itself, the rest of the student.

    Statistics of batch normalisation are no parameters: the teacher has its own, of the global crops it
    sees, as in the official code.
    """
    average = get_ema_multi_avg_fn(momentum)
    average(list(teacher.parameters()), list(student.parameters()), 0)
