"""Names to backbones: aliases of ``model_zoo.yaml``, and ``source:identifier`` for everything else."""

from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import yaml

from ssleval.backbones.weights.weightfile import SUFFIX, read_card
from ssleval.core import BackboneCard
from ssleval.core.packaged import packaged
from ssleval.core.registry import suggestion
from ssleval.errors import ConfigError, UnknownNameError, WeightsError

if TYPE_CHECKING:
    from ssleval.core.backbone import Backbone

_RANDOM = "random:"
_STATED = ("license", "source", "pretraining_data", "supervision")
"""Fields with a default in the vocabulary that every card of the zoo must nevertheless state."""


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
        name: what `find_card` understands. ``torchhub:`` and Python files run code of others.
        checkpoint: a local file whose weights go into the named architecture.
        key: which network of a full training checkpoint.
        seed: for ``random:`` names.
        device: where to put it.

    Raises:
        UnknownNameError: no such model.
        WeightsError: its weights cannot be had, or do not fill it.
        ConfigError: a checkpoint for a random model.
    """
    from ssleval.core.backbone import WeightsFrom, backbones

    card = find_card(name)
    if checkpoint is not None and name.startswith(_RANDOM):
        raise ConfigError(f"{name} has random weights; leave out either random: or --checkpoint")
    if checkpoint is not None:
        path = Path(checkpoint)
        weights = WeightsFrom("checkpoint", path, key)
        card = replace(card, weights={"file": path.name}, sha256="", unavailable="", gated=False)
    elif name.startswith(_RANDOM):
        weights = WeightsFrom("random", seed=seed)
    elif card.unavailable:
        raise WeightsError(f"{name}: {card.unavailable}")
    elif name.endswith(SUFFIX):
        weights = WeightsFrom("checkpoint", Path(name))
    else:
        weights = WeightsFrom()
    backbone = backbones.get(card.loader).build(card, weights)
    return backbone.eval().requires_grad_(False).to(device)


def find_card(name: str) -> BackboneCard:
    """Describe a model by name.

    Known are the aliases of the zoo, ``source:identifier`` for every loader (``timm:…``, ``hf:org/name``
    or a folder, ``open_clip:ARCH/TAG``, ``torchhub:owner/repo/entry``, ``torchvision:…``),
    ``path/to/file.py:factory``, ``path/to/teacher.safetensors`` that `ssleval train` wrote, and ``random:``
    before any of them: the same architecture, untrained.

    Raises:
        UnknownNameError: none of these; the message offers the nearest aliases.
        WeightsError: a file of weights that is absent or does not say which architecture it holds.
    """
    if name.startswith(_RANDOM):
        return _untrained(find_card(name.removeprefix(_RANDOM)), name)
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
    """Expand a comma list of names and globs over the zoo, in the order given, without repeats.

    Raises:
        UnknownNameError: a glob matches nothing, or a plain name is unknown.
    """
    zoo = _packaged_zoo()
    found: dict[str, None] = {}
    for pattern in filter(None, (part.strip() for part in patterns.split(","))):
        matches = [name for name in zoo if fnmatchcase(name, pattern)] or [pattern]
        named = pattern in zoo or (":" in pattern and "*" not in pattern) or pattern.endswith(SUFFIX)
        if matches == [pattern] and not named:
            raise UnknownNameError(f"no model {pattern!r}; {suggestion(pattern, zoo)}")
        found.update(dict.fromkeys(matches))
    return list(found)


def read_zoo(path: Path | None = None) -> dict[str, BackboneCard]:
    """Read cards, in the order of the file.

    The file maps a family to ``shared`` fields and to ``models``, a mapping of name to the fields that
    are the model's own. ``path`` is the packaged file by default.

    Raises:
        ConfigError: an unknown or missing field, a wrong type, or a name given twice.
    """
    path = path or packaged("model_zoo.yaml")
    families = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
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
            cards[name] = _entry(
                name, {"family": family, **block.get("shared", {}), **(own or {})}, path.name
            )
    return cards


def _entry(name: str, stated: Mapping[str, Any], file: str) -> BackboneCard:
    """Make a card of one entry, refusing what a typing mistake would lose."""
    known = {field.name: field for field in fields(BackboneCard)}
    unknown = sorted(set(stated) - set(known))
    if unknown:
        raise ConfigError(f"{file}: {name}: no field {unknown[0]!r}; {suggestion(unknown[0], known)}")
    required = {n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING}
    missing = sorted((required | set(_STATED)) - {"name"} - {n for n, value in stated.items() if value})
    if missing:
        raise ConfigError(f"{file}: {name}: no {', '.join(missing)}")
    values: dict[str, Any] = {
        n: tuple(value) if isinstance(value, list) else value for n, value in stated.items()
    }
    for field_name, value in values.items():
        _refuse_type(f"{file}: {name}: {field_name}", known[field_name], value)
    return BackboneCard(name=name, **values)


def _refuse_type(where: str, field: Any, value: Any) -> None:
    if get_origin(field.type) is Literal:
        if value not in get_args(field.type):
            raise ConfigError(f"{where} is {value!r}; {suggestion(str(value), get_args(field.type))}")
        return
    default = field.default_factory() if field.default_factory is not MISSING else field.default
    wanted = field.type if default is MISSING else type(default)
    allowed = (int, float) if wanted is float else (wanted,)
    if not isinstance(value, allowed) or (isinstance(value, bool) and wanted is not bool):
        raise ConfigError(f"{where} is {value!r}, expected {wanted.__name__}")


def _untrained(card: BackboneCard, name: str) -> BackboneCard:
    return replace(
        card, name=name, supervision="none", weights={}, sha256="", unavailable="", gated=False,
        pretraining_data="none", seeded_by=(),
    )  # fmt: skip


@cache
def _packaged_zoo() -> Mapping[str, BackboneCard]:
    return read_zoo()
