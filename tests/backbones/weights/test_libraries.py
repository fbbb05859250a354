"""Files of exactly the published layout, with random weights, against a network written here again."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional
from torchvision import models

from ssleval.backbones.weights.layouts import from_haiku, from_tensorflow
from ssleval.backbones.zoo import load
from ssleval.errors import WeightsError

DEPTHS, WIDTHS, OUTPUTS = (3, 4, 6, 3), (4, 8, 16, 32), (256, 512, 1024, 2048)
IMAGES = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
Names = tuple[str, dict[str, str]]


def shapes() -> list[tuple[int, int, int]]:
    """Kernel, inputs and outputs of a ResNet-50's convolutions, a shortcut before the layers of its block."""
    made, inputs = [(7, 3, 64)], 64
    for depth, width, outputs in zip(DEPTHS, WIDTHS, OUTPUTS, strict=True):
        for block in range(depth):
            if block == 0:
                made.append((1, inputs, outputs))
            made += [(1, inputs, width), (3, width, width), (1, width, outputs)]
            inputs = outputs
    return made


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have torchvision build a ResNet-50 of a sixteenth of the width, with all its layers."""

    def build(arch: str, weights: None) -> Any:
        return models.ResNet(models.resnet.Bottleneck, list(DEPTHS), width_per_group=4)

    monkeypatch.setattr(models, "get_model_builder", lambda arch: partial(build, arch))  # pyright: ignore[reportUnknownLambdaType]


def tensorflow_names(number: int) -> Names:
    """Names of the variables of convolution and norm ``number``, as tf.layers counts them."""
    end = f"_{number}" if number else ""
    keys = {"scale": "gamma", "offset": "beta", "mean": "moving_mean", "variance": "moving_variance"}
    norms = {key: f"base_model/batch_normalization{end}/{name}" for key, name in keys.items()}
    return f"base_model/conv2d{end}/kernel", norms


def haiku_modules() -> list[tuple[str, str]]:
    modules = [("initial_conv", "initial_batchnorm")]
    for group, depth in enumerate(DEPTHS):
        for block in range(depth):
            place = f"block_group_{group}/~/block_{block}/~"
            if block == 0:
                modules.append((f"{place}/shortcut_conv", f"{place}/shortcut_batchnorm"))
            modules += [(f"{place}/conv_{n}", f"{place}/batchnorm_{n}") for n in range(3)]
    return modules


def haiku_names(number: int) -> Names:
    conv, norm = (f"res_net50/~/{name}" for name in haiku_modules()[number])
    mean, variance = (f"{norm}/~/{name}/average" for name in ("mean_ema", "var_ema"))
    return f"{conv}/w", {
        "scale": f"{norm}/scale",
        "offset": f"{norm}/offset",
        "mean": mean,
        "variance": variance,
    }


def published(names: Callable[[int], Names], *, spread: bool) -> dict[str, Tensor]:
    """Random arrays under the names and in the axes of a publisher; ``spread`` norms are [1, 1, 1, c]."""
    generator = torch.Generator().manual_seed(1)
    state: dict[str, Tensor] = {}
    for number, (kernel, inputs, outputs) in enumerate(shapes()):
        conv, norm = names(number)
        scale = (2 / (kernel * kernel * inputs)) ** 0.5
        state[conv] = torch.randn(kernel, kernel, inputs, outputs, generator=generator) * scale
        values = {key: torch.rand(outputs, generator=generator) + 0.5 for key in norm}
        state |= {norm[key]: value.view(1, 1, 1, -1) if spread else value for key, value in values.items()}
    return state


def same(x: Tensor, kernel: int, stride: int, value: float = 0.0) -> Tensor:
    """Pad so that a layer gives ceil(side / stride), one more at the end: the rule SAME of TensorFlow."""
    missing = max(0, (-(-x.shape[-1] // stride) - 1) * stride + kernel - x.shape[-1])
    before, after = missing // 2, missing - missing // 2
    return functional.pad(x, (before, after, before, after), value=value)


def both(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Pad as torchvision's layers and SimCLR's convolutions do: half of the kernel on each side."""
    return functional.pad(x, (kernel // 2,) * 4)


def written_again(state: dict[str, Tensor], names: Callable[[int], Names], pad: Any) -> Tensor:
    numbers = iter(range(len(shapes())))

    def layer(x: Tensor, stride: int = 1) -> Tensor:
        conv, norm = names(next(numbers))
        weight = state[conv].permute(3, 2, 0, 1)
        x = functional.conv2d(pad(x, weight.shape[-1], stride), weight, stride=stride)
        scale, offset, mean, variance = (state[norm[key]].view(-1) for key in norm)
        return functional.batch_norm(x, mean, variance, scale, offset, eps=1e-5)

    x = layer(IMAGES.clone() if pad is both else (IMAGES - MEAN) / STD, 2).relu()
    x = functional.max_pool2d(same(x, 3, 2, -torch.inf), 3, 2)
    for group, depth in enumerate(DEPTHS):
        for block in range(depth):
            stride = 2 if group and not block else 1
            shortcut = x if block else layer(x, stride)
            x = (layer(layer(layer(x).relu(), stride).relu()) + shortcut).relu()
    return x.mean((2, 3))


MEAN = torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1)
STD = torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)


@pytest.mark.parametrize(
    ("model", "names", "pad", "extra"),
    [
        (
            "simclr_resnet50", tensorflow_names, both,
            ["global_step", "base_model/conv2d/kernel/Momentum", "head_supervised/linear_layer/dense/kernel"],
        ),
        (
            "byol_resnet50", haiku_names, same,
            ["projector/linear/w", "predictor/linear/b", "classifier/w",
             "res_net50/~/initial_batchnorm/~/mean_ema/hidden",
             "res_net50/~/initial_batchnorm/~/var_ema/counter"],
        ),
    ],
)  # fmt: skip
def test_a_network_of_another_library_gives_what_that_library_computes(
    tmp_path: Path, model: str, names: Callable[[int], Names], pad: Any, extra: list[str]
):
    state = published(names, spread=pad is same)
    save_file({**state, **{name: torch.ones(3) for name in extra}}, tmp_path / "w.safetensors")
    features = load(model, checkpoint=tmp_path / "w.safetensors")(IMAGES)
    with torch.no_grad():
        expected = written_again(state, names, pad)
    torch.testing.assert_close(features.pooled, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    # The plain padding of torchvision sees other windows: the same weights give other features.
    renamed = from_tensorflow(from_haiku(state))
    torch.save(renamed, tmp_path / "plain.pth")
    plain = load("vicreg_resnet50", checkpoint=tmp_path / "plain.pth")
    plain.mean, plain.std = (torch.zeros(3, 1, 1), torch.ones(3, 1, 1)) if pad is both else (MEAN, STD)
    gap = (plain(IMAGES).pooled - expected).abs().max() / expected.abs().max()
    assert gap > 0.02


@pytest.mark.parametrize(
    ("names", "convert"), [(tensorflow_names, from_tensorflow), (haiku_names, from_haiku)]
)
def test_a_network_of_another_size_or_with_a_part_missing_is_refused(names: Any, convert: Any):
    state = published(names, spread=False)
    conv, norm = names(7)
    with pytest.raises(WeightsError, match=r"no .* among"):
        convert({key: value for key, value in state.items() if key != norm["variance"]})
    with pytest.raises(WeightsError, match="has 2 axes, expected height, width, inputs and outputs"):
        convert({**state, conv: state[conv].flatten(0, 2)})
    more = conv.replace("conv2d_7", "conv2d_53").replace("block_1", "block_9")
    with pytest.raises(WeightsError, match="is no part of a ResNet-50"):
        convert({**state, more: state[conv]})


def test_files_of_others_pass_through():
    state = {"conv1.weight": torch.ones(2)}
    assert from_tensorflow(state) == from_haiku(state) == state
