"""Distillation: a larger, frozen teacher in place of the student's moving average (DINOv2 sec. 5)."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from ssleval.errors import ConfigError
from ssleval.train.config import TrainConfig, from_dict
from ssleval.train.networks import Network, untrained
from ssleval.train.state import read_state


def frozen_teacher(path: Path, config: TrainConfig) -> tuple[Network, Sequence[Tensor]]:
    """Return the teacher of a training checkpoint, backbone and heads, and the centres of its logits.

    Refuses one whose prototypes or patches do not match the student's.
    """
    state = read_state(path)
    theirs = from_dict(state["config"])
    if not theirs.distils:
        raise ConfigError(
            f"{path}: it was trained with loss.objective={theirs.loss.objective} and has no heads to distil"
        )
    advice = ("head.prototypes", "loss.shared_head=false --set head.patch_prototypes")
    for setting, their_head, our_head in zip(advice, theirs.heads, config.heads, strict=False):
        if their_head.prototypes != our_head.prototypes:
            raise ConfigError(
                f"{path}: its teacher has {their_head.prototypes} prototypes, the student "
                f"{our_head.prototypes}; --set {setting}={their_head.prototypes}"
            )
    if config.loss.ibot > 0 and theirs.loss.ibot == 0:
        raise ConfigError(f"{path}: its teacher was trained without loss.ibot and has no head for patches")
    if config.loss.ibot > 0 and theirs.model.patch_size != config.model.patch_size:
        raise ConfigError(
            f"{path}: its teacher has patches of {theirs.model.patch_size} pixels, the student of "
            f"{config.model.patch_size}; --set model.patch_size={theirs.model.patch_size}, or loss.ibot=0"
        )
    network = untrained(theirs, drop_path=0.0)
    network.load_state_dict(state["teacher"])
    return network.eval().requires_grad_(False), state["centers"]
