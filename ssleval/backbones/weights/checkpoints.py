"""Reading of weights that others published, in three steps.

`read_checkpoint` returns tensors under the names of their authors, `to_native` renames those of vision
transformers, `fill` copies them, and refuses a tensor of either side that has no counterpart. Files are not
trusted: they are safetensors, or pickles that are read with ``weights_only``.
"""

import argparse
import logging
import re
from collections.abc import Mapping, Sequence
from itertools import islice
from math import isqrt
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from ssleval.backbones.weights.weightfile import SUFFIX, UNREADABLE
from ssleval.core.files import DAMAGED_PICKLE
from ssleval.errors import WeightsError

HEADS: dict[str, tuple[str, ...]] = {
    "DINO and supervised ViTs": ("head.", "fc."),
    "DINOv2": ("dino_head.", "ibot_head.", "mask_token"),
    "iBOT": ("masked_embed",),
    "MAE": ("decoder_embed.", "decoder_pos_embed", "decoder_blocks.", "decoder_norm.", "decoder_pred."),
    "SwAV": ("projection_head.", "prototypes."),
    "torchvision": ("heads.",),
    "timm": ("head_dist.",),
    "Hugging Face": ("pooler.", "classifier.", "decoder."),
}
"""Tensors of a training that are not part of a backbone, by who writes them. A name that ends in a dot
includes all names that begin with it. They are left out only where the architecture has no such tensor."""

DROPPABLE: tuple[str, ...] = tuple(name for names in HEADS.values() for name in names)
"""All names in `HEADS`."""

_NETWORKS = ("teacher", "student")
_WRAPPERS = ("model", "state_dict")
_PREFIXES = ("module.", "_orig_mod.", "backbone.")
"""Written by DistributedDataParallel, torch.compile, and the multi-crop wrapper of DINO and DINOv2."""

_HF_NAMES = (
    (r"^(vit|dinov2|dinov2_with_registers)\.", ""),
    (r"^embeddings\.(cls_token|mask_token|register_tokens)$", r"\1"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^(?:encoder\.)?layers?\.(\d+)\.", r"blocks.\1."),
    (r"^(blocks\.\d+)\.attention\.attention\.(query|key|value)\.", r"\1.attn.\2."),
    (r"^(blocks\.\d+)\.attention\.q_proj\.", r"\1.attn.query."),
    (r"^(blocks\.\d+)\.attention\.k_proj\.", r"\1.attn.key."),
    (r"^(blocks\.\d+)\.attention\.v_proj\.", r"\1.attn.value."),
    (r"^(blocks\.\d+)\.attention\.(?:output\.dense|o_proj)\.", r"\1.attn.proj."),
    (r"^(blocks\.\d+)\.layernorm_before\.", r"\1.norm1."),
    (r"^(blocks\.\d+)\.layernorm_after\.", r"\1.norm2."),
    (r"^(blocks\.\d+)\.layer_scale([12])\.lambda1$", r"\1.ls\2.gamma"),
    (r"^(blocks\.\d+)\.intermediate\.dense\.", r"\1.mlp.fc1."),
    (r"^(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"^(blocks\.\d+)\.mlp\.weights_in\.", r"\1.mlp.w12."),
    (r"^(blocks\.\d+)\.mlp\.(?:weights_out|down_proj)\.", r"\1.mlp.w3."),
    (r"^layernorm\.", "norm."),
)
"""Patterns and replacements, in the order of use: names of published files and of transformers 5."""

_HF_FUSED = {
    "attn.qkv": ("attn.query", "attn.key", "attn.value"),
    "mlp.w12": ("mlp.gate_proj", "mlp.up_proj"),
}
"""Matrices that Hugging Face stores separately, in the order in which their rows are stacked."""


def read_checkpoint(path: Path, key: str = "teacher") -> dict[str, Tensor]:
    """Return the tensors of one network, under the names that its authors chose.

    ``path`` is a file named ``.safetensors``, or one that `torch.save` wrote; ``key`` says which of several
    networks. A file that holds one unnamed network has the default one only.

    Raises:
        WeightsError: the file is missing or damaged, holds more than tensors, or lacks that network.
    """
    if not path.is_file():
        reason = "it is a folder" if path.is_dir() else "there is no such file"
        raise WeightsError(f"{path}: {reason}; give a .safetensors file or one written by torch.save")
    try:
        content = _safetensors_or_pickle(path)
    except (*UNREADABLE, *DAMAGED_PICKLE) as error:
        raise _unreadable(path, error) from error
    return strip(_network(content, key, path), str(path))


def strip(state: Mapping[str, Tensor], origin: str) -> dict[str, Tensor]:
    """Remove the prefixes that wrappers add to names; refuse tensors that would get the same name."""
    stripped: dict[str, Tensor] = {}
    for name, tensor in state.items():
        short = name
        while short.startswith(_PREFIXES):
            short = short.partition(".")[2]
        if short in stripped:
            raise WeightsError(f"{origin}: two tensors are called {short!r} without their prefixes")
        stripped[short] = tensor
    return stripped


def to_native(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a vision transformer of DINOv2's training, timm or Hugging Face to the names of `Vit`.

    Names of no known layout are kept, and `fill` refuses them. Values do not change, except that a position
    of zero is added for the class token where timm has added its position to the token already.
    """
    native = dict(state)
    if any(key.endswith("embeddings.patch_embeddings.projection.weight") for key in native):
        native = _from_hugging_face(native)
    # DINOv2 trains with its blocks in chunks, blocks.<chunk>.<block>, for FSDP.
    native = {re.sub(r"^blocks\.\d+\.(\d+\.)", r"blocks.\1", key): value for key, value in native.items()}
    return _from_timm(native)


def _from_hugging_face(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        for pattern, replacement in _HF_NAMES:
            key = re.sub(pattern, replacement, key)  # noqa: PLW2901
        renamed[key] = value
    for fused, parts in _HF_FUSED.items():
        for first in [key for key in renamed if f".{parts[0]}." in key]:
            keys = [first.replace(parts[0], part) for part in parts]
            if all(key in renamed for key in keys):
                renamed[first.replace(parts[0], fused)] = torch.cat([renamed.pop(key) for key in keys])
    return renamed


def _from_timm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    if "reg_token" in state:
        state["register_tokens"] = state.pop("reg_token")
    positions = state.get("pos_embed")
    if positions is not None and positions.ndim == 3 and "cls_token" in state:
        count = positions.shape[1]
        # A square number of positions: timm has added the one of the class token to the token.
        if count == isqrt(count) ** 2:
            state["pos_embed"] = torch.cat((torch.zeros_like(positions[:, :1]), positions), dim=1)
    for key in [key for key in state if key.endswith(".mlp.fc1.weight")]:
        block = key.removesuffix("fc1.weight")
        second = state.get(f"{block}fc2.weight")
        # Twice as many rows as the second layer has inputs: gate and value of a SwiGLU, stacked.
        if second is not None and len(state[key]) == 2 * second.shape[-1]:
            for old, new in (("fc1.", "w12."), ("fc2.", "w3.")):
                for name in [name for name in state if name.startswith(block + old)]:
                    state[name.replace(old, new)] = state.pop(name)
    return state


def fill(
    module: nn.Module, state: Mapping[str, Tensor], *, name: str, droppable: Sequence[str] = DROPPABLE
) -> tuple[str, ...]:
    """Copy ``state`` into a module of the model ``name``, and return the names that were left out.

    Values are converted to the types of the module. A module on the meta device is materialised. Names in
    ``droppable``, or below one that ends in a dot, may be left out where the module lacks them. Where others
    are missing, unexpected, or of another shape or kind, a WeightsError says so and nothing is copied.
    """
    targets = module.state_dict()
    extra = [key for key in state if key not in targets]
    below = tuple(name for name in droppable if name.endswith("."))
    dropped = tuple(key for key in extra if key in droppable or key.startswith(below))
    misfits = (_misfit(key, state[key], target) for key, target in targets.items() if key in state)
    problems = {
        "missing": [key for key in targets if key not in state],
        "unexpected": [key for key in extra if key not in dropped],
        "misfit": list(filter(None, misfits)),
    }
    if complaints := [f"{problem} {_some(keys)}" for problem, keys in problems.items() if keys]:
        raise WeightsError(
            f"{name}: these are not weights of this architecture: {'; '.join(complaints)}; "
            "choose the architecture they were made for, or other weights"
        )
    ready = {key: state[key].to(target.dtype).contiguous() for key, target in targets.items()}
    module.load_state_dict(ready, strict=True, assign=any(t.is_meta for t in targets.values()))
    if dropped:
        logging.getLogger(__name__).info("%s: left out by name: %s", name, ", ".join(dropped))
    return dropped


def millions_of_parameters(module: nn.Module) -> float:
    """Return the ``parameters`` of a card, rounded to two digits."""
    return round(sum(parameter.numel() for parameter in module.parameters()) / 1e6, 2)


def _misfit(key: str, given: Tensor, target: Tensor) -> str:
    """Return why one tensor cannot be copied to another, or an empty text."""
    if given.shape != target.shape:
        return f"{key} {list(given.shape)} for {list(target.shape)}"
    if given.is_floating_point() != target.is_floating_point():
        return f"{key} {given.dtype} for {target.dtype}"
    return ""


def _some(keys: Sequence[str], most: int = 5) -> str:
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + more


def _safetensors_or_pickle(path: Path) -> Any:
    if path.suffix == SUFFIX:
        return safetensors.torch.load_file(path, device="cpu")
    # Official training checkpoints of DINO and MAE store their arguments as a Namespace.
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _unreadable(path: Path, error: Exception) -> WeightsError:
    text = str(error).strip()
    if "Unsupported global: " in text or "Unsupported class" in text:
        text = text[text.index("Unsupported ") :]
        advice = "it holds more than tensors, which would mean running its code; save its state_dict alone"
    else:
        advice = "it is damaged, incomplete or no file of weights; get it again"
    reason = text.splitlines()[0] if text else type(error).__name__
    return WeightsError(f"{path} ({path.stat().st_size:,} bytes): {advice} ({reason[:200]})")


def _network(content: Any, key: str, path: Path) -> Mapping[str, Tensor]:
    """Return the tensors of the network called ``key``."""
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path}: it holds {type(content).__name__}, expected named tensors")
    if _holds(content, key):
        network = content[key]
        return _tensors(network["state_dict"] if _holds(network, "state_dict") else network, path)
    present = [name for name in _NETWORKS if name in content]
    inner = [name for name in _WRAPPERS if _holds(content, name)]
    if not present and len(inner) == 1:
        return _network(content[inner[0]], key, path)
    flat = _flat_networks(content)
    if key in flat:
        return _tensors(flat[key], path)
    if present or flat or inner or key != "teacher":
        raise WeightsError(
            f"{path}: no network {key!r}; it has {_some(list(flat or content), 12)}; choose one with --key"
        )
    return _tensors(content, path)


def _holds(content: Mapping[str, Any], name: str) -> bool:
    return isinstance(content.get(name), Mapping)


def _flat_networks(content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Split a training module with ``teacher.backbone.…`` and ``student.…``, as DINOv2 saves it."""
    networks: dict[str, dict[str, Any]] = {}
    for name, value in content.items():
        first, _, rest = str(name).partition(".")
        if first in _NETWORKS and rest:
            networks.setdefault(first, {})[rest] = value
    return networks


def _tensors(content: Mapping[str, Any], path: Path) -> Mapping[str, Tensor]:
    strange = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if strange or not content:
        kinds = ", ".join(f"{name} ({type(content[name]).__name__})" for name in islice(content, 8))
        raise WeightsError(
            f"{path}: {len(strange)} of {len(content)} entries are no tensors; it has {kinds or 'nothing'}; "
            "name the network with --key"
        )
    return content
