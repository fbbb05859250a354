"""Backbones by name: the aliases of ``model_zoo.yaml``, and ``source:identifier`` for all other models."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssleval.backbones.weights.weightfile import SUFFIX, read_card
from ssleval.core import BackboneCard
from ssleval.core.packaged import packaged
from ssleval.core.registry import suggestion
from ssleval.core.settings import build
from ssleval.core.yamlfile import read_yaml
from ssleval.errors import ConfigError, UnknownNameError, WeightsError

if TYPE_CHECKING:
    from ssleval.core.backbone import Backbone

_RANDOM = "random:"
_DESCRIBED = ("native", "timm")
"""Loaders whose models `ssleval train` writes; others may run code, which no file of weights may ask for."""
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
    note: Callable[[str], None] = lambda _: None,
) -> "Backbone":
    """Build a frozen backbone.

    Args:
        name: a name that `find_card` accepts. ``torchhub:`` and Python files run the code of others.
        checkpoint: a local file of weights for the named architecture.
        key: which network of a full training checkpoint: any prefix of its tensors.
        seed: the seed of ``random:`` names.
        device: the device of the backbone.
        note: takes what was found in a checkpoint, and is recorded on the card: its network and its sizes.

    Raises:
        UnknownNameError: there is no such model.
        WeightsError: its weights are out of reach, do not fill it, are not finite or are constant.
        ConfigError: a checkpoint was given for a random model.
    """
    from ssleval.core.backbone import WeightsFrom, backbones

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
    for line in _found_in(weights.path, card, backbone.card):
        note(line)
    if not untrained and backbone.card.weights:
        from ssleval.backbones.weights.checkpoints import refuse_dead

        refuse_dead(name, backbone)
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

        loader = read_card(Path(name)).loader
        if loader not in _DESCRIBED:
            raise WeightsError(
                f"{name}: its header asks for the loader {loader!r}, expected {' or '.join(_DESCRIBED)}"
            )
        return replace(backbones.get(loader).card(name), name=name)
    source, colon, identifier = name.partition(":")
    if not colon:
        raise UnknownNameError(f"no model {name!r}; {suggestion(name, zoo)}")
    from ssleval.core.backbone import backbones

    if ".py:" in name:
        return backbones.get("python_file").card(name)
    if source not in backbones:
        raise UnknownNameError(f"no model source {source!r} in {name!r}; {suggestion(source, backbones)}")
    return backbones.get(source).card(identifier)


def _found_in(path: Path | None, named: BackboneCard, built: BackboneCard) -> Iterator[str]:
    """Yield what a file of weights decided about the model ``named``, as it was ``built``."""
    network, others = (built.weights.get(field, "") for field in ("network", "other_networks"))
    if network and path is not None:
        passed_by = f"; it also has {others}, which --key reads by name" if others else ""
        yield f"{named.name}: the weights are {network} of {path.name}{passed_by}"
    if (built.patch_size, built.image_size) != (named.patch_size, named.image_size):
        yield (
            f"{named.name}: the weights have patches of {built.patch_size} and positions for images of "
            f"{built.image_size} pixels, not of {named.patch_size} and {named.image_size}: recorded so"
        )


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
