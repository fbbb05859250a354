"""Checkpoints of a training run, written atomically, from which it resumes bit for bit.

Sampler, crops, masks and stochastic depth are functions of the seed and the step, so that a checkpoint
holds the step in place of their random states.
"""

import re
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError

from ssleval.core.files import DAMAGED_PICKLE, write_atomically
from ssleval.errors import ConfigError, DataError, WeightsError
from ssleval.train.config import TrainConfig, from_dict

_FORMAT = "ssleval-training-1"
_FREE = {
    "run.log_every", "run.memory_gb", "run.checkpoint_every", "run.evaluate_every", "run.evaluate_on",
    "run.evaluate_limit", "run.shard", "run.save_steps", "run.save_minutes",
}  # fmt: skip
"""Settings that a resumed run may change, because they do not affect the weights."""
_RECORDED = {
    "optim.lr", "optim.min_lr", "optim.warmup_epochs", "optim.freeze_last_layer_epochs", "optim.clip",
    "loss.warmup_teacher_temp_epochs", "run.precision", "run.residual", "run.accumulate", "run.compile",
    "run.pack", "run.gradient_checkpointing", "run.tf32",
}  # fmt: skip
"""Settings that it may change too, as after a loss that was not finite; the log says so."""


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

    def remove_drafts(self) -> None:
        """Remove the temporary files of processes that were killed before they renamed them, models too."""
        for path in [*self.folder.glob(".*"), *self.folder.parent.glob(".*")]:
            if re.fullmatch(r"\..+\.(pt|safetensors)\.\w+", path.name):
                path.unlink()


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


def read_ids(path: Path) -> list[list[str]] | None:
    """Return the images that a run began with; None if it is of a version that did not write them down.

    Raises:
        DataError: the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[list[str]])
    except (msgspec.DecodeError, OSError) as error:
        raise DataError(f"{path}: damaged ({error}); remove it to resume with the same images") from error


def changes(stored: Mapping[str, Any], config: TrainConfig, path: Path) -> dict[str, list[Any]]:
    """Return the settings, before and now, that a resumed run changes; refuse those that must stay."""
    # Older checkpoints lack newer settings, whose defaults change nothing, but for this one in 16 bits.
    stored = {**stored, "run": {"residual": "computed", **stored.get("run", {})}}
    theirs, changed = from_dict(stored).settings(), dict[str, list[Any]]()
    in_fp32 = config.run.precision == theirs["run.precision"] == "fp32"
    for name, value in config.settings().items():
        if (before := theirs[name]) == value or name in _FREE or (name == "run.residual" and in_fp32):
            continue
        if name not in _RECORDED:
            raise ConfigError(
                f"{path}: made with {name}={before}, now {value}; resume with the settings it began with, or "
                "start in another folder"
            )
        changed[name] = [before, value]
    return changed
