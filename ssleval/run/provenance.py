"""What ran where: recorded in every result, part of no key."""

import os
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = (
    "ssleval",
    "torch",
    "torchvision",
    "timm",
    "open_clip_torch",
    "transformers",
    "numpy",
    "pillow",
    "faiss-cpu",
)
"""Those whose version may move a score in its last digits."""


@cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages a score may depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


def hardware(device: str) -> dict[str, str]:
    """Return the processor, its cores and the accelerator that ``device`` names."""
    found = {"cpu": _cpu(), "cores": str(os.cpu_count()), "device": device, "system": platform.system()}
    if device.startswith("cuda"):
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


@cache
def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
