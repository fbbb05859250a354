"""Models of timm: vision transformers, with registers or without, and convolutional networks.

``pooled`` is timm's own: `forward_head` before the classifier. Blocks come from
`forward_intermediates`; models that normalise after pooling (``fc_norm``) have no norm for tokens,
as in timm. Only classes whose token layout is stated below are accepted.
"""

import sys
from collections.abc import Sequence
from math import floor
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ssleval.backbones.weights.checkpoints import fill, read_checkpoint
from ssleval.backbones.weights.hub import explained
from ssleval.backbones.weights.weightfile import SUFFIX, read_card
from ssleval.core import BackboneCard, Interpolation
from ssleval.core.backbone import Backbone, Features, Loader, Tokens, WeightsFrom, backbones
from ssleval.core.registry import suggestion
from ssleval.errors import ConfigError, NotApplicableError, UnknownNameError, WeightsError

Supervision: TypeAlias = Literal["self", "weak", "full", "none", "unknown"]

_TRANSFORMERS = {"Beit", "Eva", "VisionTransformer", "VisionTransformerDistilled"}
"""Classes whose sequence is: class token if any, other prefix tokens, patches row by row."""
_CONVOLUTIONAL = {"ConvNeXt", "EfficientNet", "RegNet", "ResNet", "ResNetV2"}
_MAPS = _CONVOLUTIONAL | {"MlpMixer", "SwinTransformer", "SwinTransformerV2"}
"""Classes whose last intermediate is the last feature map."""
_DYNAMIC = {"Eva", "VisionTransformer", "VisionTransformerDistilled"}
"""Classes that resample their position embedding when built with ``dynamic_img_size``."""
_PLAIN = {"VisionTransformer", "VisionTransformerDistilled"}
"""Classes whose attention is a softmax of query times key, with nothing added or rotated."""
_POOLING = {"token": "cls", "avg": "mean", "map": "map"}
_SUPERVISION: dict[str, Supervision] = {
    "dino": "self", "lvd142m": "self", "lvd1689m": "self", "sat493m": "self", "mae": "self", "fcmae": "self",
    "in1k_ijepa": "self", "in22k_ijepa": "self", "seer": "self", "openai": "weak", "webli": "weak",
    "v2_webli": "weak", "laion2b": "weak", "merged2b": "weak", "metaclip_400m": "weak", "dfn2b": "weak",
}  # fmt: skip
"""By weights tag, where the tag says it; other tags are full where there is a classifier."""


class TimmBackbone(Backbone):
    """A timm model without its classifier."""

    def __init__(self, card: BackboneCard, model: nn.Module) -> None:
        self.is_transformer = type(model).__name__ in _TRANSFORMERS
        self.is_convolutional = type(model).__name__ in _CONVOLUTIONAL
        super().__init__(card, num_blocks=len(model.blocks) if self.is_transformer else 1)  # pyright: ignore[reportArgumentType]
        self.model = model

    def extract(self, images: Float[Tensor, "b 3 H W"], blocks: Sequence[int], *, norm: bool) -> Features:
        """Run once; the last block, normalised, is what ``pooled`` is made from."""
        model: Any = self.model
        self._refuse_size(images)
        if not blocks:
            return Features(model.forward_head(model.forward_features(images), pre_logits=True))
        prefix = getattr(model, "num_prefix_tokens", 0) if self.is_transformer else 0
        indices = sorted(set(blocks)) if self.is_transformer else [len(model.feature_info) - 1]
        final, found = model.forward_intermediates(
            images,
            indices=indices,
            norm=norm,
            **({"return_prefix_tokens": True} if prefix else {}),
        )
        tokens = {index: self._tokens(item) for index, item in zip(indices, found, strict=True)}
        wanted = blocks if self.is_transformer else indices * len(blocks)
        return Features(model.forward_head(final, pre_logits=True), tuple(tokens[index] for index in wanted))

    @torch.no_grad()
    def attention(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b heads h w"]:
        """Return the last block's attention of the class token to the patches; rows sum to <= 1.

        Raises:
            NotApplicableError: no class token, or a block that is not timm's plain attention.
        """
        model: Any = self.model
        if not self.is_transformer or getattr(model, "cls_token", None) is None:
            return super().attention(images)
        last = model.blocks[-1].attn
        if type(model).__name__ not in _PLAIN or type(last).__name__ != "Attention":
            raise NotApplicableError(
                f"{self.card.name}: how timm's {type(model).__name__} attends ({type(last).__name__}) is not "
                "known to ssleval"
            )
        self._refuse_size(images)
        seen: list[Tensor] = []

        def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen.append(inputs[0])

        hook = last.register_forward_pre_hook(keep)
        try:
            model.forward_features((images - self.mean) / self.std)
        finally:
            hook.remove()
        query, key, _ = last.qkv(seen[0]).unflatten(-1, (3, last.num_heads, -1)).permute(2, 0, 3, 1, 4)
        logits = last.q_norm(query[:, :, :1]) @ last.k_norm(key).transpose(-2, -1) * last.scale
        weights = logits.float().softmax(dim=-1).squeeze(2)[..., model.num_prefix_tokens :]
        height, width = (side // self.card.patch_size for side in images.shape[-2:])
        return weights.unflatten(-1, (height, width))

    def _tokens(self, item: Any) -> Tokens:
        maps, prefix = item if isinstance(item, tuple) else (item, None)
        patches = maps.permute(0, 2, 3, 1)
        if prefix is None:
            return Tokens(patches)
        has_cls = getattr(self.model, "cls_token", None) is not None
        registers = prefix[:, 1:] if has_cls else prefix
        return Tokens(patches, prefix[:, 0] if has_cls else None, registers if registers.shape[1] else None)

    def _refuse_size(self, images: Tensor) -> None:
        embed: Any = getattr(self.model, "patch_embed", None)
        size = tuple(images.shape[-2:])
        if getattr(embed, "strict_img_size", False) and size != tuple(embed.img_size):
            height, width = embed.img_size
            raise ConfigError(
                f"{self.card.name}: {size[0]}x{size[1]} pixels, but timm fixes {type(self.model).__name__} "
                f"to {height}x{width}; use a geometry of that size"
            )


def shared_batch_norms(network: nn.Module) -> nn.Module:
    """Return ``network`` with statistics of batch normalisation shared by all processes.

    timm's batch norms may hold an activation, which torch's own conversion drops.
    """
    from timm.layers.norm_act import convert_sync_batchnorm

    return convert_sync_batchnorm(network)


def _card(identifier: str) -> BackboneCard:
    """Describe a timm model by its pretrained configuration and its shape, or a file by its header."""
    import timm

    if identifier.endswith(SUFFIX):
        return read_card(Path(identifier))
    arch = identifier.partition(".")[0]
    if arch not in timm.list_models():
        raise UnknownNameError(f"timm has no {arch!r}; {suggestion(arch, timm.list_models())}")
    config: Any = timm.get_pretrained_cfg(identifier, allow_unregistered=False)
    if config is None:
        tags = timm.list_pretrained(f"{arch}.*")
        raise UnknownNameError(f"timm has no weights {identifier!r}; {suggestion(identifier, tags)}")
    with torch.device("meta"):
        model: Any = timm.create_model(arch, num_classes=0)
    _refuse_layout(identifier, model)
    transformer = type(model).__name__ in _TRANSFORMERS
    last = model.feature_info[-1]
    size = config.input_size[-1]
    squash = config.crop_mode == "squash"
    tag = f".{config.tag}" if config.tag else ""
    return BackboneCard(
        name=f"timm:{identifier}",
        loader="timm",
        arch=f"{arch}{tag}",
        embed_dim=last["num_chs"],
        patch_size=last["reduction"],
        pooled_dim=model.head_hidden_size,
        image_size=size,
        resize=0 if squash else floor(size / config.crop_pct),
        resize_mode="square" if squash else "short",
        interpolation=_interpolation(config.interpolation),
        mean=config.mean,
        std=config.std,
        pooling=_POOLING.get(getattr(model, "global_pool", ""), "timm") if transformer else "mean",
        position_embedding=_position_embedding(model),
        supervision=_SUPERVISION.get(config.tag, "full" if config.num_classes else "unknown"),
        family=type(model).__name__,
        weights=_origin(config),
        license=config.license or "unknown",
        parameters=round(sum(p.numel() for p in model.parameters()) / 1e6, 2),
        source=config.origin_url or "https://github.com/huggingface/pytorch-image-models",
    )


def _build(card: BackboneCard, weights: WeightsFrom) -> Backbone:
    import timm

    with torch.device("meta"):
        shape = timm.create_model(card.arch.partition(".")[0], num_classes=0)
    _refuse_layout(card.arch, shape)
    options: dict[str, Any] = {"dynamic_img_size": True} if type(shape).__name__ in _DYNAMIC else {}
    if weights.kind == "published":
        if not card.weights:
            raise WeightsError(
                f"{card.name}: timm publishes no weights for {card.arch}; pass --checkpoint FILE"
            )
        with explained(card):
            return TimmBackbone(card, timm.create_model(card.arch, pretrained=True, num_classes=0, **options))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(weights.seed)
        model = timm.create_model(card.arch, num_classes=0, **options)
    if weights.kind == "checkpoint":
        assert weights.path is not None
        fill(model, _to_timm(model, read_checkpoint(weights.path, weights.key)), name=card.name)
    return TimmBackbone(card, model)


def _to_timm(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drop classifiers, by the names timm gives them, and let timm rename official layouts."""
    config: Any = getattr(model, "pretrained_cfg", {})
    classifier = config.get("classifier") or ()
    names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    kept = {
        key: value for key, value in state.items() if not key.startswith(tuple(f"{name}." for name in names))
    }
    if kept.keys() == model.state_dict().keys():
        return kept
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    return convert(kept, model) if convert is not None else kept


def _refuse_layout(identifier: str, model: nn.Module) -> None:
    kind = type(model).__name__
    if kind not in _TRANSFORMERS | _MAPS:
        raise ConfigError(
            f"timm:{identifier}: the token layout of {kind} is not known to ssleval; "
            f"known: {', '.join(sorted(_TRANSFORMERS | _MAPS))}"
        )


def _interpolation(name: str) -> Interpolation:
    if name not in {"bilinear", "bicubic", "nearest"}:
        raise ConfigError(f"timm states interpolation {name!r}, which no protocol here has")
    return name  # pyright: ignore[reportReturnType]


def _position_embedding(model: Any) -> str:
    if getattr(model, "pos_embed", None) is not None:
        return "timm"
    return "rope" if getattr(model, "rope", None) is not None else ""


def _origin(config: Any) -> dict[str, str]:
    if config.hf_hub_id:
        return {"repo": config.hf_hub_id}
    return {"url": config.url} if config.url else {}


backbones.register("timm")(Loader(_card, _build))
