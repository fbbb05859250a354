"""Backbones by name: the aliases of ``model_zoo.yaml``, and ``source:identifier`` for all other models."""

from collections.abc import Mapping
from dataclasses import fields, replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssleval.backbones.weights.weightfile import SUFFIX, read_card
from ssleval.core import BackboneCard
from ssleval.core.packaged import packaged
from ssleval.core.registry import suggestion, unknown
from ssleval.core.settings import build
from ssleval.core.yamlfile import read_yaml
from ssleval.errors import ConfigError, UnknownNameError, WeightsError

if TYPE_CHECKING:
    from ssleval.core.backbone import Backbone

_RANDOM = "random:"
_REQUIRED = (
    "arch", "embed_dim", "license", "loader", "patch_size", "pretraining_data", "source", "supervision",
)  # fmt: skip
"""Fields that every entry of the zoo states, also where `BackboneCard` has a default."""


def load(
    name: str,
    *,
    checkpoint: str | Path | None = None,
    key: str = "teacher",
    seed: int = 0,
    device: str = "cpu",
) -> "Backbone":
    """Build a frozen backbone.

    Args:
        name: a name that `find_card` accepts. ``torchhub:`` and Python files run the code of others.
        checkpoint: a local file of weights for the named architecture.
        key: which network of a full training checkpoint.
        seed: the seed of ``random:`` names.
        device: the device of the backbone.

    Raises:
        UnknownNameError: there is no such model.
        WeightsError: its weights are out of reach, or do not fill it.
        ConfigError: a checkpoint was given for a random model; this machine has no such device.
    """
    from ssleval.core.backbone import WeightsFrom, backbones
    from ssleval.core.devices import usable_device

    usable_device(device)
    card, untrained = find_card(name), name.startswith(_RANDOM)
    if untrained and checkpoint is not None:
        raise ConfigError(f"{name} has random weights; leave out either random: or --checkpoint")
    if untrained:
        weights = WeightsFrom("random", seed=seed)
    elif checkpoint is not None:
        weights = WeightsFrom("checkpoint", Path(checkpoint), key)
        file = {"file": Path(checkpoint).name}
        card = replace(card, weights=file, sha256="", unavailable="", gated=False)
    elif card.unavailable:
        raise WeightsError(f"{name}: {card.unavailable}")
    elif name.endswith(SUFFIX):
        weights = WeightsFrom("checkpoint", Path(name))
    else:
        weights = WeightsFrom()
    backbone = backbones.get(card.loader).build(card, weights)
    return backbone.eval().requires_grad_(False).to(device)


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
        raise unknown("model", name, zoo)
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
            raise unknown("model", pattern, zoo)
        names += matches or [pattern]
    if not names:
        raise ConfigError("no model was named; `ssleval ls models` lists them")
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
