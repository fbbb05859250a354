"""Is every card of ``model_zoo.yaml`` as its publisher and its library have it?

Each card is resolved through its loader: the architecture is built on the meta device, without weights and
without a network, and shown an image of the card's size, so that the promised shapes are checked. What the
library's own configuration states is compared field by field. What no library states is compared with
``zoo_sources.tsv``, whose rows say in which file and line a publisher states it.

    python -m benchmarks.zoo_audit                 # the tables of docs/models.md; 2 minutes on a core
    python -m benchmarks.zoo_audit --models 'dino*'
    python -m benchmarks.zoo_audit --write         # put the tables into docs/models.md

Exits with 1 where a card differs, or where a field has neither a library nor a source.
"""

import argparse
import csv
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from math import floor
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch

from ssleval.backbones.zoo import read_zoo
from ssleval.core import BackboneCard
from ssleval.core.backbone import Backbone, WeightsFrom, backbones

SOURCES = Path(__file__).with_name("zoo_sources.tsv")
PAGE = Path(__file__).parents[1] / "docs" / "models.md"
BEGIN, END = "<!-- zoo_audit: begin -->", "<!-- zoo_audit: end -->"

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
GEOMETRY = ("image_size", "resize", "resize_mode", "interpolation", "mean", "std")
SHAPE = ("embed_dim", "patch_size", "pooled_dim", "parameters")
NEEDED = (*GEOMETRY, *SHAPE, "license", "weights")
"""Fields that a library or a source must state for every card."""
HEADS = ("num_heads", "depth")
"""What no shape of a tensor tells, needed where this program builds the architecture."""


class Exemption(NamedTuple):
    """A field in which a card is right to differ from its library."""

    models: str
    fields: str
    reason: str


EXEMPTIONS = (
    Exemption("aimv2_*", "license", "timm abbreviates it: apple-ascl"),
    Exemption("beitv2_*_ft_*", "license", "timm says apache-2.0; LICENSE of microsoft/unilm is MIT"),
    Exemption(
        "pe_spatial_*", "resize resize_mode interpolation",
        "timm crops, bicubic; facebookresearch/perception_models@3e352cc "
        "core/vision_encoder/transforms.py:6-21 squashes, bilinear",
    ),
    Exemption(
        "tipsv2_*", "resize resize_mode interpolation",
        "timm crops, bicubic; google-deepmind/tips@4db271d pytorch/run_image_encoder_inference.py:92 and "
        "transformers' Tipsv2ImageProcessor squash, bilinear",
    ),
    Exemption("swag_*", "parameters", "torchvision counts the classifier, which is left out"),
    Exemption("resnet50_v?", "parameters", "torchvision counts the classifier, which is left out"),
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """What one place of a publisher's code or documentation states about some cards."""

    models: str
    states: Mapping[str, str]
    source: str

    def names(self, model: str) -> bool:
        """Return whether the row is about a model."""
        return any(fnmatchcase(model, pattern) for pattern in self.models.split())


class Finding(NamedTuple):
    """One field of one card that is not as it should be."""

    model: str
    field: str
    ours: Any
    theirs: Any
    source: str


@cache
def rows() -> tuple[Row, ...]:
    """Return the rows of ``zoo_sources.tsv``: globs of models, ``field=value`` pairs, and their source."""
    with SOURCES.open(encoding="utf-8", newline="") as file:
        return tuple(
            Row(line["models"], dict(pair.split("=", 1) for pair in line["states"].split()), line["source"])
            for line in csv.DictReader(file, delimiter="\t")
        )


def audit(card: BackboneCard, *, build: bool = True) -> Iterator[Finding]:
    """Yield what differs; ``build`` also builds the architecture and runs it on the meta device."""
    if card.loader == "pixels" or card.family in {"plain", "embedded"}:
        return  # made by this program
    seen, known = facts(card), set[str]()
    for source, field, theirs in _stated(card, build=build):
        known.add(field)
        if field in seen and not same(field, seen[field], theirs) and not exception(card.name, field, source):
            yield Finding(card.name, field, seen[field], theirs, source)
    needed = NEEDED + (HEADS if card.loader in {"native", "capi"} else ())
    # What is built has these; a library's configuration is enough, and so are settings that a source states.
    known |= {*SHAPE} if card.loader != "hf" or configuration(card.name) else set()
    for field in needed:
        if field not in known:
            yield Finding(card.name, field, seen.get(field), "stated nowhere", "no library and no source")


def _stated(card: BackboneCard, *, build: bool) -> Iterator[tuple[str, str, Any]]:
    """Yield source, field and value of all that is stated about a card, by libraries and by publishers."""
    for field, theirs in library(card, build=build).items():
        yield "library", field, theirs
    if build:
        yield "the architecture that is built", "parameters", parameters_of(card, backbone(card))
    for row in rows():
        if row.names(card.name):
            for field, theirs in row.states.items():
                if not field.startswith("config."):
                    yield row.source, field, theirs


def exception(model: str, field: str, source: str) -> bool:
    """Return whether a difference from the library is a stated exception."""
    return source == "library" and any(
        fnmatchcase(model, entry.models) and field in entry.fields.split() for entry in EXEMPTIONS
    )


def same(field: str, ours: Any, theirs: Any) -> bool:
    """Compare a field with what a library has, or with a text of ``zoo_sources.tsv``."""
    if field == "license":
        return _plain(theirs) in {"", "other", "unknown"} or _plain(theirs) in _plain(ours)
    if field in {"weights", "sha256"}:
        return str(theirs) in str(ours)
    if field in {"mean", "std"}:
        given = IMAGENET[field == "std"] if theirs == "imagenet" else theirs
        given = tuple(map(float, given.split(","))) if isinstance(given, str) else tuple(given)
        return tuple(ours) == given
    if field == "seeded_by":
        return ",".join(ours) == theirs or (not ours and theirs == "none")
    if isinstance(ours, int | float) and not isinstance(ours, bool):
        return abs(float(ours) - float(theirs)) < 0.006
    return str(ours) == str(theirs)


def _plain(text: str) -> str:
    return str(text).lower().replace("-", " ").replace("license", "").replace("licence", "").strip()


def facts(card: BackboneCard) -> dict[str, Any]:
    """Return the fields of a card, with the settings of the architecture where this program has it."""
    seen: dict[str, Any] = {field: getattr(card, field) for field in NEEDED}
    seen |= {"seeded_by": card.seeded_by, "sha256": card.sha256}
    seen |= {"pooling": card.pooling, "position_embedding": card.position_embedding}
    seen["pooled_dim"] = card.pooled_dim or card.embed_dim
    seen["resize"] = _resized(card.resize or card.image_size, card.image_size, card.resize_mode)
    seen["weights"] = " ".join((*card.weights.values(), card.unavailable))
    if card.loader == "native" and "packaged" not in card.weights:
        from ssleval.backbones.loaders.native import _flavoured

        config = _flavoured(card)
        seen |= {"depth": config.depth, "num_heads": config.num_heads, "ffn": config.ffn}
        seen |= {"registers": config.num_registers, "norm_eps": config.norm_eps}
    if card.loader == "capi":
        from ssleval.backbones.loaders.capi import SIZES

        seen |= {"depth": SIZES[card.arch].depth, "num_heads": SIZES[card.arch].num_heads}
    return seen


def _resized(side: int, crop: int, mode: str) -> int:
    """Return the side that images are resized to, or 0 where they are squashed and nothing is cropped."""
    return 0 if mode == "square" and side == crop else side


@torch.no_grad()
def parameters_of(card: BackboneCard, built: Backbone) -> float:
    """Show the architecture an image, check the promised shapes, and return its millions of parameters."""
    images = torch.zeros(1, 3, card.image_size, card.image_size, device="meta")
    if card.family != "SigLIP 2, NaFlex":  # transformers reads the grid as numbers, which meta tensors lack
        built._check(built.extract(images, [0], norm=True), 1, built.patch_grid(images), 1)
    model = getattr(built, "vit", None) or cast("Any", built).model
    for part in ("visual", "vision_model"):
        model = getattr(model, part, model)
    model = model.encoder if hasattr(model, "predictor") else model
    return round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 2)


# The architecture of a card, on the meta device ---------------------------------------------------


def backbone(card: BackboneCard) -> Backbone:
    """Return the backbone that the card's loader makes, without weights."""
    makers: dict[str, Callable[[BackboneCard], Backbone]] = {
        "hf": _through_transformers, "native": _native, "open_clip": _open_clip, "capi": _capi,
    }  # fmt: skip
    with torch.device("meta"):
        return makers.get(card.loader, _by_its_loader)(card).eval()


def _by_its_loader(card: BackboneCard) -> Backbone:
    return backbones.get(card.loader).build(card, WeightsFrom("random"))


def _native(card: BackboneCard) -> Backbone:
    from ssleval.backbones.loaders.native import NativeBackbone, _flavoured, _stated
    from ssleval.backbones.vit import Vit

    described = card.arch.startswith("packaged:")
    return NativeBackbone(card, Vit(_stated(card) if described else _flavoured(card)))


def _capi(card: BackboneCard) -> Backbone:
    from ssleval.backbones.capi import Capi
    from ssleval.backbones.loaders.capi import SIZES, CapiBackbone

    return CapiBackbone(card, Capi(SIZES[card.arch]))


def _open_clip(card: BackboneCard) -> Backbone:
    from ssleval.backbones.loaders.open_clip import OpenClipBackbone, _create

    return OpenClipBackbone(card, _create(card.arch, device="meta"))


def _through_transformers(card: BackboneCard) -> Backbone:
    from transformers import CONFIG_MAPPING, AutoModel

    from ssleval.backbones.loaders.hf import HfBackbone

    settings = configuration(card.name)
    kind = settings.pop("model_type")
    vision = {
        key.removeprefix("vision."): value for key, value in settings.items() if key.startswith("vision.")
    }
    configure: Any = CONFIG_MAPPING[kind]
    config = configure(**({"vision_config": vision} if vision else settings))
    return HfBackbone(card, AutoModel.from_config(config))


def configuration(model: str) -> dict[str, Any]:
    """Return the settings of transformers' configuration that sources state as ``config.NAME=VALUE``."""
    found: dict[str, Any] = {}
    for row in rows():
        if row.names(model):
            for field, value in row.states.items():
                if field.startswith("config."):
                    found[field.removeprefix("config.")] = _number(value)
    return found


def _number(text: str) -> Any:
    if text in {"True", "False"}:
        return text == "True"
    if "," in text:
        return [_number(part) for part in text.split(",")]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


# What libraries state -----------------------------------------------------------------------------


def library(card: BackboneCard, *, build: bool = True) -> dict[str, Any]:
    """Return what the configuration of the card's library states, read here and not by the loader.

    ``build`` adds the sizes of the architecture that the library makes.
    """
    readers = {"timm": (_timm, _timm_shape), "open_clip": (_open_clip_states, _open_clip_shape)}
    if card.loader == "torchvision":
        return _torchvision(card)
    if card.loader not in readers:
        return {}
    configured, shape = readers[card.loader]
    return configured(card) | (shape(card) if build else {})


def _timm_shape(card: BackboneCard) -> dict[str, Any]:
    import timm

    arch = card.arch.partition("/")[0]
    with torch.device("meta"):
        model: Any = timm.create_model(arch.partition(".")[0], num_classes=0)
    return {
        "embed_dim": model.feature_info[-1]["num_chs"],
        "patch_size": model.feature_info[-1]["reduction"],
        "pooled_dim": model.head_hidden_size,
        "parameters": round(sum(p.numel() for p in model.parameters()) / 1e6, 2),
    }


def _timm(card: BackboneCard) -> dict[str, Any]:
    import timm

    arch, _, other = card.arch.partition("/")
    if other:  # other weights than timm's, with which its configuration has nothing to do
        return {}
    config: Any = timm.get_pretrained_cfg(arch)
    side, mode = config.input_size[-1], "square" if config.crop_mode == "squash" else "short"
    return {
        "image_size": side,
        "resize": _resized(floor(side / config.crop_pct), side, mode),
        "resize_mode": mode,
        "interpolation": config.interpolation,
        "mean": config.mean,
        "std": config.std,
        "license": config.license or "unknown",
        "weights": config.hf_hub_id,
    }


def _open_clip_shape(card: BackboneCard) -> dict[str, Any]:
    from open_clip import get_model_config
    from open_clip.model import _build_vision_tower

    model: Any = get_model_config(card.arch.partition("/")[0])
    with torch.device("meta"):
        vision = model["vision_cfg"] | {"timm_model_pretrained": False}
        tower: Any = _build_vision_tower(
            model["embed_dim"], vision, quick_gelu=model.get("quick_gelu", False)
        )
    trunk = getattr(tower, "trunk", None)
    return {
        "embed_dim": tower.conv1.out_channels if trunk is None else trunk.feature_info[-1]["num_chs"],
        "patch_size": tower.patch_size[0] if trunk is None else trunk.feature_info[-1]["reduction"],
        "parameters": round(sum(p.numel() for p in tower.parameters()) / 1e6, 2),
    }


def _open_clip_states(card: BackboneCard) -> dict[str, Any]:
    from open_clip import get_model_config
    from open_clip.pretrained import get_pretrained_cfg

    arch, tag = card.arch.split("/")
    model: Any = get_model_config(arch)
    settings: Any = get_pretrained_cfg(arch, tag)
    side, squash = model["vision_cfg"]["image_size"], settings.get("resize_mode", "shortest") == "squash"
    return {
        "pooled_dim": model["embed_dim"],
        "image_size": side,
        "resize": 0 if squash else side,
        "resize_mode": "square" if squash else "short",
        "interpolation": settings["interpolation"],
        "mean": settings["mean"],
        "std": settings["std"],
        "weights": settings["hf_hub"].rstrip("/"),
    }


def _torchvision(card: BackboneCard) -> dict[str, Any]:
    from torchvision import models

    arch, _, tag = card.arch.partition("/")
    weights = models.get_model_weights(arch)
    if tag not in weights.__members__:  # weights of others; torchvision has the architecture only
        return {"embed_dim": 2048, "patch_size": 32, "pooled_dim": 2048}
    enum = weights[tag]
    settings = enum.transforms()
    return {
        "image_size": settings.crop_size[0],
        "resize": settings.resize_size[0],
        "resize_mode": "short",
        "interpolation": settings.interpolation.value,
        "mean": settings.mean,
        "std": settings.std,
        "weights": enum.url,
        "parameters": enum.meta["num_params"] / 1e6,
    }


# Tables -------------------------------------------------------------------------------------------


def report() -> Iterator[str]:
    """Yield the lines of the tables: what each family is held to, exceptions, and sources."""
    families: dict[str, list[BackboneCard]] = defaultdict(list)
    for card in read_zoo().values():
        families[card.family].append(card)
    yield "| family | cards | loaders | held to |"
    yield "|:---|---:|:---|:---|"
    for family, cards in families.items():
        loaders = sorted({card.loader for card in cards})
        places = sum(any(row.names(card.name) for card in cards) for row in rows())
        held = [name for name in loaders if name in {"timm", "open_clip", "torchvision"}]
        held += [f"{places} source{'s' * (places > 1)}"] if places else []
        yield f"| {family} | {len(cards)} | {', '.join(loaders)} | {', '.join(held) or 'this program'} |"
    yield from ("", "Where a card is right to differ from its library:", "")
    yield "| models | fields | reason |"
    yield "|:---|:---|:---|"
    yield from (f"| `{entry.models}` | {entry.fields} | {entry.reason} |" for entry in EXEMPTIONS)
    yield from (
        "",
        "Whose publisher states neither a revision nor a hash, so that the newest file is read:",
        "",
    )
    loose = [c.name for c in read_zoo().values() if c.weights and not (c.sha256 or "revision" in c.weights)]
    yield ", ".join(f"`{name}`" for name in loose)
    yield from ("", "What no library states:", "")
    yield "| models | states | source |"
    yield "|:---|:---|:---|"
    for row in rows():
        states = " ".join(f"{field}={value}" for field, value in row.states.items())
        yield f"| `{row.models}` | {states} | {row.source} |"


def write(lines: list[str]) -> None:
    """Put the tables between the marks of the page."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(
        "\n".join([before + BEGIN, "", *lines, "", END]) + rest.partition(END)[2], encoding="utf-8"
    )


def main() -> None:
    """Audit, and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", default="*", help="a glob of names")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/models.md")
    asked = parser.parse_args()
    cards = [card for card in read_zoo().values() if fnmatchcase(card.name, asked.models)]
    wrong = [finding for card in cards for finding in audit(card)]
    lines = list(report())
    if asked.write:
        write(lines)
    else:
        print("\n".join(lines))
    for finding in wrong:
        print(f"{finding.model}: {finding.field} is {finding.ours}, {finding.source} has {finding.theirs}")
    print(f"{len(cards)} cards, {len(wrong)} differences", file=sys.stderr)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
