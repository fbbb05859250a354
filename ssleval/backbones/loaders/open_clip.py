"""Models of OpenCLIP by ``ARCH/TAG``, or by a local folder with open_clip_config.json.

``pooled`` is the projected image embedding, not normalised to unit length. Blocks are those of open_clip's
vision transformer, or of the timm trunk that it wraps; a FastViT (MobileCLIP) has one, its last map. An
architecture with another activation (QuickGELU or GELU) than its weights were trained with is refused: it
loses accuracy, and open_clip only warns.
"""

import json
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ssleval.backbones.blocks import features_of, on_grid, seen_by, timm_keys
from ssleval.backbones.vit import resize_positions
from ssleval.backbones.weights.checkpoints import fill, from_checkpoint, millions_of_parameters
from ssleval.backbones.weights.downloads import explained, quiet
from ssleval.backbones.weights.limits import refuse_giant, refuse_giant_settings
from ssleval.backbones.weights.weightfile import refuse_unscaled
from ssleval.core import BackboneCard
from ssleval.core.backbone import Backbone, Features, Loader, Similarity, Tokens, WeightsFrom, backbones
from ssleval.core.registry import suggestion
from ssleval.core.settings import updated
from ssleval.errors import ConfigError, UnknownNameError, WeightsError

_TRUNKS = {"Eva", "VisionTransformer"}
"""Classes of timm whose sequence is: class token if any, other prefix tokens, patches row by row."""
_MAPS = {"FastVit"}
"""Classes of timm with maps for tokens, which take any size that their layers can take."""
_RESIZE_MODES: dict[str, Any] = {"shortest": "short", "squash": "square"}
"""Modes that `BackboneCard` has; it refuses other ones by name."""


class OpenClipBackbone(Backbone):
    """Both towers of a contrastive model; the image tower gives the features."""

    def __init__(self, card: BackboneCard, model: Any) -> None:
        trunk = getattr(model.visual, "trunk", None)
        self.has_maps = type(trunk).__name__ in _MAPS
        blocks = model.visual.transformer.resblocks if trunk is None else getattr(trunk, "blocks", ())
        super().__init__(card, num_blocks=1 if self.has_maps else len(blocks))
        self.model = model

    def extract(self, images: Float[Tensor, "b 3 H W"], blocks: Sequence[int], *, norm: bool) -> Features:
        """Run the image tower once."""
        if hasattr(self.model.visual, "trunk"):
            return self._through_trunk(images, blocks, norm=norm)
        visual = self.model.visual
        grid = self.patch_grid(images)
        x = visual.conv1(images).flatten(2).transpose(1, 2)
        cls = visual.class_embedding.to(x.dtype).expand(len(x), 1, -1)
        # Resized as open_clip does when it loads weights of another size.
        positions = resize_positions(visual.positional_embedding[None], *grid, "size_antialias")
        x = visual.ln_pre(torch.cat([cls, x], dim=1) + positions.to(x.dtype))
        indices = sorted({*blocks, self.num_blocks - 1})
        x, outputs = visual.transformer.forward_intermediates(x, indices=indices)
        states = dict(zip(indices, outputs, strict=True))
        pooled, _ = visual._pool(x)
        final_norm = visual.ln_post if norm else nn.Identity()
        tokens = [Tokens.from_sequence(final_norm(states[index]), grid) for index in blocks]
        return Features(pooled @ visual.proj, tuple(tokens))

    @torch.no_grad()
    def keys(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b h w d"]:
        """Return keys as `Backbone.keys` does, of the image tower."""
        visual, grid = self.model.visual, self.patch_grid(images)
        run = partial(self.extract, (images - self.mean) / self.std, (), norm=False)
        if hasattr(visual, "trunk"):
            return timm_keys(self.card.name, visual.trunk, run, grid)
        attention = visual.transformer.resblocks[-1].attn
        inputs = seen_by(attention, run, taken=True)
        _, weight, _ = attention.in_proj_weight.chunk(3)
        return on_grid(nn.functional.linear(inputs, weight, attention.in_proj_bias.chunk(3)[1]), grid)

    def patch_grid(self, images: Float[Tensor, "b 3 H W"]) -> tuple[int, int]:
        """Return the size of the patch grid, or of the last map of a FastViT."""
        return self.map_grid(images) if self.has_maps else super().patch_grid(images)

    def encode_text(self, texts: Sequence[str]) -> Float[Tensor, "n p"]:
        """Embed texts with the model's own tokenizer, which truncates long texts."""
        with torch.no_grad():
            return self.model.encode_text(self._tokenizer(list(texts)).to(self.mean.device))

    def similarity(self) -> Similarity:
        """Return the learnt scale, and the bias of models trained with a sigmoid loss."""
        return Similarity.of(self.model)

    @cached_property
    def _tokenizer(self) -> Any:
        import open_clip

        with explained(self.card):
            return open_clip.get_tokenizer(_name(self.card.arch))

    def _through_trunk(self, images: Tensor, blocks: Sequence[int], *, norm: bool) -> Features:
        trunk, project = self.model.visual.trunk, self.model.visual.head
        if not self.has_maps:
            self.refuse_other_size(images, trunk.patch_embed.img_size, "open_clip")

        def head(final: Tensor) -> Tensor:
            return project(trunk.forward_head(final))

        return features_of(trunk, images, blocks, head, maps=self.has_maps, norm=norm)


def _card(identifier: str) -> BackboneCard:
    model, settings, weights = _stated(identifier)
    empty = _create(identifier, device="meta")
    refuse_giant(empty, f"open_clip:{identifier}")
    visual = empty.visual
    trunk = getattr(visual, "trunk", None)
    last = None if trunk is None else trunk.feature_info[-1]
    maps = type(trunk).__name__ in _MAPS
    card = BackboneCard(
        name=f"open_clip:{identifier}",
        loader="open_clip",
        arch=identifier,
        embed_dim=last["num_chs"] if last else visual.conv1.out_channels,
        # The last stage's step: a convolutional stem leaves patches of one of its own pixels.
        patch_size=last["reduction"] if last else visual.patch_size[0],
        pooled_dim=model["embed_dim"],
        pooling="projection",
        position_embedding="" if maps else "fixed" if last else "open_clip",
        supervision="weak",
        family="OpenCLIP",
        weights=weights,
        license="unknown",
        pretraining_data=identifier.partition("/")[2],
        parameters=millions_of_parameters(visual),
        source="https://github.com/mlfoundations/open_clip",
    )
    return updated(card, _preparation(identifier, visual.image_size, settings), f"{card.name}: card")


def _preparation(identifier: str, size: int | Sequence[int], settings: dict[str, Any]) -> dict[str, Any]:
    """Return how open_clip prepares images as fields of a card, with its defaults for what is not stated."""
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict

    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise ConfigError(f"open_clip:{identifier}: it takes {height}x{width} pixels; only squares are known")
    given = {name: value for name, value in settings.items() if value}
    stated: dict[str, Any] = merge_preprocess_dict(PreprocessCfg(), given)
    mode, interpolation = stated["resize_mode"], stated["interpolation"]
    pair = stated["mean"], stated["std"]
    mean, std = (tuple(value) if isinstance(value, (list, tuple)) else (value,) * 3 for value in pair)
    return {
        "image_size": width,
        "resize_mode": _RESIZE_MODES.get(mode, mode),
        "interpolation": "bicubic" if interpolation == "random" else interpolation,
        "mean": mean,
        "std": std,
    }


def _build(card: BackboneCard, weights: WeightsFrom) -> Backbone:
    import open_clip

    settings, _, _ = _stated(card.arch)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(weights.seed)
        model = _create(card.arch)
    if weights.kind == "published":
        path = _published(card)
        try:
            open_clip.load_checkpoint(model, path, strict=True, weights_only=True)
        except RuntimeError as error:  # a tensor is missing, unknown or of another shape
            problems = " ".join(str(error).split())[:300]
            raise WeightsError(f"{card.name}: {path} is no file of this architecture ({problems})") from error
    elif weights.kind == "checkpoint":
        card, state = from_checkpoint(card, weights)
        fill(model, state, name=card.name)
    backbone = OpenClipBackbone(card, model)
    if Path(card.arch).is_dir():
        backbone.configuration = settings
    return backbone


def _stated(identifier: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """Return the settings of the model and of its preprocessing, and the source of its weights."""
    from open_clip import get_model_config
    from open_clip.pretrained import get_pretrained_cfg

    folder = Path(identifier)
    if folder.is_dir():
        config = _folder_config(folder)
        return config["model_cfg"], config.get("preprocess_cfg", {}), {"file": folder.name}
    arch, tag = _split(identifier)
    model = get_model_config(arch) or {}
    settings: dict[str, Any] = dict(get_pretrained_cfg(arch, tag))
    _refuse_gelu(identifier, model, settings)
    repo = settings.get("hf_hub", "").rstrip("/")
    return model, settings, {"repo": repo} if repo else {"url": settings["url"]}


def _published(card: BackboneCard) -> str:
    from open_clip.factory import _find_checkpoint_in_dir
    from open_clip.pretrained import download_pretrained, download_pretrained_from_hf, get_pretrained_cfg

    if Path(card.arch).is_dir():
        refuse_unscaled(Path(card.arch), card.name)
        path = _find_checkpoint_in_dir(Path(card.arch))
        if path is None:
            raise WeightsError(f"{card.name}: no weights file beside open_clip_config.json in {card.arch}")
        return path
    with explained(card):
        if "revision" in card.weights:
            return download_pretrained_from_hf(card.weights["repo"], revision=card.weights["revision"])
        return download_pretrained(get_pretrained_cfg(*_split(card.arch)))


def _create(identifier: str, device: str = "cpu") -> Any:
    """Build the architecture with random weights; neither tower downloads weights."""
    import open_clip

    # Quiet, because open_clip warns that the model has no weights.
    with quiet(), torch.device(device):
        model: Any = open_clip.create_model(
            _name(identifier),
            load_weights=False,
            pretrained_image=False,
            pretrained_text=False,
            device=device,
        )
    _refuse_layout(identifier, model.visual)
    return model


def _name(identifier: str) -> str:
    return f"local-dir:{identifier}" if Path(identifier).is_dir() else identifier.partition("/")[0]


def _split(identifier: str) -> tuple[str, str]:
    """Return the architecture and the tag; open_clip must know both."""
    import open_clip

    arch, _, tag = identifier.partition("/")
    if arch not in open_clip.list_models():
        raise UnknownNameError(f"open_clip has no {arch!r}; {suggestion(arch, open_clip.list_models())}")
    tags = open_clip.list_pretrained_tags_by_model(arch)
    if tag not in tags:
        raise UnknownNameError(f"open_clip:{arch} has no weights {tag!r}; {suggestion(tag, tags)}")
    return arch, tag


def _folder_config(folder: Path) -> dict[str, Any]:
    import timm

    path = folder / "open_clip_config.json"
    if not path.exists():
        raise WeightsError(f"open_clip:{folder}: no open_clip_config.json in the folder")
    config = json.loads(path.read_text(encoding="utf-8"))
    if "model_cfg" not in config:
        raise WeightsError(f"open_clip:{folder}: open_clip_config.json has no model_cfg")
    refuse_giant_settings(config["model_cfg"], f"open_clip:{folder}")
    tower = config["model_cfg"].get("vision_cfg", {}).get("timm_model_name")
    # timm also takes addresses of repositories, which it would ask for an architecture.
    if tower is not None and not timm.is_model(str(tower)):
        names = timm.list_models()
        raise UnknownNameError(f"open_clip:{folder}: timm has no {tower!r}; {suggestion(str(tower), names)}")
    return config


def _refuse_gelu(identifier: str, model: dict[str, Any], settings: dict[str, Any]) -> None:
    built, trained = bool(model.get("quick_gelu")), bool(settings.get("quick_gelu"))
    if built != trained and "timm_model_name" not in model.get("vision_cfg", {}):
        arch, _, tag = identifier.partition("/")
        fix = arch.removesuffix("-quickgelu") if built else f"{arch}-quickgelu"
        raise ConfigError(
            f"open_clip:{identifier}: the architecture has quick_gelu={built}, the weights were trained "
            f"with {trained}; use open_clip:{fix}/{tag}"
        )


def _refuse_layout(identifier: str, visual: Any) -> None:
    trunk = getattr(visual, "trunk", None)
    kind = type(visual if trunk is None else trunk).__name__
    plain = kind == "VisionTransformer" and getattr(visual, "attn_pool", None) is None
    pooled_map = kind in _MAPS and trunk is not None and bool(trunk.global_pool)
    if not (plain if trunk is None else kind in _TRUNKS or pooled_map):
        raise ConfigError(
            f"open_clip:{identifier}: the token layout of {kind} with its pooling is not known to ssleval; "
            "vision transformers with a class token, and timm's Eva, FastVit and VisionTransformer, are"
        )


backbones.register("open_clip")(Loader(_card, _build))
