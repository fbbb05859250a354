"""What ran where: recorded in every result, part of no key."""

import os
import platform
import re
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = (
    "ssleval", "torch", "torchvision", "timm", "open_clip_torch", "transformers", "numpy", "pillow",
    "faiss-cpu",
)  # fmt: skip
"""Those whose version may move a score in its last digits."""


@cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages a score may depend on."""
    installed = dict.fromkeys(PACKAGES, "absent")
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            installed[name] = version(name)
    return {"python": platform.python_version(), **installed}


def hardware(device: str) -> dict[str, str]:
    """Return the processor, its cores and the accelerator that ``device`` names."""
    machine = {"cpu": _cpu(), "cores": str(os.cpu_count()), "device": device, "system": platform.system()}
    gpu = {"gpu": torch.cuda.get_device_name(device)} if device.startswith("cuda") else {}
    return machine | gpu


@cache
def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.exists() else ""
    name = re.search(r"^model name.*?:(.*)$", text, re.MULTILINE)
    return name[1].strip() if name else platform.processor() or platform.machine()
