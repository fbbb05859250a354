"""Names of tensors in published files that no library reads, exchanged for the names of the architecture.

Each function states the code that wrote the files. Values are those of the file; only axes are permuted.
"""

import re
from collections.abc import Iterator, Mapping

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
    root = "base_model/"
    base = {key.removeprefix(root): value for key, value in state.items() if key.startswith(root)}
    base = {key: value for key, value in base.items() if key.count("/") == 1}
    if not base:
        return dict(state)
    renamed: dict[str, Tensor] = {}
    for number, (conv, norm) in enumerate(_layers()):
        suffix = f"_{number}" if number else ""
        renamed[f"{conv}.weight"] = _kernel(base, f"conv2d{suffix}/kernel")
        for theirs, ours in _BATCH_NORM.items():
            renamed[f"{norm}.{ours}"] = _taken(base, f"batch_normalization{suffix}/{theirs}")
        renamed[f"{norm}.num_batches_tracked"] = torch.tensor(0)
    return _whole(renamed, base)


def from_haiku(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename BYOL's online network ``res_net50/~/initial_conv/w`` to torchvision's; others stay.

    Projector, predictor and classifier are left out.

    Source: google-deepmind/deepmind-research, byol/utils/networks.py; dm-haiku, haiku/_src/nets/resnet.py and
    haiku/_src/batch_norm.py.
    """
    root = "res_net50/~/"
    base = {key.removeprefix(root): value for key, value in state.items() if key.startswith(root)}
    base = {key: value for key, value in base.items() if not re.search(r"_ema/(hidden|counter)$", key)}
    if not base:
        return dict(state)
    renamed: dict[str, Tensor] = {}
    for conv, norm in _layers():
        module = _haiku_module(conv)
        renamed[f"{conv}.weight"] = _kernel(base, f"{module.format('conv')}/w")
        for theirs, ours in _HAIKU_NORM.items():
            renamed[f"{norm}.{ours}"] = _taken(base, f"{module.format('batchnorm')}/{theirs}").flatten()
        renamed[f"{norm}.num_batches_tracked"] = torch.tensor(0)
    return _whole(renamed, base)


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


def _whole(renamed: dict[str, Tensor], rest: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if rest:
        raise WeightsError(f"{min(rest)} is no part of a ResNet-50; give a network of that size")
    return renamed
