"""Checkpoints of a training: whole or not at all, and enough to go on bit for bit.

Sampler, crops, masks and stochastic depth are functions of the seed and the step, so that the step is
all that must be kept of them.
"""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ssleval.core.files import DAMAGED_PICKLE
from ssleval.errors import ConfigError, WeightsError
from ssleval.train.config import TrainConfig

_FORMAT = "ssleval-training-1"


class Checkpoints:
    """The files of one run: ``last.pt``, ``best.pt`` and ``epoch_0010.pt``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def last(self) -> Path:
        """The newest."""
        return self.folder / "last.pt"

    def save(self, content: Mapping[str, Any]) -> None:
        """Write the newest."""
        write_atomically(self.last, lambda path: torch.save({"format": _FORMAT, **content}, path))

    def keep(self, name: str) -> None:
        """Keep the newest under another name too, which takes no room while they are the same."""
        write_atomically(self.folder / name, lambda path: path.hardlink_to(self.last))


def read_state(path: Path) -> dict[str, Any]:
    """Return a checkpoint, read with ``weights_only``.

    Raises:
        WeightsError: no such file, a damaged one, or not one of this program.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such checkpoint")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except DAMAGED_PICKLE as error:
        raise WeightsError(f"{path}: it cannot be read as a checkpoint ({type(error).__name__})") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise WeightsError(f"{path}: it is no checkpoint of ssleval train")
    return content


def check_same(stored: Mapping[str, Any], config: TrainConfig, path: Path) -> None:
    """Refuse to go on with other settings than those of the checkpoint.

    Raises:
        ConfigError: names the first that differs.
    """
    # A setting that is younger than the checkpoint had the value that changes nothing, its default.
    defaults = TrainConfig().to_dict()
    for section, values in config.to_dict().items():
        for name, value in values.items():
            theirs = stored.get(section, {}).get(name, defaults[section][name])
            if _plain(theirs) != _plain(value) and f"{section}.{name}" not in _FREE:
                raise ConfigError(
                    f"{path}: made with {section}.{name}={theirs}, now {value}; resume with the settings it "
                    "began with, or start in another folder"
                )


_FREE = {
    "run.log_every", "run.memory_gb", "run.checkpoint_every", "run.evaluate_every", "run.evaluate_on",
    "run.evaluate_limit", "run.shard",
}  # fmt: skip
"""Settings that change no weight."""


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a file beside ``path`` and rename it once it is on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.unlink(missing_ok=True)
    write(unfinished)
    with unfinished.open("rb") as file:
        os.fsync(file.fileno())
    unfinished.replace(path)
    # Renaming a link onto another of the same file does nothing, and leaves both.
    unfinished.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what processes that were killed left of files they had yet to rename."""
    for path in sorted(folder.glob(".*")):
        if re.fullmatch(r"\..+\.(pt|safetensors)\.\d+", path.name):
            path.unlink()


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
