"""Bounds of what a file may declare about its architecture, checked before anything of that size is made."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from ssleval.core.text import some
from ssleval.errors import WeightsError

_BOUNDS = (
    (re.compile(r"(layers|layer|depth|depths|blocks|stages|heads)$"), 1_000),
    (re.compile(r"(image|patch)_size$"), 8_192),
    (re.compile(r"(length|tokens|embeddings)$"), 8_192),
    (re.compile(r"(size|sizes|dim|width|channels)$"), 1 << 20),
)
"""The largest number under a name, by how the name ends; the first line that fits counts."""
_MOST_VALUES = 1 << 33
"""Values of one model, 32 GB in float32: more than any published image model that can be loaded here."""
_DEEPEST = 8
_NOT_SIZES = ("label2id", "id2label")


def refuse_giant_settings(settings: Mapping[str, Any], name: str) -> None:
    """Refuse the architecture of ``name`` where a setting, at any depth, is beyond all that is published."""
    for key, value in _numbers(settings):
        bound = next((most for pattern, most in _BOUNDS if pattern.search(key)), None)
        if bound is not None and not 0 <= value <= bound:
            raise WeightsError(f"{name}: its file says {some([key])}={value:.6g}, expected 0 to {bound:,}")


def refuse_giant(model: nn.Module, name: str) -> None:
    """Refuse a model, built without memory, that has more values than any published one."""
    count = sum(tensor.numel() for tensor in model.state_dict().values())
    if count > _MOST_VALUES:
        raise WeightsError(
            f"{name}: its file declares {count:.3g} values, expected at most {_MOST_VALUES:.3g}"
        )


def _numbers(value: Any, key: str = "", depth: int = _DEEPEST) -> Iterator[tuple[str, float]]:
    """Yield the numbers in nested settings with the name under which they stand."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        yield key, value
    elif isinstance(value, Mapping) and depth:
        for name, inner in value.items():  # pyright: ignore[reportUnknownVariableType]
            if name not in _NOT_SIZES:
                yield from _numbers(inner, str(name), depth - 1)  # pyright: ignore[reportUnknownArgumentType]
    elif isinstance(value, (list, tuple)) and depth:
        for inner in value:  # pyright: ignore[reportUnknownVariableType]
            yield from _numbers(inner, key, depth - 1)
