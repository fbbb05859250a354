"""Devices by name, refused before anything is loaded where this machine has none such."""

from typing import Any

import torch

from ssleval.core.registry import suggestion
from ssleval.core.text import counted
from ssleval.errors import ConfigError

_KINDS = ("cpu", "cuda", "mps", "xpu")


def usable_device(name: str) -> str:
    """Return ``name``: ``cpu``, or an accelerator that torch can use here, such as ``cuda:1`` or ``mps``.

    Raises:
        ConfigError: it is no device, or not one of this machine.
    """
    kind, colon, index = name.partition(":")
    if kind not in _KINDS or (colon and not (index.isascii() and index.isdecimal())):
        raise ConfigError(f"device {name!r}: {suggestion(name, ('cpu', 'cuda', 'cuda:1', 'mps'))}")
    count = _count(kind)
    if not count:
        raise ConfigError(f"device {name!r}: torch {torch.__version__} finds no {kind} device here; use cpu")
    if colon and int(index) >= count:
        last = f"{kind}:{count - 1}" if count > 1 else kind
        raise ConfigError(f"device {name!r}: there is {counted(count, f'{kind} device')} here; use {last}")
    return name


def _count(kind: str) -> int:
    if kind == "cpu":
        return 1
    library: Any = getattr(torch, kind, None)
    return library.device_count() if library is not None and library.is_available() else 0
