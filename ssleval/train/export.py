"""What a training leaves behind: an ordinary model, and a checkpoint in the layout of official DINO."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssleval.core import BackboneCard
from ssleval.errors import WeightsError
from ssleval.train.config import TrainConfig
from ssleval.train.networks import Network
from ssleval.train.state import read_state, write_atomically
from ssleval.train.views import MEAN, STD
from ssleval.weightfile import write_weights

__all__ = ["export_checkpoint", "teacher_card", "write_teacher"]


def teacher_card(network: Network, config: TrainConfig, data: str) -> BackboneCard:
    """Describe a trained backbone; its own geometry is that of DINO, 256 to 224, at its crop size."""
    side = config.views.global_size
    return BackboneCard(
        name="teacher",
        loader="native",
        arch="file",
        embed_dim=network.backbone.config.embed_dim,
        patch_size=config.model.patch_size,
        image_size=side,
        resize=round(side * 256 / 224),
        mean=MEAN,
        std=STD,
        position_embedding=network.backbone.config.position_embedding,
        supervision="self",
        family="ssleval train",
        license="that of its training images",
        pretraining_data=data,
        parameters=round(sum(one.numel() for one in network.backbone.parameters()) / 1e6, 2),
        source="trained by ssleval",
    )


def write_teacher(path: Path, network: Network, config: TrainConfig, data: str) -> None:
    """Write the backbone of ``network`` as a file that `ssleval run --model` takes."""
    card = teacher_card(network, config, data)
    state = {name: value for name, value in network.backbone.state_dict().items() if name != "mask_token"}
    shape = asdict(network.backbone.config) | {"mask_token": False, "drop_path": 0.0}
    write_weights(path, state, card, shape)


def export_checkpoint(source: Path, out: Path) -> None:
    """Write a training checkpoint in the layout of official DINO: ``student``, ``teacher``, ``epoch``.

    Names are ``backbone.…``, ``head.mlp.…`` and ``head.last_layer.weight_g|v``, the student's behind
    ``module.``, as DistributedDataParallel left them.

    Raises:
        WeightsError: ``source`` is no checkpoint of this program, or of a network that the layout lacks.
    """
    state = read_state(source)
    student: Mapping[str, Tensor] = state["student"]
    if "backbone.patch_embed.proj.weight" not in student:
        raise WeightsError(f"{source}: official DINO has no network with this stem; use teacher.safetensors")
    content: dict[str, Any] = {
        "student": {f"module.{name}": value for name, value in student.items()},
        "teacher": dict(state["teacher"]),
        "epoch": int(state["epoch"]),
    }
    write_atomically(out, lambda path: torch.save(content, path))
