"""Checks of what was loaded: every tensor of the weights, and preprocessing against the library's own."""

import hashlib
from collections.abc import Callable, Mapping

import torch

from ssleval.checks.doctor.finding import Finding
from ssleval.core.backbone import Backbone, backbones
from ssleval.core.text import some
from ssleval.errors import SslevalError

_LIBRARIES = ("timm", "open_clip", "hf", "torchvision")
"""Loaders of libraries that state how images are prepared."""
_NORMALISATION = ("mean", "std")
_GEOMETRY = ("image_size", "resize", "resize_mode", "interpolation")


def weights(backbone: Backbone, untrained: Callable[[int], Backbone] | None) -> Finding:
    """Look for tensors that are not finite, constant matrices, and matrices that were never loaded.

    ``untrained`` builds the same architecture with random weights from a seed. A matrix was never loaded if
    it depends on the seed and equals that of seed 0, which loaders start from.
    """
    tensors = backbone.state_dict()
    if broken := [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]:
        return Finding("fail", f"not finite: {some(broken)}", "download or copy the weights again")
    count = sum(tensor.numel() for tensor in tensors.values())
    evidence = f"{len(tensors)} tensors, {count / 1e6:.2f} M values, all finite"
    if untrained is None:
        return Finding("pass", evidence)
    first, second = (_hashes(untrained(seed)) for seed in (0, 1))
    loaded = _hashes(backbone)
    if left := [name for name, own in loaded.items() if first.get(name) == own and own != second.get(name)]:
        evidence = f"{len(left)} of {len(loaded)} tensors are as initialised at random: {some(left)}"
        advice = "the file lacks them or has other names for them; choose the architecture it was made for"
        return Finding("fail", evidence, advice)
    evidence += ", none as initialised"
    matrices = {name: tensor for name, tensor in tensors.items() if tensor.ndim >= 2 and tensor.numel() > 1}
    constant = [name for name, tensor in matrices.items() if bool((tensor == tensor.flatten()[0]).all())]
    if constant:
        return Finding("warn", f"{evidence}; constant: {some(constant)}", "compare with the file")
    return Finding("pass", evidence)


def preprocessing(backbone: Backbone) -> Finding:
    """Compare mean, deviation and geometry: what is applied, the card, and what the library states."""
    card = backbone.card
    for name in _NORMALISATION:
        applied = tuple(round(value, 6) for value in getattr(backbone, name).flatten().tolist())
        if applied != tuple(round(value, 6) for value in getattr(card, name)):
            evidence = f"images are normalised with {name} {applied}, the card says {getattr(card, name)}"
            advice = "leave normalisation to Backbone.__init__, which reads the card"
            return Finding("fail", evidence, advice)
    if card.loader not in _LIBRARIES:
        return Finding("pass", f"as on the card; {card.loader} has no library that states it")
    try:
        stated = backbones.get(card.loader).card(card.arch)
    except SslevalError as error:
        return Finding("skip", f"{card.loader} could not be asked: {error}")
    names = _GEOMETRY if stated.normalisation == "unknown" else (*_NORMALISATION, *_GEOMETRY)
    pairs = {name: (getattr(card, name), getattr(stated, name)) for name in names}
    wrong = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    if not wrong:
        said = "geometry is" if names is _GEOMETRY else "mean, std and geometry are"
        return Finding("pass", f"{said} what {card.loader} states")
    evidence = "; ".join(
        f"{name} {own}, {card.loader} states {theirs}" for name, (own, theirs) in wrong.items()
    )
    if wrong.keys() & set(_NORMALISATION):
        own = set(card.weights) == {"file"}
        advice = "right only if these weights of yours were trained so" if own else "correct the card"
        return Finding("warn" if own else "fail", evidence, advice)
    advice = "tasks pin their own geometry; this matters with preprocessing=card"
    return Finding("warn", evidence, advice)


def _hashes(backbone: Backbone) -> Mapping[str, str]:
    return {
        name: hashlib.sha256(tensor.detach().cpu().float().contiguous().numpy().tobytes()).hexdigest()
        for name, tensor in backbone.state_dict().items()
        if tensor.ndim >= 2 and tensor.is_floating_point()
    }
