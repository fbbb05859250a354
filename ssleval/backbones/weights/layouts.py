"""Names of tensors in published files that no library reads, exchanged for the names of the architecture.

Each function states the code that wrote the files. Values are those of the file; only axes are permuted.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ssleval.errors import WeightsError

_DEPTHS = (3, 4, 6, 3)
"""Blocks of the four stages of a ResNet-50."""
_BATCH_NORM = {
    "gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var",
}  # fmt: skip
_HAIKU_NORM = {
    "scale": "weight", "offset": "bias",
    "~/mean_ema/average": "running_mean", "~/var_ema/average": "running_var",
}  # fmt: skip


def from_tensorflow(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename SimCLR's variables ``base_model/conv2d_7/kernel`` to torchvision's; other files are unchanged.

    TensorFlow numbers layers in the order in which they were made: the shortcut of a stage's first block
    comes before the three layers of that block. Heads, counters and the optimiser's state are left out.

    Source: google-research/simclr, resnet.py, bottleneck_block and resnet_v1_generator.
    """
    suffixes = ["", *(f"_{number}" for number in range(1, 1 + 3 * sum(_DEPTHS) + len(_DEPTHS)))]
    places = [(f"conv2d{suffix}/kernel", f"batch_normalization{suffix}") for suffix in suffixes]
    base = _below("base_model/", state)
    return _renamed({key: base[key] for key in base if key.count("/") == 1}, places, _BATCH_NORM) or dict(
        state
    )


def from_haiku(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename BYOL's online network ``res_net50/~/initial_conv/w`` to torchvision's; others stay.

    Projector, predictor and classifier are left out.

    Source: google-deepmind/deepmind-research, byol/utils/networks.py; dm-haiku, haiku/_src/nets/resnet.py and
    haiku/_src/batch_norm.py.
    """
    modules = [_haiku_module(conv) for conv, _ in _layers()]
    places = [(f"{module.format('conv')}/w", module.format("batchnorm")) for module in modules]
    base = _below("res_net50/~/", state)
    kept = {key: base[key] for key in base if not re.search(r"_ema/(hidden|counter)$", key)}
    return _renamed(kept, places, _HAIKU_NORM) or dict(state)


def one_bias_for_all_blocks(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give each block BEiT's shared relative positions, which it has in pre-training, and drop the heads.

    Other files are returned unchanged. What is dropped belongs to the masked prediction: the mask token, the
    head of the vocabulary, and the two layers that train the class token.

    Source: microsoft/unilm, beit2/modeling_pretrain.py and run_class_finetuning.py, which does the same.
    """
    shared = "rel_pos_bias.relative_position_bias_table"
    if shared not in state:
        return dict(state)
    dropped = ("rel_pos_bias.", "mask_token", "lm_head.", "cls_pt_", "head.")
    blocks = {key.split(".")[1] for key in state if key.startswith("blocks.")}
    kept = {key: value for key, value in state.items() if not key.startswith(dropped)}
    return kept | {f"blocks.{n}.attn.relative_position_bias_table": state[shared] for n in blocks}


def _below(root: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(root): value for key, value in state.items() if key.startswith(root)}


def _renamed(
    base: dict[str, Tensor], places: Sequence[tuple[str, str]], parts: Mapping[str, str]
) -> dict[str, Tensor]:
    """Return the tensors under torchvision's names; ``places`` are the kernel and the norm of every layer.

    Nothing where there are no tensors; a WeightsError where one is missing or left over.
    """
    renamed: dict[str, Tensor] = {}
    if not base:
        return renamed
    for (conv, norm), (kernel, theirs) in zip(_layers(), places, strict=True):
        renamed[f"{conv}.weight"] = _kernel(base, kernel)
        for name, ours in parts.items():
            renamed[f"{norm}.{ours}"] = _taken(base, f"{theirs}/{name}").flatten()
        renamed[f"{norm}.num_batches_tracked"] = torch.tensor(0)
    if base:
        raise WeightsError(f"{min(base)} is no part of a ResNet-50; give a network of that size")
    return renamed


def _layers() -> Iterator[tuple[str, str]]:
    """Yield torchvision's names of a ResNet-50's convolutions and their norms, in TensorFlow's order."""
    yield "conv1", "bn1"
    for stage, depth in enumerate(_DEPTHS, 1):
        for block in range(depth):
            place = f"layer{stage}.{block}"
            if block == 0:
                yield f"{place}.downsample.0", f"{place}.downsample.1"
            yield from ((f"{place}.conv{n}", f"{place}.bn{n}") for n in (1, 2, 3))


def _haiku_module(conv: str) -> str:
    """Return Haiku's name of a layer, with a gap for its kind, convolution or norm."""
    if conv == "conv1":
        return "initial_{}"
    stage, block, layer = conv.removeprefix("layer").split(".")[:3]
    name = "shortcut_{}" if layer == "downsample" else f"{{}}_{int(layer.removeprefix('conv')) - 1}"
    return f"block_group_{int(stage) - 1}/~/block_{block}/~/{name}"


def _taken(state: dict[str, Tensor], name: str) -> Tensor:
    if name not in state:
        raise WeightsError(f"no {name} among {len(state)} tensors of a ResNet-50; give the whole network")
    return state.pop(name)


def _kernel(state: dict[str, Tensor], name: str) -> Tensor:
    """Take a kernel ``[h w in out]`` in torch's order of axes."""
    kernel = _taken(state, name)
    if kernel.ndim != 4:
        raise WeightsError(f"{name} has {kernel.ndim} axes, expected height, width, inputs and outputs")
    return kernel.permute(3, 2, 0, 1)
