"""The weights that a training starts from: those of any transformer of the zoo, or of another training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssleval.backbones.loaders.native import NativeBackbone
from ssleval.backbones.vit import Vit, VitConfig, resize_positions
from ssleval.backbones.zoo import load
from ssleval.errors import ConfigError
from ssleval.train.config import TrainConfig, from_dict
from ssleval.train.networks import Network
from ssleval.train.state import read_state

_BACKBONE = "backbone."
_SETTINGS = {
    "embed_dim": "model.dim", "depth": "model.depth", "num_heads": "model.heads", "stem": "model.stem",
    "patch_size": "model.patch_size", "ffn": "model.ffn", "num_registers": "model.registers",
}  # fmt: skip
"""Fields of an architecture that decide which weights it has, and the settings they come from."""
_FIXED = ("mlp_ratio", "qkv_bias", "norm_eps")
"""The same where training has no setting."""


def start_from(config: TrainConfig, student: Network) -> None:
    """Fill the student with the weights that ``model.init`` names; its heads too, with ``model.init_heads``.

    Position embeddings are resized to the grid of the global crops, as the model does for such images. A mask
    token that the weights lack starts at zero.

    Raises:
        ConfigError: the student is of another architecture; the message states the settings.
        WeightsError: there are no such weights.
    """
    name, vit = config.model.init, student.backbone
    if not isinstance(vit, Vit):
        raise ConfigError(
            f"train: model.init starts transformers of ours, such as vit_small, not {config.model.arch}"
        )
    heads = fill_backbone(vit, name, "model.init")
    if config.model.init_heads:
        _fill_heads(name, student, heads)


def fill_backbone(vit: Vit, name: str, setting: str) -> Mapping[str, Tensor]:
    """Fill a transformer with the weights ``name`` and return those of heads, where there are some.

    Errors are those of `start_from`; they call the name by its ``setting``.
    """
    if name.endswith(".pt"):
        state = read_state(Path(name))
        weights: Mapping[str, Tensor] = state["teacher"]
        stored = from_dict(state["config"])
        if not stored.is_transformer:
            raise ConfigError(f"train: {setting}={name} is a {stored.model.arch}, no transformer of ours")
        theirs = stored.vit()
        given = {
            key.removeprefix(_BACKBONE): value for key, value in weights.items() if key.startswith(_BACKBONE)
        }
        heads = {key: value for key, value in weights.items() if not key.startswith(_BACKBONE)}
    else:
        loaded = load(name)
        if not isinstance(loaded, NativeBackbone):
            raise ConfigError(f"train: {setting}={name} is no transformer of this program's own class")
        theirs, given, heads = loaded.vit.config, loaded.vit.state_dict(), {}
    _refuse_other(f"{setting}={name}", theirs, vit.config)
    _fill_backbone(vit, given, theirs)
    return heads


def _refuse_other(name: str, theirs: VitConfig, ours: VitConfig) -> None:
    wrong = {
        field: getattr(theirs, field) for field in _SETTINGS if getattr(theirs, field) != getattr(ours, field)
    }
    stated = [f"--set {_SETTINGS[field]}={value}" for field, value in wrong.items()]
    if (theirs.layerscale is None) != (ours.layerscale is None):
        stated.append(f"--set model.layerscale={theirs.layerscale or 0}")
    if ours.fixed_positions and not theirs.fixed_positions:
        stated.append("--set mae.fixed_positions=false")
    if stated:
        raise ConfigError(f"train: {name} is of another architecture; {' '.join(stated)}")
    if other := [field for field in _FIXED if getattr(theirs, field) != getattr(ours, field)]:
        raise ConfigError(f"train: {name} has another {other[0]}, which training does not offer")


@torch.no_grad()
def _fill_backbone(vit: Vit, given: Mapping[str, Tensor], theirs: VitConfig) -> None:
    grid, rule = vit.config.grid, theirs.position_embedding
    filled = {**given, "pos_embed": resize_positions(given["pos_embed"], grid, grid, rule)}
    if vit.mask_token is None:
        filled.pop("mask_token", None)
    else:
        filled.setdefault("mask_token", vit.mask_token)
    vit.load_state_dict(filled)


def _fill_heads(name: str, student: Network, heads: Mapping[str, Tensor]) -> None:
    ours: dict[str, Any] = {
        key: value for key, value in student.state_dict().items() if not key.startswith(_BACKBONE)
    }
    if _shapes(ours) != _shapes(heads):
        raise ConfigError(
            f"train: model.init={name} has no heads of these shapes; take those of its run, or leave "
            "model.init_heads out, and they start untrained"
        )
    student.load_state_dict(heads, strict=False)


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in state.items()}
