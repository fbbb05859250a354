"""Devices by name, refused before anything is loaded where this machine has none such; and its cores."""

import os
from pathlib import Path
from typing import Any

import torch

from ssleval.core.registry import suggestion
from ssleval.core.text import counted
from ssleval.errors import ConfigError

_KINDS = ("cpu", "cuda", "mps", "xpu")
_BEST = ("cuda", "mps", "cpu")
"""What ``auto`` tries, in this order."""


def usable_device(name: str) -> str:
    """Return ``name``: ``cpu``, or an accelerator that torch can use here, such as ``cuda:1`` or ``mps``.

    ``auto`` is the first of cuda, mps and cpu that is here.

    Raises:
        ConfigError: it is no device, or not one of this machine.
    """
    if name == "auto":
        return next(kind for kind in _BEST if _count(kind))
    kind, colon, index = name.partition(":")
    if kind not in _KINDS or (colon and not (index.isascii() and index.isdecimal())):
        raise ConfigError(f"device {name!r}: {suggestion(name, ('auto', 'cpu', 'cuda', 'cuda:1', 'mps'))}")
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


def suitable_workers(device: str) -> int:
    """Return how many processes should decode images for a model on ``device``.

    Beside an accelerator all cores of this process have nothing else to do. On a CPU the model uses them
    itself, and processes take seconds to start: there this process decodes.
    """
    return 0 if device.partition(":")[0] == "cpu" else usable_cores()


def place(device: str, workers: int = 0) -> str:
    """Return in words on which accelerator a model runs, and who decodes; '' where this process does all."""
    decoding = f", {counted(workers, 'process decodes', 'processes decode')} images" if workers else ""
    return f"running on {device}{decoding}" if workers or device != "cpu" else ""


def usable_cores() -> int:
    """Return the cores that this process may use: those of its affinity, at most its container's quota.

    Processes that `torchrun` started on this machine share them.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    quota = _quota(Path("/sys/fs/cgroup"))
    ranks = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, int(min(cores, quota)) // (int(ranks) if ranks.isdecimal() and int(ranks) else 1))


def _quota(groups: Path) -> float:
    """Return the cores that control groups of version 2 or 1 allow; infinite where they set no limit."""
    newer, older = groups / "cpu.max", groups / "cpu"
    try:
        if newer.is_file():
            quota, period = newer.read_text(encoding="ascii").split()
        else:
            quota, period = ((older / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return float("inf") if quota.strip() in {"max", "-1"} else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return float("inf")
