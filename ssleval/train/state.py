"""Checkpoints of a training run, written atomically, from which it resumes bit for bit.

Sampler, crops, masks and stochastic depth are functions of the seed and the step, so that a checkpoint
holds the step in place of their random states.
"""

import re
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError

from ssleval.core.files import DAMAGED_PICKLE, write_atomically
from ssleval.errors import ConfigError, DataError, WeightsError
from ssleval.train.config import TrainConfig, from_dict

_FORMAT = "ssleval-training-1"
_FREE = {
    "run.log_every", "run.memory_gb", "run.checkpoint_every", "run.evaluate_every", "run.evaluate_on",
    "run.evaluate_limit", "run.shard",
}  # fmt: skip
"""Settings that a resumed run may change, because they do not affect the weights."""


class Checkpoints:
    """The checkpoint files of a run: ``last.pt``, ``best.pt`` and ``epoch_0010.pt``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.last = folder / "last.pt"

    def save(self, content: Mapping[str, Any]) -> None:
        """Write ``last.pt``."""
        with writing(self.last):
            write_atomically(self.last, lambda path: torch.save({"format": _FORMAT, **content}, path))

    def keep(self, name: str) -> None:
        """Keep ``last.pt`` under another name, as a hard link: it takes no space at first."""

        def link(path: Path) -> None:
            path.unlink(missing_ok=True)
            path.hardlink_to(self.last)

        with writing(self.folder / name):
            write_atomically(self.folder / name, link)


@contextmanager
def writing(path: Path) -> Generator[None]:
    """Turn whatever a full disk makes writers raise into a DataError that names the file.

    Raises:
        DataError: the disk is full, over quota or read-only.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        # Of a write that was cut short, torch and safetensors tell the place but not the reason.
        reason = getattr(error, "strerror", None) or "it could not be written whole; is the disk full?"
        raise DataError(f"{path}: {reason}; what was there before is kept") from error


@contextmanager
def only_training(out: Path, note: Callable[[str], None]) -> Generator[None]:
    """Refuse to train into ``out`` while another process does; a process that ends, however, gives it free.

    Raises:
        ConfigError: another training writes into ``out``.
    """
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / ".training.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(
            f"{out}: another training is writing into it; wait for its end, or choose another --out (if "
            f"there is none, remove {lock.lock_file})"
        ) from None
    except (OSError, NotImplementedError) as error:
        note(f"{out}: it cannot be locked ({error}); let no other training write into it")
    try:
        yield
    finally:
        lock.release()


def read_state(path: Path) -> dict[str, Any]:
    """Return a checkpoint, read with ``weights_only``; refuse a file that is damaged or no checkpoint."""
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
    """Refuse to resume with other settings than those of the checkpoint; name the first that differs."""
    # Older checkpoints lack newer settings, whose defaults change nothing.
    theirs = from_dict(stored).to_dict()
    for section, values in config.to_dict().items():
        for name, value in values.items():
            if (before := theirs[section][name]) != value and f"{section}.{name}" not in _FREE:
                raise ConfigError(
                    f"{path}: made with {section}.{name}={before}, now {value}; resume with the settings it "
                    "began with, or start in another folder"
                )


def remove_drafts(folder: Path) -> None:
    """Remove the temporary files of processes that were killed before they renamed them."""
    for path in sorted(folder.glob(".*")):
        if re.fullmatch(r"\..+\.(pt|safetensors)\.\w+", path.name):
            path.unlink()
