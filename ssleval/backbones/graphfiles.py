"""What loaders of exported networks share. Such a file computes, and says nothing of patches or colours.

Its location may be followed by what the options of a card do not say: ``FILE?cls=true&registers=4``, with the
names ``cls``, ``registers``, ``pooling`` and ``output`` of `ssleval.wrap` and of the file.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qsl

from torch import nn

from ssleval.backbones.wrapped import Pooling, wrap
from ssleval.core import BackboneCard
from ssleval.core.backbone import Backbone, WeightsFrom
from ssleval.errors import ConfigError, UnknownNameError

_UNSTATED = 1
"""Stands on a card for a patch or image size that nobody has stated; no network has such patches."""
_SIZES = "--patch-size 14 --image-size 224, with the numbers of your model"
_POOLINGS = ("cls", "mean", "given")


@dataclass(frozen=True, slots=True)
class GraphFile:
    """A location, taken apart."""

    path: Path
    cls: bool | None = None
    registers: int = 0
    pooling: Pooling | None = None
    output: str = ""
    """Name of the output that holds features, where the file has several."""


def graph_file(name: str, location: str) -> GraphFile:
    """Return the parts of ``FILE?cls=true&registers=4``.

    Raises:
        UnknownNameError: there is no such file.
        ConfigError: what follows the question mark has another form.
    """
    place, _, given = location.partition("?")
    path = Path(place).expanduser()
    if not path.is_file():
        raise UnknownNameError(f"{name}: no file {place}")
    try:
        parts = dict(parse_qsl(given, strict_parsing=bool(given)))
        file = GraphFile(
            path,
            None if "cls" not in parts else {"true": True, "false": False}[parts.pop("cls").lower()],
            _count(parts.pop("registers", "0")),
            cast("Pooling | None", _one_of(parts.pop("pooling", ""), _POOLINGS)),
            parts.pop("output", ""),
        )
    except (ValueError, LookupError) as error:
        raise ConfigError(
            f"{name}: {given!r} after the file; write cls=true or false, registers=NUMBER, "
            f"pooling={'|'.join(_POOLINGS)}, output=NAME, joined by &"
        ) from error
    if parts:
        raise ConfigError(f"{name}: nothing is called {min(parts)}; known: cls, registers, pooling, output")
    return file


def stub(loader: str, location: str) -> BackboneCard:
    """Return what is known of a file before it is run: nothing but its name."""
    name = f"{loader}:{location}"
    path = graph_file(name, location).path
    return BackboneCard(
        name, loader, location, embed_dim=1, patch_size=_UNSTATED, image_size=_UNSTATED,
        supervision="unknown", normalisation="unknown", weights={"file": path.name}, license="unknown",
    )  # fmt: skip


def refuse_other_weights(card: BackboneCard, weights: WeightsFrom) -> None:
    """Refuse weights from elsewhere: the file holds its own."""
    if weights.kind != "published":
        given = "random:" if weights.kind == "random" else "--checkpoint"
        raise ConfigError(f"{card.name}: the file holds its weights; leave out {given}")


def backbone_of(
    card: BackboneCard, module: nn.Module, file: GraphFile, size: tuple[int, int] | None
) -> Backbone:
    """Return the backbone that runs ``module``, which takes images of ``size`` alone, or of any.

    Raises:
        ConfigError: the layout of its output is not stated; the message gives the line to write.
    """
    if size is not None and size[0] == size[1] and card.image_size == _UNSTATED:
        card = replace(card, image_size=size[0])
    if _UNSTATED in {card.patch_size, card.image_size}:
        raise ConfigError(f"{card.name}: nothing says the size of patches and images; state {_SIZES}")
    given: dict[str, Any] = {name: getattr(file, name) for name in ("cls", "registers", "pooling")}
    try:
        wrapped = wrap(
            module, patch_size=card.patch_size, mean=card.mean, std=card.std, image_size=card.image_size,
            name=card.name, **given,
        )  # fmt: skip
    except ConfigError as error:
        raise ConfigError(
            f"{error}; of a file: {card.loader}:{file.path}?cls=true&registers=0&pooling=cls, and {_SIZES}"
        ) from error
    made = wrapped.card
    if not made.embed_dim or (getattr(wrapped, "num_blocks", 1) == 0 and file.pooling is None):
        raise ConfigError(
            f"{card.name}: its output is one vector, which may be logits; if these are the features, write "
            f"{card.loader}:{file.path}?pooling=given, else export the network without its classifier"
        )
    wrapped.card = replace(card, embed_dim=made.embed_dim, pooled_dim=made.pooled_dim, pooling=made.pooling)
    return wrapped


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 5):
        raise ValueError(text)
    return int(text)


def _one_of(text: str, known: tuple[str, ...]) -> str | None:
    if text and text not in known:
        raise ValueError(text)
    return text or None
