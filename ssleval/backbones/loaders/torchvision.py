"""Models of torchvision: residual networks and vision transformers, such as ``torchvision:resnet50``.

The name of the weights may follow, as in ``torchvision:resnet50/IMAGENET1K_V1``; torchvision has a default.
The ResNet-50s of other methods, such as DINO and SwAV, have the same architecture and load here too; those
of SimCLR and BYOL pad differently, ``resnet50/simclr`` and ``resnet50/byol``.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from ssleval.backbones.weights.checkpoints import fill, millions_of_parameters, read_weights
from ssleval.backbones.weights.layouts import from_haiku, from_tensorflow
from ssleval.core import BackboneCard
from ssleval.core.backbone import Backbone, Features, Loader, Tokens, WeightsFrom, backbones
from ssleval.core.registry import suggestion
from ssleval.errors import ConfigError, UnknownNameError

_PADDED_AT_THE_END: dict[str, tuple[type[nn.Module], ...]] = {
    "simclr": (nn.MaxPool2d,),
    "byol": (nn.MaxPool2d, nn.Conv2d),
}
"""Layers that TensorFlow and JAX pad by their rule SAME: where the padding is odd, one pixel more at the end,
while torch's layers have it on both sides and so see other windows.

Source: google-research/simclr, resnet.py (convolutions are padded by hand, as in torch);
google-deepmind/deepmind-research, byol/utils/networks.py.
"""
_SEQUENCE = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
"""Modules with parameters by their place among the children of a residual network."""


class TorchvisionResnet(Backbone):
    """A residual network: its last feature map, and the mean of that map."""

    def __init__(self, card: BackboneCard, model: Any) -> None:
        super().__init__(card, num_blocks=1)
        self.model = model

    def extract(self, images: Float[Tensor, "b 3 H W"], blocks: Sequence[int], *, norm: bool) -> Features:  # noqa: ARG002
        """Run up to the average pooling; these networks have no final norm."""
        model = self.model
        x = model.maxpool(model.relu(model.bn1(model.conv1(images))))
        x = model.layer4(model.layer3(model.layer2(model.layer1(x))))
        return Features(x.mean((2, 3)), tuple(Tokens(x.permute(0, 2, 3, 1)) for _ in blocks))

    def patch_grid(self, images: Float[Tensor, "b 3 H W"]) -> tuple[int, int]:
        """Return the size of the last map."""
        return self.map_grid(images)


class TorchvisionVit(Backbone):
    """A vision transformer for images of one size."""

    def __init__(self, card: BackboneCard, model: Any) -> None:
        super().__init__(card, num_blocks=len(model.encoder.layers))
        self.model = model

    def extract(self, images: Float[Tensor, "b 3 H W"], blocks: Sequence[int], *, norm: bool) -> Features:
        """Run all blocks; ``pooled`` is the class token after the final norm."""
        model = self.model
        self.refuse_other_size(images, (model.image_size,) * 2, "torchvision")
        x = model._process_input(images)
        x = torch.cat([model.class_token.expand(len(x), -1, -1), x], dim=1) + model.encoder.pos_embedding
        x, states = model.encoder.dropout(x), []
        for layer in model.encoder.layers:
            x = layer(x)
            states.append(x)
        final_norm, grid = model.encoder.ln if norm else nn.Identity(), self.patch_grid(images)
        tokens = tuple(Tokens.from_sequence(final_norm(states[index]), grid) for index in blocks)
        return Features(model.encoder.ln(x)[:, 0], tokens)


def _card(identifier: str) -> BackboneCard:
    arch, enum = _published(identifier)
    settings = enum.transforms()
    with torch.device("meta"):
        model = _architecture(identifier, arch, image_size=settings.crop_size[0])
    vit = hasattr(model, "encoder")
    digits = enum.url.rpartition("-")[2].partition(".")[0]  # of the hash, in which file names end
    swag = enum.name.startswith("IMAGENET1K_SWAG")
    return BackboneCard(
        name=f"torchvision:{identifier}",
        loader="torchvision",
        arch=f"{arch}/{enum.name}",
        embed_dim=model.hidden_dim if vit else model.inplanes,
        patch_size=model.patch_size if vit else 32,
        image_size=settings.crop_size[0],
        resize=settings.resize_size[0],
        interpolation=settings.interpolation.value,
        mean=tuple(settings.mean),
        std=tuple(settings.std),
        pooling="cls" if vit else "mean",
        position_embedding="fixed" if vit else "",
        supervision="weak" if swag else "full",
        family=type(model).__name__,
        weights={"url": enum.url},
        sha256=digits,
        license="CC-BY-NC-4.0" if swag else "BSD-3-Clause",
        pretraining_data="3.6B hashtagged images, then ImageNet-1k" if swag else "ImageNet-1k",
        parameters=millions_of_parameters(model),
        source=enum.meta.get("recipe", "https://github.com/pytorch/vision"),
    )


def _build(card: BackboneCard, weights: WeightsFrom) -> Backbone:
    arch, _, variant = card.arch.partition("/")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(weights.seed)
        model = _architecture(card.name, arch, image_size=card.image_size)
    layers: list[Any] = [*model.modules()]
    for layer in layers:
        if type(layer) in _PADDED_AT_THE_END.get(variant, ()) and layer.stride in (2, (2, 2)):
            layer.padding = 0
            layer.register_forward_pre_hook(_pad_same)
    if weights.kind != "random":
        card, state = read_weights(card, weights)
        fill(model, _by_name(from_tensorflow(from_haiku(state))), name=card.name)
    return TorchvisionVit(card, model) if hasattr(model, "encoder") else TorchvisionResnet(card, model)


def _pad_same(layer: Any, inputs: tuple[Tensor, ...]) -> Tensor:
    """Pad the input of a layer by the rule SAME; zeros serve before pooling too, which follows a ReLU."""
    (images,) = inputs
    kernel = layer.kernel_size if isinstance(layer.kernel_size, int) else layer.kernel_size[0]
    sides: list[int] = []
    for size in images.shape[:1:-1]:
        missing = max(0, (-(-size // 2) - 1) * 2 + kernel - size)  # all of these layers have stride 2
        sides += [missing // 2, missing - missing // 2]
    return functional.pad(images, sides)


def _by_name(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name the parts of a residual network that lightly keeps as a numbered sequence of them."""
    if not {"0.weight", "7.0.conv1.weight"} <= state.keys():
        return state
    split = {key: key.partition(".") for key in state}
    return {f"{_SEQUENCE.get(first, first)}.{rest}": state[key] for key, (first, _, rest) in split.items()}


def _architecture(identifier: str, arch: str, *, image_size: int) -> Any:
    """Build a network without its classifier, or refuse a class whose token layout is not known."""
    from torchvision import models

    options = {"image_size": image_size} if arch.startswith("vit_") else {}
    model: Any = models.get_model_builder(arch)(weights=None, **options)
    kind = type(model).__name__
    if kind == "ResNet":
        model.fc = nn.Identity()
    elif kind == "VisionTransformer":
        model.heads = nn.Identity()
    else:
        raise ConfigError(
            f"{identifier}: the token layout of torchvision's {kind} is not known to ssleval; "
            "ResNet and VisionTransformer are"
        )
    return model


def _published(identifier: str) -> tuple[str, Any]:
    from torchvision import models

    arch, _, tag = identifier.partition("/")
    known = models.list_models(module=models)
    if arch not in known:
        raise UnknownNameError(f"torchvision has no {arch!r}; {suggestion(arch, known)}")
    enum = models.get_model_weights(arch)
    if tag and tag not in enum.__members__:
        raise UnknownNameError(
            f"torchvision:{arch} has no weights {tag!r}; {suggestion(tag, enum.__members__)}"
        )
    return arch, enum[tag or "DEFAULT"]


backbones.register("torchvision")(Loader(_card, _build))
