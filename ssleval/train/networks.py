"""Student and teacher: a backbone with its heads. The teacher is an EMA of the student."""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ssleval.backbones.vit import Vit
from ssleval.train.config import TrainConfig
from ssleval.train.crop_tokens import crop_tokens
from ssleval.train.head import DinoHead
from ssleval.train.lejepa import Lejepa
from ssleval.train.mae import Mae
from ssleval.train.objective import Objective
from ssleval.train.simclr import Simclr
from ssleval.train.timm_network import TimmNetwork, build_timm_network
from ssleval.train.vicreg import Vicreg
from ssleval.train.views import Views

_OBJECTIVES: dict[str, Callable[[int, TrainConfig], Objective]] = {
    "simclr": Simclr,
    "vicreg": Vicreg,
    "lejepa": Lejepa,
    "mae": Mae,
}
"""What makes the objectives without a teacher, by the name of their setting."""
_Distilled: TypeAlias = tuple[
    Float[Tensor, "v b k"],
    Float[Tensor, "m p"] | None,
    Float[Tensor, "2 b d"],
    Float[Tensor, "c n d"] | None,
]


class Network(nn.Module):
    """A backbone with a head for the class token and, optionally, a separate head for patches.

    Without a teacher, the backbone has an ``objective`` in place of heads.
    """

    def __init__(self, backbone: Vit | TimmNetwork, config: TrainConfig) -> None:
        super().__init__()
        self.backbone = backbone
        width = backbone.config.embed_dim if isinstance(backbone, Vit) else backbone.width
        self.objective = None if config.distils else _OBJECTIVES[config.loss.objective](width, config)
        self.pack = config.run.pack
        if self.objective is not None:
            self.objective.begin(backbone)
            self.objective.pack = self.pack
            return
        self.head = DinoHead(width, config.head)
        self.patch_head = DinoHead(width, config.head.of_patches) if config.has_patch_head else None
        if self.patch_head is not None and config.loss.dino <= 0:
            # This head gets no gradient, for which DistributedDataParallel would wait.
            self.head.requires_grad_(False)

    def forward(
        self,
        views: Views,
        masks: Bool[Tensor, "c n"] | None,
        temperature: float = 1.0,
        *,
        hide: bool = False,
        dense: bool = False,
    ) -> _Distilled | tuple[Tensor, Tensor]:
        """Return logits of all crops and of the patches in ``masks``, and the class tokens of global crops.

        Crops of one size pass through the backbone as one batch, and all class tokens through the head.
        ``masks`` are the patches of the global crops that enter the loss, one row per crop; ``hide`` replaces
        them by the mask token. ``temperature`` divides the logits. ``dense`` also returns all patches of the
        global crops. With an objective, return what that does.
        """
        if self.objective is not None:
            return self.objective(self.backbone, views, masks)
        batch = views.globals.shape[1]
        # Where no patch is asked for, the backbone need only output the class token.
        firsts = [None if dense or masks is not None else 1, 1]
        crops = [part.flatten(0, 1) for part in (views.globals, views.locals) if len(part)]
        hidden = masks if hide else None
        tokens, *small = crop_tokens(self.backbone, crops, hidden, firsts[: len(crops)], pack=self.pack)
        classes = tokens[:, 0]
        every = torch.cat([classes, *(part[:, 0] for part in small)])
        logits = self.head(every, temperature).unflatten(0, (-1, batch))
        patches = every_patch = None
        if dense or masks is not None:
            every_patch = tokens[:, cast("Vit", self.backbone).config.num_prefix :]
        if masks is not None and every_patch is not None:
            patches = (self.patch_head or self.head)(every_patch[masks], temperature)
        return logits, patches, classes.unflatten(0, (2, batch)), every_patch if dense else None


def build_networks(config: TrainConfig) -> tuple[Network, Network]:
    """Return a student and a teacher with equal weights; only the student has stochastic depth."""
    student = untrained(config, drop_path=config.model.drop_path)
    teacher = untrained(config, drop_path=0.0)
    teacher.load_state_dict(student.state_dict())
    return student, teacher.requires_grad_(False)


def untrained(config: TrainConfig, *, drop_path: float) -> Network:
    """Return a network initialised with ``config.run.seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.run.seed)
        if config.is_transformer:
            vit = Vit(replace(config.vit(), drop_path=drop_path))
            vit.recompute = config.run.gradient_checkpointing
            return Network(vit, config)
        return Network(build_timm_network(config), config)


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Update the teacher's parameters as an EMA of the student's.

    Batch-norm statistics are not averaged: the teacher has its own, of the global crops it sees, as in the
    official code. One that sees none, because an objective needs no targets, gets the student's.
    """
    update = get_ema_multi_avg_fn(momentum)
    update(list(teacher.parameters()), list(student.parameters()), 0)
    if not isinstance(teacher, Network) or teacher.objective is None:
        return
    for ours, theirs in zip(teacher.buffers(), student.buffers(), strict=True):
        ours.copy_(theirs)
