"""Models of Hugging Face transformers, from the hub (``hf:org/name``) or from a local folder in its format.

Model types whose token layout `_LAYOUTS` does not state are refused. Code from repositories is never run.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import isclose, isqrt, prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Shaped
from PIL import Image
from torch import Tensor, nn

from ssleval.backbones.blocks import on_grid, seen_by
from ssleval.backbones.weights.checkpoints import (
    from_checkpoint,
    in_layout_of,
    millions_of_parameters,
    on_own_grid,
    to_native,
)
from ssleval.backbones.weights.downloads import explained, quiet
from ssleval.backbones.weights.limits import refuse_giant, refuse_giant_settings
from ssleval.backbones.weights.weightfile import refuse_unscaled
from ssleval.core import BackboneCard
from ssleval.core.backbone import Backbone, Features, Loader, Similarity, Tokens, WeightsFrom, backbones
from ssleval.core.geometry import apply
from ssleval.core.settings import updated
from ssleval.core.text import first_line
from ssleval.errors import ConfigError, WeightsError


@dataclass(frozen=True, slots=True)
class _Layout:
    """Which outputs one model type has, and where."""

    norm: str = "layernorm"
    """Attribute of the image tower that holds its final norm, an identity where the type has none."""
    cls: bool | str = True
    """Whether the first token is a class token, or the setting that says how many are; registers follow."""
    registers: str = "num_register_tokens"
    """The setting that says how many registers there are."""
    pooled: Literal["cls", "mean", "pooler", "projection", "summary"] = "cls"
    size: Literal["flag", "any", "fixed"] = "flag"
    """Other resolutions than the native one: with ``interpolate_pos_encoding``, always, or never."""
    padding: bool | Literal["max_length"] | None = None
    """How texts are padded; None where there is no text tower."""


_LAYOUTS = {
    "aimv2_vision_model": _Layout("rms_norm", cls=False, pooled="mean", size="fixed"),
    "beit": _Layout(pooled="pooler"),
    "clip": _Layout("post_layernorm", pooled="projection", padding=True),
    "data2vec-vision": _Layout(pooled="mean"),
    "dinov2": _Layout(size="any"),
    "dinov2_with_registers": _Layout(size="any"),
    "dinov3_convnext": _Layout("layer_norm", cls=False, pooled="pooler", size="any"),
    "dinov3_vit": _Layout("norm", size="any"),
    "ijepa": _Layout(cls=False, pooled="mean"),
    "metaclip_2": _Layout("post_layernorm", pooled="projection", padding=True),
    # Eight class tokens, whose mean is taken: facebookresearch/pixio, evaluation/eval_knn.py.
    "pixio": _Layout(cls="n_cls_tokens", pooled="pooler", size="any"),
    # A class token of each teacher, no final norm, and a normalisation of its own in front.
    "radio": _Layout("", "num_cls_tokens", "num_registers", "summary", "any"),
    "siglip": _Layout("post_layernorm", cls=False, pooled="pooler", padding="max_length"),
    # NaFlex, which takes patches with the size of their grid.
    "siglip2": _Layout("post_layernorm", cls=False, pooled="pooler", size="any", padding="max_length"),
    # Two class tokens: the first, of captions of the web, is pooled; the second is where a register would be.
    "tipsv2": _Layout(size="any", padding="max_length"),
    "vit": _Layout(),
    "vit_mae": _Layout(),
    "vit_msn": _Layout(),
    # Clips: an image becomes one tubelet of equal frames.
    "vjepa2": _Layout(cls=False, pooled="mean", size="fixed"),
}
_KEYS = (".k_proj", ".key")
"""Ends the name of the map that makes the keys of a layer."""
_ROTARY = {"dinov3_vit", "vjepa2"}
"""Types whose keys are turned by position after that map."""
_HEADS = (
    "classifier.", "decoder.", "head.", "cls_classifier.", "distillation_classifier.", "lm_head.", "pooler.",
)  # fmt: skip
"""Tensors of heads that a published file may hold beside the backbone."""
_UNUSABLE = (
    ArithmeticError, AttributeError, ImportError, LookupError, OSError, RecursionError, TypeError, ValueError,
)  # fmt: skip
"""What transformers raises on settings that its processors cannot take."""
_KEEPS_ASPECT = (
    "NaFlex's own processor keeps the aspect of images; the card squashes, which is the same for square ones"
)
_VIDEO_SETTINGS = "video_preprocessor_config.json"


class HfBackbone(Backbone):
    """A transformers model of a known layout."""

    def __init__(self, card: BackboneCard, model: Any) -> None:
        self.layout = _LAYOUTS[model.config.model_type]
        if self.layout.pooled != "pooler" and getattr(model, "pooler", None) is not None:
            model.pooler = None  # Not used, and random where the file has no pooler.
        if model.config.model_type == "vjepa2":
            model.predictor = None  # Of the training only.
        tower = _tower(model)
        config = getattr(model.config, "vision_config", model.config)
        layers = _layers(card.name, tower, config)
        super().__init__(card, num_blocks=len(layers))
        self.model = model
        self.side = getattr(config, "image_size", card.image_size)
        self.is_convolutional = hasattr(config, "num_stages")
        self.registers = getattr(config, self.layout.registers, 0) if self.layout.cls else 0
        cls = self.layout.cls
        self.class_tokens = int(getattr(config, cls)) if isinstance(cls, str) else int(cls)
        if Path(card.arch).is_dir():
            # Another version of the library may read the same file otherwise: what differs from its defaults.
            self.configuration = json.loads(model.config.to_json_string(use_diff=True))
        self._layers, self._tower = [layers], [tower]  # In lists, so that no tensor is registered twice.

    def extract(self, images: Float[Tensor, "b 3 H W"], blocks: Sequence[int], *, norm: bool) -> Features:
        """Run the image tower once; forward hooks read the requested layers."""
        states: dict[int, Tensor] = {}

        def keep(index: int, _module: nn.Module, _inputs: Any, output: Any) -> None:
            states[index] = output[0] if isinstance(output, tuple) else output

        with ExitStack() as hooks:
            for index in set(blocks):
                hooks.enter_context(self._layers[0][index].register_forward_hook(partial(keep, index)))
            output = self._tower[0](**self._inputs(images))
        final_norm = getattr(self._tower[0], self.layout.norm, nn.Identity()) if norm else nn.Identity()
        return Features(
            self._pooled(output), tuple(self._split(images, states[index], final_norm) for index in blocks)
        )

    @torch.no_grad()
    def keys(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b h w d"]:
        """Return keys as `Backbone.keys` does, where positions do not turn them."""
        found = [module for path, module in self._layers[0][-1].named_modules() if path.endswith(_KEYS)]
        if len(found) != 1 or self.model.config.model_type in _ROTARY:
            return super().keys(images)
        pixels = (images - self.mean) / self.std
        keys = seen_by(found[0], lambda: self._tower[0](**self._inputs(pixels)))
        return on_grid(keys, self.patch_grid(images))

    def patch_grid(self, images: Float[Tensor, "b 3 H W"]) -> tuple[int, int]:
        """Return the size of the patch grid, or of the last map of a convolutional network."""
        return self.map_grid(images) if self.is_convolutional else super().patch_grid(images)

    def _split(self, images: Tensor, state: Tensor, final_norm: nn.Module) -> Tokens:
        """Return the tokens of a sequence, or of a feature map ``[b d h w]``.

        The class token of a model with several is their mean, or none where each is of another teacher.
        """
        if state.ndim == 4:
            return Tokens(final_norm(state.permute(0, 2, 3, 1)))
        sequence, grid, count = final_norm(state), self.patch_grid(images), self.class_tokens
        if count <= 1:
            return Tokens.from_sequence(sequence, grid, has_cls=count == 1, registers=self.registers)
        prefix, registers, patches = sequence.tensor_split([count, count + self.registers], dim=1)
        cls = None if self.layout.pooled == "summary" else prefix.mean(1)
        return Tokens(patches.unflatten(1, grid), cls, registers if self.registers else None)

    def encode_text(self, texts: Sequence[str]) -> Float[Tensor, "n p"]:
        """Embed texts with the tokenizer of the same repository, padded as in the model's training."""
        if self.layout.padding is None:
            return super().encode_text(texts)
        length = self.model.config.text_config.max_position_embeddings
        tokens = self._tokenizer(
            list(texts), padding=self.layout.padding, max_length=length, truncation=True, return_tensors="pt"
        ).to(self.mean.device)
        with torch.no_grad():
            output = self.model.get_text_features(**tokens)
        return output if isinstance(output, Tensor) else output.pooler_output

    def similarity(self) -> Similarity:
        """Return the learnt scale, and the bias of models trained with a sigmoid loss."""
        if hasattr(self.model, "temperature"):
            return Similarity(1 / float(self.model.temperature))
        return super().similarity() if self.layout.padding is None else Similarity.of(self.model)

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        with explained(self.card):
            return AutoTokenizer.from_pretrained(**_where(self.card), trust_remote_code=False)

    def _inputs(self, images: Tensor) -> dict[str, Any]:
        inputs: dict[str, Any] = {"pixel_values": images}
        if self.layout.size == "flag":
            inputs["interpolate_pos_encoding"] = True
        elif self.layout.size == "fixed":
            self.refuse_other_size(images, (self.side,) * 2, "transformers")
        if self.model.config.model_type == "vit_mae":
            # Its masking sorts patches by noise: increasing noise keeps all of them in order.
            count = prod(self.patch_grid(images))
            inputs["noise"] = torch.arange(count, device=images.device).expand(len(images), count)
        if self.model.config.model_type == "vjepa2":
            return {"pixel_values_videos": images[:, None]}  # The model repeats one frame to a tubelet.
        if self.model.config.model_type == "siglip2":
            return self._patches(images)
        return inputs

    def _patches(self, images: Tensor) -> dict[str, Tensor]:
        """Return images as NaFlex takes them: patches ``[b n p*p*3]``, none masked, and their grid."""
        side, grid = self.card.patch_size, self.patch_grid(images)
        patches = images.unflatten(3, (-1, side)).unflatten(2, (-1, side))
        patches = patches.permute(0, 2, 4, 3, 5, 1).reshape(len(images), prod(grid), -1)
        shapes = torch.tensor(grid, device=images.device).expand(len(images), 2)
        mask = torch.ones(patches.shape[:2], dtype=torch.long, device=images.device)
        return {"pixel_values": patches, "pixel_attention_mask": mask, "spatial_shapes": shapes}

    def _pooled(self, output: Any) -> Tensor:
        if self.layout.pooled == "projection":
            return self.model.visual_projection(output.pooler_output)
        if self.layout.pooled == "pooler":
            return output.pooler_output
        if self.layout.pooled == "summary":
            return output.summary
        tokens = output.last_hidden_state
        return tokens[:, 0] if self.layout.pooled == "cls" else tokens[:, int(self.layout.cls) :].mean(1)


def _tower(model: Any) -> Any:
    return model.encoder if model.config.model_type == "vjepa2" else getattr(model, "vision_model", model)


def _layers(name: str, tower: nn.Module, config: Any) -> Sequence[nn.Module]:
    """Return the layers of a transformer, or the last stage of a convolutional network."""
    stages = getattr(config, "num_stages", None)
    count = stages or config.num_hidden_layers
    names = {"stages"} if stages else {"stages", "layer", "layers"}
    modules = [module for path, module in tower.named_modules() if path.rpartition(".")[2] in names]
    lists = [module for module in modules if isinstance(module, nn.ModuleList) and len(module) == count]
    if len(lists) != 1:
        kind = type(tower).__name__
        raise ConfigError(f"{name}: {len(lists)} lists of {count} layers in {kind}, expected one")
    return [lists[0][-1]] if stages else list(lists[0])


def _card(identifier: str) -> BackboneCard:
    from transformers import AutoModel

    stub = _located(identifier)
    config = _config(stub)
    tower = getattr(config, "vision_config", config)
    with torch.device("meta"):
        model: Any = AutoModel.from_config(config)
    refuse_giant(model, stub.name)
    layout, convnet = _LAYOUTS[config.model_type], hasattr(tower, "num_stages")
    stub = replace(stub, patch_size=32 if convnet else tower.patch_size)
    dim = tower.hidden_sizes[-1] if convnet else tower.hidden_size
    return replace(
        stub,
        embed_dim=dim,
        pooled_dim=_pooled_dim(config, dim),
        pooling=layout.pooled,
        position_embedding="" if config.model_type.startswith("dinov3") else "transformers",
        supervision="weak" if layout.padding is not None else "unknown",
        family=config.model_type,
        license="unknown",
        parameters=millions_of_parameters(_tower(model)),
        source="" if "file" in stub.weights else f"https://huggingface.co/{stub.weights['repo']}",
        notes=_KEEPS_ASPECT if config.model_type == "siglip2" else "",
        **_preparation(stub, config.model_type, getattr(tower, "image_size", None)),
    )


def _pooled_dim(config: Any, dim: int) -> int:
    kind = _LAYOUTS[config.model_type].pooled
    if kind == "projection":
        return config.projection_dim
    return dim * len(config.summary_idxs) if kind == "summary" else dim


def _located(identifier: str) -> BackboneCard:
    """Return a card that says where the files are; its sizes stand for those not read yet."""
    repo, _, revision = identifier.partition("@")
    folder = Path(identifier)
    weights = {"file": folder.name} if folder.is_dir() else {"repo": repo}
    if revision and not folder.is_dir():
        weights["revision"] = revision
    return BackboneCard(f"hf:{identifier}", "hf", identifier, embed_dim=1, patch_size=1, weights=weights)


def _where(card: BackboneCard) -> dict[str, Any]:
    """Return the arguments of ``from_pretrained`` that say where the files of a card are."""
    if Path(card.arch).is_dir():
        return {"pretrained_model_name_or_path": card.arch}
    repo, _, revision = card.arch.partition("@")
    revision = card.weights.get("revision", revision) or "main"
    return {"pretrained_model_name_or_path": repo, "revision": revision}


def _config(card: BackboneCard) -> Any:
    from transformers import AutoConfig, PretrainedConfig

    try:
        with explained(card):
            stated, _ = PretrainedConfig.get_config_dict(**_where(card))
            refuse_giant_settings(stated, card.name)
            config = AutoConfig.from_pretrained(**_where(card), trust_remote_code=False)
    except ValueError as error:  # no config.json, or a model type newer than the installed library
        raise ConfigError(f"{card.name}: transformers finds no model there: {first_line(error)}") from error
    if config.model_type not in _LAYOUTS:
        raise ConfigError(
            f"{card.name}: the token layout of model type {config.model_type!r} is not known to ssleval; "
            f"known: {', '.join(_LAYOUTS)}"
        )
    if config.model_type == "vit_mae":
        config.mask_ratio = 0.0
    return config


def _preparation(card: BackboneCard, model_type: str, image_size: Any) -> dict[str, Any]:
    """Return the settings of the image processor as fields of a card, compared with what it does.

    Without a processor, ``image_size`` of the model's configuration is all that is known, and RADIO's mean
    and deviation, which the model itself applies.
    """
    own = {"mean": (0.0,) * 3, "std": (1.0,) * 3} if model_type == "radio" else {}
    try:
        processor = _processor(card, model_type)
        if processor is None:
            sizes = {"image_size": image_size} if isinstance(image_size, int) else {}
            return {**sizes, **(own or {"normalisation": "unknown"})}
        settings = processor.to_dict()
        fields = {
            **(_square(card, settings) if model_type == "siglip2" else _sizes(card, settings)),
            **_normalisation(settings),
            "interpolation": Image.Resampling(int(settings["resample"])).name.lower(),
        }
        _refuse_other_pixels(updated(card, fields, f"{card.name}: card"), processor)
    except _UNUSABLE as error:
        raise ConfigError(
            f"{card.name}: the settings of its image processor cannot be used ({first_line(error)}); correct "
            f"{_VIDEO_SETTINGS if model_type == 'vjepa2' else 'preprocessor_config.json'}"
        ) from error
    return fields | own


def _processor(card: BackboneCard, model_type: str) -> Any:
    """Return the processor of images, or of clips where the model takes these; None where there is none."""
    from transformers import AutoImageProcessor, AutoVideoProcessor
    from transformers.models.auto.image_processing_auto import get_image_processor_config
    from transformers.models.auto.video_processing_auto import get_video_processor_config

    video, where = model_type == "vjepa2", _where(card)
    settings_of: Any = get_video_processor_config if video else get_image_processor_config
    with quiet() if Path(card.arch).is_dir() else explained(card):
        if not settings_of(**where):
            return None
        if video:
            return AutoVideoProcessor.from_pretrained(**where, trust_remote_code=False)
        # The slow ones resize with PIL, as is done here.
        return AutoImageProcessor.from_pretrained(**where, trust_remote_code=False, use_fast=False)


def _square(card: BackboneCard, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the square that holds the patches of NaFlex, which keeps the aspect within so many of them."""
    if not settings.get("do_resize"):
        raise ConfigError(f"{card.name}: the processor resizes to no size; no geometry here does that")
    if settings["patch_size"] != card.patch_size:
        raise ConfigError(
            f"{card.name}: the processor makes patches of {settings['patch_size']} pixels, the model takes "
            f"{card.patch_size}; correct preprocessor_config.json"
        )
    side = isqrt(settings["max_num_patches"]) * settings["patch_size"]
    return _resized(0, side, "square")


def _sizes(card: BackboneCard, settings: Mapping[str, Any]) -> dict[str, Any]:
    size = {name: pixels for name, pixels in (settings.get("size") or {}).items() if pixels is not None}
    crop: dict[str, int] = dict(settings.get("crop_size") or {}) if settings.get("do_center_crop") else {}
    side, short = crop.get("height"), size.get("shortest_edge", 0)
    if settings.get("do_resize") and side == crop.get("width"):
        if "crop_pct" in settings and short:
            # ConvNeXt: crops below 384 pixels, squashes from there on.
            short, side = (int(short / settings["crop_pct"]), short) if short < 384 else (0, short)
            return _resized(short, side, "short" if short else "square")
        if size.keys() == {"shortest_edge"} and side:
            return _resized(short, side, "short")
        if size.keys() == {"height", "width"} and size["height"] == size["width"]:
            return _resized(size["height"] if side else 0, side or size["height"], "square")
    raise ConfigError(
        f"{card.name}: the processor resizes to {size if settings.get('do_resize') else 'no size'} and crops "
        f"to {crop or 'nothing'}; no geometry here does that"
    )


def _resized(resize: int, side: int, mode: str) -> dict[str, Any]:
    cropped = {"resize": resize, "crop_start": "down"} if resize else {}
    return {"image_size": side, "resize_mode": mode, **cropped}


def _normalisation(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the processor does to values of 0 to 255 as the mean and deviation of values in [0, 1]."""
    scale = 255 * settings["rescale_factor"] if settings.get("do_rescale") else 255.0
    if isclose(scale, 1, rel_tol=1e-6):
        scale = 1.0
    mean, std = (settings["image_mean"], settings["image_std"]) if settings.get("do_normalize") else (0, 1)
    channels = [[value] * 3 if isinstance(value, (int, float)) else value for value in (mean, std)]
    names = ("mean", "std")
    return {name: tuple(v / scale for v in values) for name, values in zip(names, channels, strict=True)}


def _refuse_other_pixels(card: BackboneCard, processor: Any) -> None:
    """Refuse a processor that does more than ``card`` says, by the pixels that it makes of noise."""
    geometry, mean, std = card.native_geometry(), np.array(card.mean), np.array(card.std)
    side, noise = geometry.resize or card.image_size, np.random.default_rng(0)
    wider = 0 if "spatial_shapes" in processor.model_input_names else 6  # NaFlex squashes no aspect
    for height, width in ((side + 3, side + 3 + wider), (side // 2 + 3 + wider, side // 2 + 3)):
        image = Image.fromarray(noise.integers(0, 256, (height, width, 3), dtype=np.uint8))
        expected = (apply(geometry, image) / 255 - mean) / std
        made = _pixels(processor, image)
        # A processor of torchvision alone rounds otherwise: by one of 256 levels, where nothing is clipped.
        if made.shape != expected.shape or np.abs((made - expected) * std * 255).max() > 1.01:
            raise ConfigError(
                f"{card.name}: {type(processor).__name__} with these settings makes other pixels of an image "
                "than resizing, a central crop, mean and deviation; no geometry here does that"
            )


def _pixels(processor: Any, image: Image.Image) -> Shaped[np.ndarray, "..."]:
    """Return what a processor makes of an image: of a clip of one frame, or of the patches of a grid."""
    if "pixel_values_videos" in processor.model_input_names:
        made = processor([[image]], do_sample_frames=False, return_tensors="np")["pixel_values_videos"][0]
        return np.asarray(made[0]).transpose(1, 2, 0)
    made = processor(image, return_tensors="np")
    pixels = np.asarray(made["pixel_values"][0])
    if "spatial_shapes" not in made:
        return pixels.T.swapaxes(0, 1)
    (rows, columns), side = made["spatial_shapes"][0], isqrt(pixels.shape[1] // 3)
    patches = pixels[: rows * columns].reshape(rows, columns, side, side, 3)
    return patches.transpose(0, 2, 1, 3, 4).reshape(rows * side, columns * side, 3)


def _build(card: BackboneCard, weights: WeightsFrom) -> Backbone:
    from transformers import AutoModel

    config = _config(card)
    if weights.kind == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(weights.seed)
            return HfBackbone(card, AutoModel.from_config(config))
    options: dict[str, Any] = {"config": config, "output_loading_info": True, "dtype": torch.float32}
    options["ignore_mismatched_sizes"] = True  # Such tensors are refused below, by name.
    if weights.kind == "checkpoint":
        card, state = from_checkpoint(card, weights)
        card = _on_own_grid(card, config, to_native(state))
        with torch.device("meta"):
            empty: Any = AutoModel.from_config(config)
        shapes = empty.state_dict().items()
        targets = {key: shape for key, shape in shapes if not key.startswith(_unread(config))}
        with quiet():
            state = in_layout_of(targets, state)
            model, report = type(empty).from_pretrained(None, state_dict=state, **options)
    else:
        refuse_unscaled(Path(card.arch), card.name)
        with explained(card):
            model, report = AutoModel.from_pretrained(**_where(card), trust_remote_code=False, **options)
    _refuse_partial(card, config, report)
    return HfBackbone(card, model)


def _on_own_grid(card: BackboneCard, config: Any, state: Mapping[str, Tensor]) -> BackboneCard:
    """Give ``config`` the grid of the tensors, and the card too where images are prepared at its size."""
    stated = getattr(config, "image_size", None), getattr(config, "patch_size", None)
    if not all(isinstance(side, int) for side in stated):
        return card
    own = on_own_grid(replace(card, image_size=stated[0], patch_size=stated[1]), state)
    if (own.image_size, own.patch_size) == stated:
        return card
    config.image_size, config.patch_size = own.image_size, own.patch_size
    return own if card.image_size == stated[0] else replace(card, patch_size=own.patch_size)


def _unread(config: Any) -> tuple[str, ...]:
    """Return the beginnings of names of tensors that the features do not depend on."""
    return ("pooler.",) if _LAYOUTS[config.model_type].pooled != "pooler" else ()


def _refuse_partial(card: BackboneCard, config: Any, report: dict[str, Any]) -> None:
    """Refuse files that lack a tensor of the model, or hold one that belongs to no known head."""
    missing = sorted(key for key in report["missing_keys"] if not key.startswith(_unread(config)))
    extra = sorted(key for key in report["unexpected_keys"] if not key.startswith(_HEADS))
    if missing or extra or report["mismatched_keys"]:
        raise WeightsError(
            f"{card.name}: not the weights of this architecture: missing {missing[:4]}, unknown {extra[:4]}, "
            f"of another shape {sorted(map(str, report['mismatched_keys']))[:2]}"
        )


backbones.register("hf")(Loader(_card, _build))
