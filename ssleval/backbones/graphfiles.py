"""What loaders of exported networks share. Such a file computes, and says nothing of patches or colours.

Its location may be followed by what the options of a card do not say: ``FILE?cls=true&registers=4``, with the
names ``cls``, ``registers``, ``pooling`` and ``output`` of `ssleval.wrap` and of the file.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qsl

from msgspec import Meta
from torch import nn

from ssleval.backbones.weights.checkpoints import millions_of_parameters
from ssleval.backbones.wrapped import Pooling, wrap
from ssleval.core import BackboneCard
from ssleval.core.backbone import Backbone, Loader, WeightsFrom
from ssleval.core.settings import updated
from ssleval.errors import ConfigError, UnknownNameError

_UNSTATED = 1
"""Stands on a card for a patch or image size that nobody has stated; no network has such patches."""
_SIZES = "--patch-size 14 --image-size 224, with the numbers of your model"
_SPELT = {"cls": "true|false", "registers": "[0-9]{1,4}", "pooling": "cls|mean|given", "output": ".+"}


@dataclass(frozen=True, slots=True)
class GraphFile:
    """A location, taken apart."""

    path: Path
    cls: bool | None = None
    registers: Annotated[int, Meta(ge=0, lt=10_000)] = 0
    pooling: Pooling | None = None
    output: str = ""
    """Name of the output that holds features, where the file has several."""


class Graph(nn.Module):
    """An exported network as a module. Its loader has read the file."""

    output: str
    """Name of the output that holds features; '' where the file has one."""
    size: tuple[int, int] | None
    """Height and width of images, where the file fixes them."""

    def __init__(self, file: GraphFile, name: str) -> None:
        super().__init__()
        self.name, self.output = name, file.output

    def __getstate__(self) -> dict[str, Any]:
        """Return what decides the features, beside weights and code."""
        return {"output": self.output}


def graph_loader(kind: str, graph: Callable[[GraphFile, str], Graph]) -> Loader:
    """Return the loader of ``kind:FILE``; ``graph`` reads the file of a model of this name."""

    def build(card: BackboneCard, weights: WeightsFrom) -> Backbone:
        if weights.kind != "published":
            given = "random:" if weights.kind == "random" else "--checkpoint"
            raise ConfigError(f"{card.name}: the file holds its weights; leave out {given}")
        file = _graph_file(card.name, card.arch)
        return _backbone_of(card, graph(file, card.name), file)

    return Loader(lambda location: _stub(kind, location), build)


def _parts(given: str) -> dict[str, str]:
    parts = dict(parse_qsl(given, strict_parsing=bool(given)))
    if strange := [part for part in _SPELT.keys() & parts if not re.fullmatch(_SPELT[part], parts[part])]:
        raise ValueError(strange[0])
    return parts


def _graph_file(name: str, location: str) -> GraphFile:
    place, _, given = location.partition("?")
    path = Path(place).expanduser()
    if not path.is_file():
        raise UnknownNameError(f"{name}: no file {place}")
    try:
        parts = _parts(given)
        known = {part: parts.pop(part) for part in _SPELT if part in parts}
        file = updated(GraphFile(path), known, name)
    except (ValueError, ConfigError) as error:
        raise ConfigError(
            f"{name}: {given!r} after the file; write cls=true or false, registers=NUMBER, "
            "pooling=cls|mean|given, output=NAME, joined by &"
        ) from error
    if parts:
        raise ConfigError(f"{name}: nothing is called {min(parts)}; known: {', '.join(_SPELT)}")
    return file


def _stub(loader: str, location: str) -> BackboneCard:
    """Return what is known of a file before it is run: nothing but its name."""
    name = f"{loader}:{location}"
    path = _graph_file(name, location).path
    return BackboneCard(
        name, loader, location, embed_dim=1, patch_size=_UNSTATED, image_size=_UNSTATED,
        supervision="unknown", normalisation="unknown", weights={"file": path.name}, license="unknown",
    )  # fmt: skip


def _backbone_of(card: BackboneCard, module: Graph, file: GraphFile) -> Backbone:
    size = module.size
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
    wrapped.card = replace(
        card, embed_dim=made.embed_dim, pooled_dim=made.pooled_dim, pooling=made.pooling,
        parameters=millions_of_parameters(module),
    )  # fmt: skip
    return wrapped
