"""A larger teacher, trained before and frozen, in place of the student's moving average (DINOv2 sec. 5)."""

from pathlib import Path

from torch import Tensor

from ssleval.errors import ConfigError
from ssleval.train.config import TrainConfig, from_dict
from ssleval.train.networks import Network, untrained
from ssleval.train.state import read_state


def frozen_teacher(path: Path, config: TrainConfig) -> tuple[Network, Tensor]:
    """Return the teacher of a training checkpoint, backbone and heads, and the centres of its logits.

    Raises:
        WeightsError: no checkpoint of this program.
        ConfigError: it assigns to other prototypes or patches than the student.
    """
    state = read_state(path)
    theirs = from_dict(state["config"])
    if theirs.head.prototypes != config.head.prototypes:
        raise ConfigError(
            f"{path}: its teacher assigns to {theirs.head.prototypes} prototypes, the student to "
            f"{config.head.prototypes}; --set head.prototypes={theirs.head.prototypes}"
        )
    if config.loss.ibot > 0:
        _check_patches(path, theirs, config)
    network = untrained(theirs, drop_path=0.0)
    network.load_state_dict(state["teacher"])
    centers: Tensor = state["centers"]
    return network.eval().requires_grad_(False), centers


def _check_patches(path: Path, theirs: TrainConfig, ours: TrainConfig) -> None:
    if theirs.loss.ibot <= 0:
        raise ConfigError(f"{path}: its teacher was trained without loss.ibot and has no head for patches")
    if theirs.model.patch_size != ours.model.patch_size:
        raise ConfigError(
            f"{path}: its teacher has patches of {theirs.model.patch_size} pixels, the student of "
            f"{ours.model.patch_size}; --set model.patch_size={theirs.model.patch_size}, or loss.ibot=0"
        )
