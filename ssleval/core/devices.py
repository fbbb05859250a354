"""Devices by name, refused before anything is loaded where this machine has none such; and its cores."""

import os
import sys
from contextlib import suppress
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


def free_memory(device: str) -> int:
    """Return the bytes that this process may still take on ``device``; 0 where that is not known.

    Processes that `torchrun` started on this machine share those of a processor.
    """
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(torch.device(device))[0]
    if device != "cpu":
        return 0
    with suppress(OSError, ValueError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        kibibytes = next(line.split()[1] for line in lines if line.startswith("MemAvailable:"))
        return min(int(kibibytes) << 10, _memory_left(Path("/sys/fs/cgroup"))) // _processes_here()
    return 0


def _memory_left(groups: Path) -> int:
    """Return the bytes below the limit of the container, by control groups of version 2 or 1.

    Files that are only kept in memory count as free: they give way.
    """
    for folder, limit, used, kept in (
        (groups, "memory.max", "memory.current", "inactive_file"),
        (groups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        with suppress(OSError, ValueError):
            most, taken = (int((folder / name).read_text(encoding="ascii")) for name in (limit, used))
            lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
            files = dict(line.split() for line in lines).get(kept, "0")
            return max(0, most - taken + int(files))
    return sys.maxsize


def _processes_here() -> int:
    ranks = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, int(ranks)) if ranks.isdecimal() else 1


def usable_cores() -> int:
    """Return the cores that this process may use: those of its affinity, at most its container's quota.

    Processes that `torchrun` started on this machine share them.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    quota = _quota(Path("/sys/fs/cgroup"))
    return max(1, int(min(cores, quota)) // _processes_here())


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
