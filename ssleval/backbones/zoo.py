"""Backbones by name: the aliases of ``model_zoo.yaml``, and ``source:identifier`` for all other models."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssleval.backbones.weights.weightfile import SUFFIX, describes_itself, read_card
from ssleval.core import BackboneCard
from ssleval.core.packaged import packaged
from ssleval.core.registry import suggestion, unknown
from ssleval.core.settings import build, updated
from ssleval.core.yamlfile import read_yaml
from ssleval.errors import ConfigError, ContractError, UnknownNameError, WeightsError

if TYPE_CHECKING:
    from ssleval.core.backbone import Backbone

_RANDOM = "random:"
_MOST_PARTS = 9
"""A path in a list of names may hold one comma less."""
_DESCRIBED = ("native", "timm")
"""Loaders whose models `ssleval train` writes; others may run code, which no file of weights may ask for."""
_GRAPHS = ("onnx", "exported")
"""Loaders of files that say nothing of patches."""
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
    note: Callable[[str], None] = lambda _: None,
) -> "Backbone":
    """Build a frozen backbone.

    Args:
        name: a name that `find_card` accepts. ``torchhub:`` and Python files run the code of others.
        checkpoint: a local file of weights for the named architecture.
        key: which network of a full training checkpoint: any prefix of its tensors.
        card: how images are prepared, in place of what the card of the model says: ``mean`` and ``std`` of
            RGB in [0, 1], ``image_size``, ``patch_size``, ``resize``, ``resize_mode``, ``interpolation``.
        seed: the seed of ``random:`` names.
        device: the device of the backbone.
        note: takes what was found in a checkpoint, and is recorded on the card: its network and its sizes.

    Raises:
        UnknownNameError: there is no such model.
        WeightsError: its weights are out of reach, do not fill it, are not finite or are constant.
        ConfigError: a checkpoint was given for a random model, nothing states the mean and the deviation that
            the weights expect, the model cannot do what ``card`` states, or this machine has no such device.
    """
    from ssleval.core.backbone import WeightsFrom, backbones
    from ssleval.core.devices import usable_device

    stated, untrained = card or {}, name.startswith(_RANDOM)
    usable_device(device)
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
    for line in _found_in(weights.path, described, backbone.card):
        note(line)
    if not untrained and backbone.card.weights:
        from ssleval.backbones.weights.checkpoints import refuse_dead

        refuse_dead(name, backbone)
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
            actual = getattr(backbone.card, name)
            held = f"has {name}={actual}" if actual != value else f"takes no other {name}"
            raise ConfigError(f"{card.name}: the model {held}; leave {name}={value} out")
    # A graph from a file was run already, and may take images of its own size alone.
    if "patch_size" in stated and card.loader not in _GRAPHS:
        side = 2 * card.patch_size
        try:
            backbone.eval()(torch.zeros(1, 3, side, side), (-1,))
        except (ConfigError, ContractError) as error:
            raise ConfigError(f"{error}; leave patch_size={card.patch_size} out") from error


def find_card(name: str) -> BackboneCard:
    """Return the card of a model.

    A name is an alias of the zoo, ``source:identifier`` for a loader (``timm:…``, ``hf:org/name`` or a
    folder, ``open_clip:ARCH/TAG``, ``torchhub:owner/repo/entry``, ``torchvision:…``,
    ``onnx:FILE``, ``exported:FILE``), ``path/to/file.py:factory``, or ``path/to/teacher.safetensors`` that
    `ssleval train` wrote. ``random:`` before any of them means the same architecture, untrained.

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
    zoo = packaged_zoo()
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
        raise _unknown(name)
    from ssleval.core.backbone import backbones

    if ".py:" in name:
        return backbones.get("python_file").card(name)
    if source not in backbones:
        raise UnknownNameError(f"no model source {source!r} in {name!r}; {suggestion(source, backbones)}")
    return backbones.get(source).card(identifier)


def _unknown(name: str) -> UnknownNameError:
    if name.endswith(".py") and Path(name).is_file():
        return UnknownNameError(
            f"{name} is a file; name the function that returns the model: {name}:FUNCTION"
        )
    return unknown("model", name, packaged_zoo())


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
    """Expand a comma list of names and globs over the zoo, in the given order and without repeats.

    A comma is part of a name where only that names a file or folder, as in ``hf:a,b`` and ``a,b.py:factory``.
    """
    zoo = packaged_zoo()
    names: list[str] = []
    for pattern in _separate(patterns):
        matches = [name for name in zoo if fnmatchcase(name, pattern)]
        named = (":" in pattern and "*" not in pattern) or pattern.endswith(SUFFIX)
        if not matches and not named:
            raise _unknown(pattern)
        names += matches or [pattern]
    if not names:
        raise ConfigError("no model was named; `ssleval ls models` lists them")
    return list(dict.fromkeys(names))


def _separate(patterns: str) -> list[str]:
    parts, names = patterns.split(","), list[str]()
    while parts:
        joined = (",".join(parts[:count]).strip() for count in range(min(len(parts), _MOST_PARTS), 1, -1))
        name = next((name for name in joined if _names_a_file(name)), parts[0].strip())
        parts = parts[name.count(",") + 1 :]
        names.append(name)
    return list(filter(None, names))


def _names_a_file(name: str) -> bool:
    name = name.removeprefix(_RANDOM)
    path, colon, factory = name.rpartition(".py:")
    location = f"{path}.py" if colon and "," not in factory else name.removeprefix("hf:")
    # os and not pathlib, which raises where a name is too long or has a zero byte.
    return os.path.exists(os.path.expanduser(location))  # noqa: PTH110, PTH111


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


packaged_zoo = cache(read_zoo)
"""Return the cards of the packaged zoo, read once."""
