"""The products of a training run: a model file, and a checkpoint in the layout of official DINO."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from ssleval.backbones.loaders.native import NativeBackbone
from ssleval.backbones.loaders.timm import TimmBackbone
from ssleval.backbones.vit import CLASS_TOKEN_STD
from ssleval.backbones.weights.weightfile import write_weights
from ssleval.core import BackboneCard
from ssleval.core.backbone import Backbone
from ssleval.core.files import write_atomically
from ssleval.errors import WeightsError
from ssleval.train.config import TrainConfig
from ssleval.train.networks import Network
from ssleval.train.state import read_state, writing
from ssleval.train.timm_network import TimmNetwork
from ssleval.train.views import MEAN, STD


def teacher_card(network: Network, config: TrainConfig, data: str, epoch: int) -> BackboneCard:
    """Describe a trained backbone. Its geometry is DINO's resize and crop (256 to 224), at its crop size.

    ``epoch`` is the last trained one, from zero: crops are larger in the high-resolution epochs.
    """
    backbone, side = network.backbone, config.views_at(epoch).global_size
    if isinstance(backbone, TimmNetwork):
        card = backbone.card
    else:
        vit, kind = backbone.config, backbone.config.position_embedding
        card = BackboneCard(
            "teacher", "native", "file", vit.embed_dim, vit.patch_size, position_embedding=kind
        )
    return replace(
        card,
        name="teacher",
        image_size=side,
        resize=round(side * 256 / 224),
        resize_mode="short",
        interpolation="bicubic",
        mean=MEAN,
        std=STD,
        normalisation="stated",
        supervision="self",
        family="ssleval train",
        license="that of its training images",
        pretraining_data=data,
        parameters=round(sum(weight.numel() for weight in backbone.parameters()) / 1e6, 2),
        source="trained by ssleval" + (f", from {config.model.init}" if config.model.init else ""),
    )


def as_backbone(network: Network, card: BackboneCard) -> Backbone:
    """Return the backbone of ``network`` as a `Backbone` that shares its weights."""
    if isinstance(network.backbone, TimmNetwork):
        return TimmBackbone(card, network.backbone.model)
    return NativeBackbone(card, network.backbone)


def write_teacher(path: Path, network: Network, card: BackboneCard) -> None:
    """Write the backbone of ``network`` as a file for `ssleval run --model`."""
    backbone = network.backbone
    if isinstance(backbone, TimmNetwork):
        write_weights(path, backbone.model.state_dict(), card, {})
        return
    state = {name: value for name, value in backbone.state_dict().items() if name != "mask_token"}
    shape = asdict(backbone.config) | {"mask_token": False, "drop_path": 0.0}
    # Meaningless outside training, and absent from older files.
    for name in ("drop_path_rule", "drop_path_draw", "residual"):
        del shape[name]
    if shape["class_token_std"] == CLASS_TOKEN_STD:
        del shape["class_token_std"]
    write_weights(path, state, card, shape)


def export_checkpoint(source: Path, out: Path) -> None:
    """Write a training checkpoint in the layout of official DINO: ``student``, ``teacher``, ``epoch``.

    Names are ``backbone.…``, ``head.mlp.…`` and ``head.last_layer.weight_g|v``. Those of the student begin
    with ``module.``, as under DistributedDataParallel.

    Raises:
        WeightsError: ``source`` is no training checkpoint, or official DINO lacks its architecture.
    """
    state = read_state(source)
    student: Mapping[str, Tensor] = state["student"]
    if "backbone.patch_embed.proj.weight" not in student:
        raise WeightsError(
            f"{source}: official DINO has no network with this stem, or of timm; use teacher.safetensors"
        )
    if "head.last_layer.weight" in student:
        raise WeightsError(
            f"{source}: official DINO has no head without weight norm; use teacher.safetensors"
        )
    content = {
        "student": {f"module.{name}": value for name, value in student.items()},
        "teacher": state["teacher"],
        "epoch": int(state["epoch"]),
    }
    with writing(out):
        write_atomically(out, lambda path: torch.save(content, path))
