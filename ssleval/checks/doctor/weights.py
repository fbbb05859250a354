"""Checks of what was loaded: every tensor of the weights, and preprocessing against the library's own."""

import hashlib
from collections.abc import Callable, Mapping

import torch

from ssleval.checks.doctor.finding import Finding
from ssleval.core.backbone import Backbone, backbones
from ssleval.errors import SslevalError

_LIBRARIES = ("timm", "open_clip", "hf", "torchvision")
"""Loaders behind which a library states how images were prepared."""
_NORMALISATION = ("mean", "std")
_GEOMETRY = ("image_size", "resize", "resize_mode", "interpolation")


def weights(backbone: Backbone, untrained: Callable[[int], Backbone] | None) -> Finding:
    """Find tensors that are not finite, constant matrices, and those a fresh initialisation left as they are.

    ``untrained`` builds the same architecture with random weights from a seed. A matrix that depends on
    the seed and nevertheless equals that of seed 0, which loaders start from, was never loaded.
    """
    tensors = backbone.state_dict()
    broken = [name for name, one in tensors.items() if not bool(torch.isfinite(one).all())]
    if broken:
        return Finding("weights", "fail", f"not finite: {_some(broken)}", "get the weights again")
    constant = [
        name
        for name, one in tensors.items()
        if one.ndim >= 2 and one.numel() > 1 and bool((one == one.flatten()[0]).all())
    ]
    count = sum(one.numel() for one in tensors.values())
    evidence = f"{len(tensors)} tensors, {count / 1e6:.2f} M values, all finite"
    if untrained is not None:
        first, second = (_hashes(untrained(seed)) for seed in (0, 1))
        mine = _hashes(backbone)
        left = [
            name for name, one in mine.items() if first.get(name) == one and first[name] != second.get(name)
        ]
        if left:
            return Finding(
                "weights",
                "fail",
                f"{len(left)} of {len(mine)} tensors are as initialised at random: {_some(left)}",
                "the file lacks them or names them otherwise; choose the architecture it was made for",
            )
        evidence += ", none as initialised"
    if constant and untrained is not None:
        return Finding(
            "weights", "warn", f"{evidence}; constant: {_some(constant)}", "is that so in the file?"
        )
    return Finding("weights", "pass", evidence)


def preprocessing(backbone: Backbone) -> Finding:
    """Compare mean, deviation and geometry: what is applied, the card, and what the library states."""
    card = backbone.card
    for name in _NORMALISATION:
        applied = tuple(round(value, 6) for value in getattr(backbone, name).flatten().tolist())
        if applied != tuple(round(value, 6) for value in getattr(card, name)):
            return Finding(
                "preprocessing",
                "fail",
                f"images are normalised with {name} {applied}, the card says {getattr(card, name)}",
                "leave normalisation to Backbone.__init__, which reads the card",
            )
    if card.loader not in _LIBRARIES:
        return Finding("preprocessing", "pass", f"as on the card; {card.loader} has no library to ask")
    try:
        stated = backbones.get(card.loader).card(card.arch)
    except SslevalError as error:
        return Finding("preprocessing", "skip", f"{card.loader} could not be asked: {error}")
    wrong = {
        name: (getattr(card, name), getattr(stated, name))
        for name in (*_NORMALISATION, *_GEOMETRY)
        if getattr(card, name) != getattr(stated, name)
    }
    if not wrong:
        return Finding("preprocessing", "pass", f"mean, std and geometry are what {card.loader} states")
    said = "; ".join(
        f"{name} {mine}, {card.loader} states {theirs}" for name, (mine, theirs) in wrong.items()
    )
    moved = bool(wrong.keys() & set(_NORMALISATION))
    return Finding(
        "preprocessing",
        "fail" if moved else "warn",
        said,
        "correct the card" if moved else "tasks pin their own geometry; this matters with preprocessing=card",
    )


def _hashes(backbone: Backbone) -> Mapping[str, str]:
    """Return the hash of every floating-point matrix."""
    return {
        name: hashlib.sha256(one.detach().cpu().float().contiguous().numpy().tobytes()).hexdigest()
        for name, one in backbone.state_dict().items()
        if one.ndim >= 2 and one.is_floating_point()
    }


def _some(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
