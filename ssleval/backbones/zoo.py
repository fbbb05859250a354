"""Backbones by name: the aliases of ``model_zoo.yaml``, and ``source:identifier`` for all other models."""

from collections.abc import Mapping
from dataclasses import fields, replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssleval.backbones.weights.weightfile import SUFFIX, describes_itself, read_card
from ssleval.core import BackboneCard
from ssleval.core.packaged import packaged
from ssleval.core.registry import suggestion
from ssleval.core.settings import build, updated
from ssleval.core.yamlfile import read_yaml
from ssleval.errors import ConfigError, ContractError, UnknownNameError, WeightsError

if TYPE_CHECKING:
    from ssleval.core.backbone import Backbone

_RANDOM = "random:"
_REQUIRED = (
    "arch", "embed_dim", "license", "loader", "patch_size", "pretraining_data", "source", "supervision",
)  # fmt: skip
"""Fields that every entry of the zoo states, also where `BackboneCard` has a default."""
_STATABLE = (
    "mean", "std", "image_size", "patch_size", "resize", "resize_mode", "crop_start", "interpolation",
)  # fmt: skip
"""Fields of a card that a caller may state: how images are prepared."""


def load(
    name: str,
    *,
    checkpoint: str | Path | None = None,
    key: str = "teacher",
    card: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> "Backbone":
    """Build a frozen backbone.

    Args:
        name: a name that `find_card` accepts. ``torchhub:`` and Python files run the code of others.
        checkpoint: a local file of weights for the named architecture.
        key: which network of a full training checkpoint.
        card: how images are prepared, in place of what the card of the model says: ``mean`` and ``std`` of
            RGB in [0, 1], ``image_size``, ``patch_size``, ``resize``, ``resize_mode``, ``interpolation``.
        seed: the seed of ``random:`` names.
        device: the device of the backbone.

    Raises:
        UnknownNameError: there is no such model.
        WeightsError: its weights are out of reach, or do not fill it.
        ConfigError: a checkpoint was given for a random model, nothing states the mean and the deviation that
            the weights expect, or the model cannot do what ``card`` states.
    """
    from ssleval.core.backbone import WeightsFrom, backbones

    stated, untrained = card or {}, name.startswith(_RANDOM)
    described = _with(find_card(name), stated, checkpoint)
    if untrained and checkpoint is not None:
        raise ConfigError(f"{name} has random weights; leave out either random: or --checkpoint")
    if untrained:
        weights = WeightsFrom("random", seed=seed)
    elif checkpoint is not None:
        weights = WeightsFrom("checkpoint", Path(checkpoint), key)
        file = {"file": Path(checkpoint).name}
        described = replace(described, weights=file, sha256="", unavailable="", gated=False)
    elif described.unavailable:
        raise WeightsError(f"{name}: {described.unavailable}")
    elif name.endswith(SUFFIX):
        weights = WeightsFrom("checkpoint", Path(name))
    else:
        weights = WeightsFrom()
    if not untrained:
        _refuse_unstated(name, described, checkpoint)
    backbone = backbones.get(described.loader).build(described, weights)
    _refuse_ignored(backbone, described, stated)
    return backbone.eval().requires_grad_(False).to(device)


def _with(card: BackboneCard, stated: Mapping[str, Any], checkpoint: str | Path | None) -> BackboneCard:
    """Return ``card`` with the normalisation in the header of a checkpoint, and with what is stated."""
    if unknown := [name for name in stated if name not in _STATABLE]:
        raise UnknownNameError(f"card: {unknown[0]!r} cannot be stated; known: {', '.join(_STATABLE)}")
    if ("mean" in stated) != ("std" in stated):
        raise ConfigError(f"{card.name}: state --image-mean and --image-std together, or neither")
    fields: dict[str, Any] = {}
    if checkpoint is not None and describes_itself(Path(checkpoint)):
        own = read_card(Path(checkpoint))
        fields |= {"mean": own.mean, "std": own.std, "normalisation": own.normalisation}
    fields |= {name: _three(value) if name in {"mean", "std"} else value for name, value in stated.items()}
    if "mean" in stated:
        fields["normalisation"] = "stated"
    told = updated(card, {"resize": 0} | fields, f"{card.name}: card")
    # Unless told otherwise, the crop keeps its part of the image.
    resize = told.resize if "resize" in stated else round(card.resize * told.image_size / card.image_size)
    return replace(told, resize=resize)


def _refuse_unstated(name: str, card: BackboneCard, checkpoint: str | Path | None) -> None:
    # A file that is absent is its reader's to refuse.
    if card.normalisation == "unknown" and (checkpoint is None or Path(checkpoint).exists()):
        raise ConfigError(
            f"{name}: nothing says which mean and deviation of RGB its weights expect; state --image-mean "
            "and --image-std (0.485,0.456,0.406 and 0.229,0.224,0.225 for DINO, DINOv2 and most others, 0.5 "
            "and 0.5 for AugReg and SigLIP; in Python card={'mean': ..., 'std': ...})"
        )


def _three(value: Any) -> Any:
    """Return one number as that of all three channels."""
    if isinstance(value, str) and "," not in value:
        return [value.strip()] * 3
    return [value] * 3 if isinstance(value, (int, float)) else value


def _refuse_ignored(backbone: "Backbone", card: BackboneCard, stated: Mapping[str, Any]) -> None:
    """Refuse a model that does otherwise than the caller states, such as one with patches of another size."""
    import torch

    for name in stated:
        value = getattr(card, name)
        applied = getattr(backbone, name, torch.tensor(value)) if name in {"mean", "std"} else None
        if getattr(backbone.card, name) != value or (
            applied is not None and not torch.allclose(applied.flatten().cpu(), torch.tensor(value))
        ):
            raise ConfigError(f"{card.name}: its loader {card.loader} takes no other {name}; leave it out")
    if "patch_size" in stated:
        side = 2 * card.patch_size
        try:
            backbone.eval()(torch.zeros(1, 3, side, side), (-1,))
        except (ConfigError, ContractError) as error:
            raise ConfigError(f"{error}; leave patch_size={card.patch_size} out") from error


def find_card(name: str) -> BackboneCard:
    """Return the card of a model.

    A name is an alias of the zoo, ``source:identifier`` for a loader (``timm:…``, ``hf:org/name`` or a
    folder, ``open_clip:ARCH/TAG``, ``torchhub:owner/repo/entry``, ``torchvision:…``),
    ``path/to/file.py:factory``, or ``path/to/teacher.safetensors`` that `ssleval train` wrote. ``random:``
    before any of them means the same architecture, untrained.

    Raises:
        UnknownNameError: the name is none of these; the message offers the nearest aliases.
        WeightsError: a file of weights is absent, or does not state its architecture.
    """
    if name.startswith(_RANDOM):
        card = find_card(name.removeprefix(_RANDOM))
        return replace(
            card, name=name, supervision="none", weights={}, sha256="", unavailable="", gated=False,
            pretraining_data="none", seeded_by=(),
        )  # fmt: skip
    zoo = _packaged_zoo()
    if name in zoo:
        return zoo[name]
    if name.endswith(SUFFIX):
        from ssleval.core.backbone import backbones

        return replace(backbones.get(read_card(Path(name)).loader).card(name), name=name)
    source, colon, identifier = name.partition(":")
    if not colon:
        raise UnknownNameError(f"no model {name!r}; {suggestion(name, zoo)}")
    from ssleval.core.backbone import backbones

    if ".py:" in name:
        return backbones.get("python_file").card(name)
    if source not in backbones:
        raise UnknownNameError(f"no model source {source!r} in {name!r}; {suggestion(source, backbones)}")
    return backbones.get(source).card(identifier)


def match_models(patterns: str) -> list[str]:
    """Expand a comma list of names and globs over the zoo, in the given order and without repeats."""
    zoo = _packaged_zoo()
    names: list[str] = []
    for pattern in filter(None, map(str.strip, patterns.split(","))):
        matches = [name for name in zoo if fnmatchcase(name, pattern)]
        named = (":" in pattern and "*" not in pattern) or pattern.endswith(SUFFIX)
        if not matches and not named:
            raise UnknownNameError(f"no model {pattern!r}; {suggestion(pattern, zoo)}")
        names += matches or [pattern]
    return list(dict.fromkeys(names))


def read_zoo(path: Path | None = None) -> dict[str, BackboneCard]:
    """Return the cards of a file by name, in the order of the file; by default of the packaged one.

    The file maps each family to the fields that its models share, ``shared``, and to ``models``, which maps
    names to the other fields of a model. Missing fields, wrong values and repeated names are refused.
    """
    path = path or packaged("model_zoo.yaml")
    families = read_yaml(path) or {}
    cards: dict[str, BackboneCard] = {}
    for family, block in families.items():
        unknown = sorted(set(block) - {"shared", "models"})
        if unknown or "models" not in block:
            raise ConfigError(
                f"{path.name}: family {family} has {unknown or 'no models'}; expected shared and models"
            )
        for name, own in block["models"].items():
            if name in cards:
                raise ConfigError(f"{path.name}: {name} is there twice")
            stated = {"name": name, "family": family, **block.get("shared", {}), **(own or {})}
            cards[name] = _entry(stated, f"{path.name}: {name}")
    return cards


def _entry(stated: Mapping[str, Any], owner: str) -> BackboneCard:
    missing = [field for field in _REQUIRED if stated.get(field) in (None, "")]
    # A misspelt name is reported by `build` with the nearest field, rather than as a field that is missing.
    if missing and {field.name for field in fields(BackboneCard)}.issuperset(stated):
        raise ConfigError(f"{owner}: no {', '.join(missing)}")
    return build(BackboneCard, stated, owner)


_packaged_zoo = cache(read_zoo)
