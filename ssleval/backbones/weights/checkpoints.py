"""Reading of weights that others published, in three steps.

`read_checkpoint` returns tensors under the names of their authors, `to_native` renames those of vision
transformers, `fill` copies them, and refuses a tensor of either side that has no counterpart. Files are not
trusted: they are safetensors, or pickles that are read with ``weights_only``.
"""

import logging
import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import isqrt
from pathlib import Path

import torch
from torch import Tensor, nn

from ssleval.backbones.weights.downloads import fetch_card
from ssleval.backbones.weights.networks import DEFAULT, read_network, strip
from ssleval.core import BackboneCard
from ssleval.core.backbone import WeightsFrom
from ssleval.core.text import some
from ssleval.errors import WeightsError

__all__ = ["DROPPABLE", "HEADS", "fill", "from_checkpoint", "read_checkpoint", "strip", "to_native"]

HEADS: dict[str, tuple[str, ...]] = {
    "DINO and supervised ViTs": ("head.", "fc."),
    "DINOv2": ("dino_head.", "ibot_head.", "mask_token"),
    "iBOT": ("masked_embed",),
    "MAE": ("decoder_embed.", "decoder_pos_embed", "decoder_blocks.", "decoder_norm.", "decoder_pred."),
    "SwAV": ("projection_head.", "prototypes."),
    "Franca": ("rasa_head.",),
    "Mugs": ("relation_blocks.", "instance_head.", "local_group_head.", "group_head."),
    "torchvision": ("heads.",),
    "timm": ("head_dist.",),
    "Hugging Face": ("pooler.", "classifier.", "decoder."),
}
"""Tensors of a training that are not part of a backbone, by who writes them. A name that ends in a dot
includes all names that begin with it. They are left out only where the architecture has no such tensor."""

DROPPABLE: tuple[str, ...] = tuple(name for names in HEADS.values() for name in names)
"""All names in `HEADS`."""

_COUNTS = "num_batches_tracked"
_RESAMPLED = ("pos_embed", "patch_embed.proj.weight", "relative_position_bias_table")

_HF_NAMES = (
    (r"^(vit|dinov2|dinov2_with_registers)\.", ""),
    (r"^embeddings\.(cls_token|mask_token|register_tokens)$", r"\1"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^(?:encoder\.)?layers?\.(\d+)\.", r"blocks.\1."),
    (r"^(blocks\.\d+)\.attention\.(?:attention\.)?([qkv])(?:uery|ey|alue|_proj)\.", r"\1.attn.\2."),
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
    "attn.qkv": ("attn.q", "attn.k", "attn.v"),
    "mlp.w12": ("mlp.gate_proj", "mlp.up_proj"),
}
"""Matrices that Hugging Face stores separately, in the order in which their rows are stacked."""


def read_checkpoint(path: Path, key: str = DEFAULT) -> dict[str, Tensor]:
    """Return the tensors of one network, under the names that its authors chose; see `read_network`."""
    return dict(read_network(path, key).content)


def from_checkpoint(card: BackboneCard, weights: WeightsFrom) -> tuple[BackboneCard, dict[str, Tensor]]:
    """Return the tensors of a file of the user, and the card that records which network of it was read.

    ``weights`` of the card gets ``network``, its place in the file, and ``other_networks`` beside it.
    """
    network = read_network(weights.file, weights.key)
    choice = {"network": network.path, "other_networks": ", ".join(network.others)}
    recorded = {**card.weights, **{name: text for name, text in choice.items() if text}}
    return replace(card, weights=recorded), dict(network.content)


def read_weights(card: BackboneCard, weights: WeightsFrom) -> tuple[BackboneCard, dict[str, Tensor]]:
    """Return the tensors of the published file of ``card``, or those of a file of the user, and the card."""
    if weights.kind == "published":
        return card, read_checkpoint(fetch_card(card), weights.key)
    return from_checkpoint(card, weights)


@contextmanager
def drawn_or_empty(weights: WeightsFrom) -> Generator[None]:
    """Construct modules with random weights, or without any where a file will `fill` them.

    Random weights are drawn on the CPU, where a seed gives the same ones everywhere.
    """
    device = "cpu" if weights.kind == "random" else "meta"
    with torch.device(device), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(weights.seed)
        yield


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
    renamed = {_from_hugging_face_name(key): value for key, value in state.items()}
    for fused, parts in _HF_FUSED.items():
        for first in [key for key in renamed if f".{parts[0]}." in key]:
            keys = [first.replace(parts[0], part) for part in parts]
            if all(key in renamed for key in keys):
                renamed[first.replace(parts[0], fused)] = torch.cat([renamed.pop(key) for key in keys])
    return renamed


def _from_hugging_face_name(key: str) -> str:
    for pattern, replacement in _HF_NAMES:
        key = re.sub(pattern, replacement, key)
    return key


def _from_timm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    if "reg_token" in state:
        state["register_tokens"] = state.pop("reg_token")
    positions = state.get("pos_embed")
    if positions is not None and positions.ndim == 3 and "cls_token" in state:
        count = positions.shape[1]
        # A square number of positions: timm has added the one of the class token to the token.
        if count > 1 and count == isqrt(count) ** 2:
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


def in_layout_of(targets: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a vision transformer in any layout that `to_native` knows under the names of ``targets``.

    These are those of timm, of Hugging Face or of `Vit`. ``state`` is returned unchanged where it has these
    names, or lacks one in every layout. Values do not change; where ``targets`` has no position for the class
    token, that position is added to the token. A mask token, which only training uses, may be missing.
    """
    if targets.keys() <= state.keys():
        return dict(state)
    native = to_native(state)
    tokens = [names["pos_embed"].shape[1] for names in (native, targets) if "pos_embed" in names]
    if "cls_token" in native and len(tokens) == 2 and tokens[0] == tokens[1] + 1:
        native["cls_token"] = native["cls_token"] + native["pos_embed"][:, :1]
        native["pos_embed"] = native["pos_embed"][:, 1:]
    found = {name: _named(name, target, native) for name, target in targets.items()}
    renamed = {name: tensor for name, tensor in found.items() if tensor is not None}
    return renamed if len(renamed) == len(found) else dict(state)


def _named(name: str, target: Tensor, native: Mapping[str, Tensor]) -> Tensor | None:
    """Return the tensor of `Vit` that is called ``name`` elsewhere; None where there is none."""
    own = _from_hugging_face_name(name)
    own = "register_tokens" if own == "reg_token" else own
    if own not in native:
        own = own.replace(".mlp.fc1.", ".mlp.w12.").replace(".mlp.fc2.", ".mlp.w3.")
    for fused, parts in _HF_FUSED.items():
        for row, part in enumerate(parts):
            whole = native.get(own.replace(f".{part}.", f".{fused}."))
            if f".{part}." in own and whole is not None:
                return whole.chunk(len(parts))[row]
    if own == "mask_token" and own not in native:
        return torch.zeros(target.shape)
    return native.get(own)


def on_own_grid(card: BackboneCard, state: Mapping[str, Tensor]) -> BackboneCard:
    """Return the card with the patch size and the image size that the tensors of a vision transformer have.

    ``state`` has the names of `Vit`. The image size is the side of the square whose patches the position
    embedding has; the resized side keeps its ratio to it. Other tensors leave the card as it is.
    """
    patches, positions = state.get("patch_embed.proj.weight"), state.get("pos_embed")
    if positions is None or positions.ndim != 3 or (patches is not None and patches.ndim != 4):
        return card
    patch = card.patch_size if patches is None else patches.shape[-1]
    tokens = positions.shape[1] - ("cls_token" in state)
    size = isqrt(max(tokens, 0)) * patch
    if tokens < 1 or isqrt(tokens) ** 2 != tokens or (size, patch) == (card.image_size, card.patch_size):
        return card
    return replace(
        card, patch_size=patch, image_size=size, resize=round(card.resize * size / card.image_size)
    )


def refuse_resampled(given: Mapping[str, Tensor], converted: Mapping[str, Tensor], name: str) -> None:
    """Refuse tensors that a library has resampled to another grid while it ``converted`` the given ones."""
    sizes = {tensor.numel() for tensor in given.values()}
    for key, tensor in converted.items():
        # A library may cut off the positions of prefix tokens.
        cut = (tensor.numel() + rows * tensor.shape[-1] for rows in range(3)) if tensor.ndim else ()
        if key.endswith(_RESAMPLED) and sizes.isdisjoint(cut):
            raise WeightsError(
                f"{name}: {key} of the file has the grid of another image or patch size, and is never "
                "resampled; name the architecture that has this size"
            )


def refuse_dead(name: str, module: nn.Module) -> None:
    """Refuse tensors that are not finite, and matrices of weights whose values are all the same.

    Positions and other tokens may be constant: not every method trains them.
    """
    broken: list[str] = []
    constant: list[str] = []
    for key, tensor in module.state_dict().items():
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        low, high = tensor.detach().aminmax()
        if not bool((low.isfinite() & high.isfinite()).item()):
            broken.append(key)
        elif key.endswith("weight") and sum(side > 1 for side in tensor.shape) > 1 and bool(low == high):
            constant.append(key)
    for problem, keys in (("not finite", broken), ("constant", constant)):
        if keys:
            raise WeightsError(
                f"{name}: its weights are {problem}: {some(keys)}; the file is damaged, or its training "
                "failed: get it again, or choose an earlier checkpoint"
            )


def fill(
    module: nn.Module, state: Mapping[str, Tensor], *, name: str, droppable: Sequence[str] = DROPPABLE
) -> tuple[str, ...]:
    """Copy ``state`` into a module of the model ``name``, and return the names that were left out.

    Values are converted to the types of the module. A module on the meta device is materialised. Names in
    ``droppable``, or below one that ends in a dot, may be left out where the module lacks them. Where others
    are missing, unexpected, or of another shape or kind, a WeightsError says so and nothing is copied. Counts
    of batches, which files older than torch 0.4.1 lack and only training uses, may be missing.
    """
    targets = module.state_dict()
    counts = {
        key: torch.zeros(value.shape, dtype=value.dtype)
        for key, value in targets.items()
        if key.endswith(_COUNTS)
    }
    state = {**counts, **state}
    extra = [key for key in state if key not in targets]
    below = tuple(name for name in droppable if name.endswith("."))
    dropped = tuple(key for key in extra if key in droppable or key.startswith(below))
    misfits = (_misfit(key, state[key], target) for key, target in targets.items() if key in state)
    problems = {
        "missing": [key for key in targets if key not in state],
        "unexpected": [key for key in extra if key not in dropped],
        "misfit": list(filter(None, misfits)),
    }
    if complaints := [f"{problem} {some(keys)}" for problem, keys in problems.items() if keys]:
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
