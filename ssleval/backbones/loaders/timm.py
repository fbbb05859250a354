"""Models of timm: vision transformers, with or without registers, and convolutional networks.

``pooled`` is the output of timm's ``forward_head`` before the classifier. As in timm, models that normalise
after pooling (``fc_norm``) apply no norm to tokens. Classes of unknown token layout are refused.
"""

import re
import sys
from collections.abc import Sequence
from functools import partial
from math import floor
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ssleval.backbones.blocks import PLAIN, features_of, seen_by, timm_keys
from ssleval.backbones.weights.checkpoints import (
    fill,
    in_layout_of,
    millions_of_parameters,
    on_own_grid,
    read_weights,
    refuse_resampled,
    to_native,
)
from ssleval.backbones.weights.downloads import explained
from ssleval.backbones.weights.layouts import one_bias_for_all_blocks
from ssleval.backbones.weights.weightfile import SUFFIX, read_card
from ssleval.core import BackboneCard
from ssleval.core.backbone import Backbone, Features, Loader, WeightsFrom, backbones
from ssleval.core.registry import suggestion
from ssleval.errors import ConfigError, NotApplicableError, UnknownNameError, WeightsError

_TRANSFORMERS = {"Beit", "Eva", "VisionTransformer", "VisionTransformerDistilled"}
"""Classes whose sequence is: class token if the model has one, other prefix tokens, patches row by row."""
_CONVOLUTIONAL = {"ConvNeXt", "EfficientNet", "FastVit", "RegNet", "ResNet", "ResNetV2"}
_MAPS = _CONVOLUTIONAL | {"Hiera", "MlpMixer", "SwinTransformer", "SwinTransformerV2"}
"""Classes whose last intermediate output is the last feature map."""
_DYNAMIC = {"Eva", "VisionTransformer", "VisionTransformerDistilled"}
"""Classes that resample their position embedding when they are built with ``dynamic_img_size``."""
_POOLING = {"token": "cls", "avg": "mean", "map": "map"}
_SELF = re.compile(r"dino|fb_dino|dinov3_lvd1689m|lvd142m|lvd1689m|sat493m|mae|fcmae|in\d+k_ijepa|seer")
_CAPTIONS = re.compile(
    r"openai|laion|clip|webli|merged2b|dfn\d|datacomp|mclip|yfcc15m|cc12m|apple_pt$|swag_lc"
)
_LABELS = re.compile(r"_ft_in\d+k")
"""Tags of weights trained without labels; parts of tags for captions and hashtags, unless the set that they
were fine-tuned on follows. Others are ``full`` where they have a classifier, else ``unknown``."""
_CAPTIONED_CLASSES = re.compile(r"vit_pe_(core|spatial|lang)_")
"""Architectures that are trained on captions whatever the tag says."""
_SQUASHED = re.compile(r"vit_pe_(core|spatial|lang)_|_tipsv2$")
"""Architectures whose publisher squashes images to a square, bilinearly, where timm's configuration says
that the short side is resized, bicubically.

Source: facebookresearch/perception_models, core/vision_encoder/transforms.py, get_image_transform; the image
processor of google/tipsv2 in transformers.
"""
_CLASS_TOKEN = re.compile(r"vit_.*_dinov3")
"""Architectures that timm pools by the mean, whose publisher evaluates the class token.

Source: facebookresearch/dinov3, dinov3/eval/knn.py, whose model returns the normalised class token.
"""
_COMPUTED = "relative_position_index"
"""Ends the name of a table that official files hold and timm computes."""
_PRETRAINED = "/pretrained"
"""Ends the name of a BEiT v2 as pre-trained, whose final norm comes before pooling, not after it."""


class TimmBackbone(Backbone):
    """A timm model without its classifier."""

    def __init__(self, card: BackboneCard, model: nn.Module) -> None:
        self.is_transformer = type(model).__name__ in _TRANSFORMERS
        self.is_convolutional = type(model).__name__ in _CONVOLUTIONAL
        super().__init__(card, num_blocks=len(model.blocks) if self.is_transformer else 1)  # pyright: ignore[reportArgumentType]
        self.model = model

    def extract(self, images: Float[Tensor, "b 3 H W"], blocks: Sequence[int], *, norm: bool) -> Features:
        """Run once; ``pooled`` is made from the normalised last block."""
        model: Any = self.model
        self._refuse_fixed_size(images)
        head = partial(model.forward_head, pre_logits=True)
        # Hiera normalises after pooling only, and refuses to norm a map.
        norm = norm and type(model).__name__ != "Hiera"
        return features_of(model, images, blocks, head, maps=not self.is_transformer, norm=norm)

    @torch.no_grad()
    def attention(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b heads h w"]:
        """Attend as in `Backbone.attention`, where the attention of the model is timm's plain one."""
        model: Any = self.model
        if not self.is_transformer or getattr(model, "cls_token", None) is None:
            return super().attention(images)
        last = model.blocks[-1].attn
        if type(model).__name__ not in PLAIN or type(last).__name__ != "Attention":
            raise NotApplicableError(
                f"{self.card.name}: how timm's {type(model).__name__} attends ({type(last).__name__}) is not "
                "known to ssleval"
            )
        self._refuse_fixed_size(images)
        pixels = (images - self.mean) / self.std
        inputs = seen_by(last, lambda: model.forward_features(pixels), taken=True)
        query, key, _ = last.qkv(inputs).unflatten(-1, (3, last.num_heads, -1)).permute(2, 0, 3, 1, 4)
        logits = last.q_norm(query[:, :, :1]) @ last.k_norm(key).transpose(-2, -1) * last.scale
        weights = logits.float().softmax(dim=-1).squeeze(2)[..., model.num_prefix_tokens :]
        return weights.unflatten(-1, self.patch_grid(images))

    @torch.no_grad()
    def keys(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b h w d"]:
        """Return keys as `Backbone.keys` does, where the attention of the model is timm's plain one."""
        model: Any = self.model
        self._refuse_fixed_size(images)
        pixels = (images - self.mean) / self.std
        run = partial(model.forward_features, pixels)
        return timm_keys(self.card.name, model, run, self.patch_grid(images))

    def patch_grid(self, images: Float[Tensor, "b 3 H W"]) -> tuple[int, int]:
        """Return the size of the patch grid, or of the last map of a convolutional network."""
        return self.map_grid(images) if self.is_convolutional else super().patch_grid(images)

    def _refuse_fixed_size(self, images: Tensor) -> None:
        embed: Any = getattr(self.model, "patch_embed", None)
        if getattr(embed, "strict_img_size", False):
            self.refuse_other_size(images, embed.img_size, "timm")
        elif type(self.model).__name__ == "Hiera":
            self.refuse_other_size(images, (self.card.image_size,) * 2, "timm")


def shared_batch_norms(network: nn.Module) -> nn.Module:
    """Return ``network`` with batch normalisation over the batches of all processes."""
    # Batch norms of timm may include an activation, which torch's own conversion would drop.
    from timm.layers.norm_act import convert_sync_batchnorm

    return convert_sync_batchnorm(network)


def _card(identifier: str) -> BackboneCard:
    import timm

    if identifier.endswith(SUFFIX):
        return read_card(Path(identifier))
    model = _shape(identifier)
    arch = identifier.partition(".")[0]
    if arch not in timm.list_models():
        raise UnknownNameError(f"timm has no {arch!r}; {suggestion(arch, timm.list_models())}")
    try:
        config: Any = timm.get_pretrained_cfg(identifier, allow_unregistered=False)
    except RuntimeError:  # which newer timm raises for an unknown tag
        config = None
    if config is None:
        tags = timm.list_pretrained(f"{arch}.*")
        raise UnknownNameError(f"timm has no weights {identifier!r}; {suggestion(identifier, tags)}")
    _refuse_gelu(identifier, config)
    transformer = type(model).__name__ in _TRANSFORMERS
    positions = "rope" if getattr(model, "rope", None) is not None else ""
    if getattr(model, "pos_embed", None) is not None:
        positions = "timm"
    origin = {"repo": config.hf_hub_id, "url": "" if config.hf_hub_id else config.url}
    last, other = model.feature_info[-1], _SQUASHED.search(arch) is not None
    return BackboneCard(
        name=f"timm:{identifier}",
        loader="timm",
        arch=f"{arch}.{config.tag}" if config.tag else arch,
        embed_dim=last["num_chs"],
        patch_size=last["reduction"],
        pooled_dim=model.head_hidden_size,
        **_geometry(identifier, config, squash=other or config.crop_mode == "squash", crop=not other),
        interpolation="bilinear" if other else config.interpolation,
        mean=config.mean,
        std=config.std,
        # Of weights that nobody published, timm only has a default.
        normalisation="stated" if config.has_weights else "unknown",
        pooling=_POOLING.get(getattr(model, "global_pool", ""), "timm") if transformer else "mean",
        position_embedding=positions,
        supervision=_supervision(arch, config),
        family=type(model).__name__,
        weights={name: value for name, value in origin.items() if value},
        license=config.license or "unknown",
        parameters=millions_of_parameters(model),
        source=config.origin_url or "https://github.com/huggingface/pytorch-image-models",
    )


def _supervision(arch: str, config: Any) -> Any:
    if _SELF.fullmatch(config.tag):
        return "self"
    if _CAPTIONED_CLASSES.match(arch) or (_CAPTIONS.search(config.tag) and not _LABELS.search(config.tag)):
        return "weak"
    return "full" if config.num_classes else "unknown"


def _geometry(identifier: str, config: Any, *, squash: bool, crop: bool) -> dict[str, Any]:
    """Return how images are prepared as fields of a card; refuse what no geometry here does.

    That is as timm does, but for weights whose publisher takes the whole image, squashed: without ``crop``.
    """
    _, height, width = config.input_size
    if height != width or config.crop_mode not in {"center", "squash"}:
        raise ConfigError(
            f"timm:{identifier}: timm prepares images of {height}x{width} with crop_mode "
            f"{config.crop_mode!r}; no geometry here does that"
        )
    resize = floor(width / config.crop_pct) if crop else width
    return {
        "image_size": width,
        "resize": 0 if squash and resize == width else resize,
        "resize_mode": "square" if squash else "short",
    }


def _refuse_gelu(identifier: str, config: Any) -> None:
    """Refuse weights trained with QuickGELU in an architecture with GELU, which timm only notes."""
    arch, _, tag = identifier.partition(".")
    if "quickgelu" not in arch and any("quickgelu" in note.lower() for note in config.notes or ()):
        fix = f"{arch.replace('_clip_', '_clip_quickgelu_')}.{tag or config.tag}"
        raise ConfigError(
            f"timm:{identifier}: the architecture has GELU, the weights were trained with QuickGELU; "
            f"use timm:{fix}"
        )


def _build(card: BackboneCard, weights: WeightsFrom) -> Backbone:
    import timm

    kind = type(_shape(card.arch)).__name__
    options: dict[str, Any] = {"dynamic_img_size": True} if kind in _DYNAMIC else {}
    options |= _pooled(card.arch)
    # A file with a name of its own is its publisher's: timm's default weights are others.
    published = weights.kind == "published" and "file" not in card.weights
    state = dict[str, Tensor]()
    if not published and weights.kind != "random":
        card, state = read_weights(card, weights)
    if weights.kind == "checkpoint" and kind in PLAIN:
        card = on_own_grid(card, to_native(state))
        options |= {"img_size": card.image_size, "patch_size": card.patch_size}
    elif weights.kind == "random" and kind in PLAIN:
        options |= {"img_size": card.image_size}
    if published and not card.weights:
        raise WeightsError(f"{card.name}: timm publishes no weights for {card.arch}; pass --checkpoint FILE")
    with explained(card), torch.random.fork_rng(devices=[]):
        torch.manual_seed(weights.seed)
        name = card.arch.removesuffix(_PRETRAINED)
        model = timm.create_model(name, pretrained=published, num_classes=0, **options)
    if state:
        fill(model, _to_timm(card.name, model, one_bias_for_all_blocks(state)), name=card.name)
    return TimmBackbone(card, model)


def _pooled(identifier: str) -> dict[str, Any]:
    """Return the pooling and the norm of the publisher where they are others than timm's."""
    if identifier.endswith(_PRETRAINED):
        return {"use_fc_norm": False}
    return {"global_pool": "token"} if _CLASS_TOKEN.match(identifier) else {}


def _to_timm(name: str, model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drop classifiers, which timm names, and tables that it computes; rename tensors of other publishers."""
    config: Any = getattr(model, "pretrained_cfg", {})
    classifier = config.get("classifier") or ()
    heads = tuple(f"{head}." for head in ([classifier] if isinstance(classifier, str) else classifier))
    targets = model.state_dict()
    kept = {
        key: value
        for key, value in state.items()
        if not key.startswith(heads) and (key in targets or not key.endswith(_COMPUTED))
    }
    if type(model).__name__ in PLAIN:
        kept = in_layout_of(targets, kept)
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if targets.keys() <= kept.keys() or convert is None:
        return kept
    converted = convert(dict(kept), model)
    refuse_resampled(kept, converted, name)
    return converted


def _shape(identifier: str) -> Any:
    """Build an architecture without weights, or refuse a class whose token layout is not known."""
    import timm

    arch = identifier.removesuffix(_PRETRAINED).partition(".")[0]
    # timm also takes addresses of repositories, which the card of a file may hold.
    if not timm.is_model(arch):
        raise UnknownNameError(f"timm has no {arch!r}; {suggestion(arch, timm.list_models())}")
    with torch.device("meta"):
        model = timm.create_model(arch, num_classes=0, **_pooled(identifier))
    kind = type(model).__name__
    if kind not in _TRANSFORMERS | _MAPS:
        raise ConfigError(
            f"timm:{identifier}: the token layout of {kind} is not known to ssleval; "
            f"known: {', '.join(sorted(_TRANSFORMERS | _MAPS))}"
        )
    return model


backbones.register("timm")(Loader(_card, _build))
