"""Write the log of a run: JSON lines, and TensorBoard events where tensorboard is installed."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssleval.core.files import write_text_atomically
from ssleval.errors import DivergedError
from ssleval.train.logfile import LOSSES, read_log
from ssleval.train.processes import sum_over_processes, world_size
from ssleval.train.schedules import Rates
from ssleval.train.state import writing

_SAID = ("loss", *LOSSES, "information", "projection_spread", "gradient_norm")


class Log:
    """``log.jsonl``: steps and evaluations in order. Step values stay on the device until `flush`."""

    def __init__(
        self, folder: Path, *, start: int, leads: bool, note: Callable[[str], None], skips_steps: bool = False
    ) -> None:
        self.path = folder / "log.jsonl"
        self.newest: dict[str, Any] = {}
        """The newest value of everything."""
        self._leads = leads
        self._skips_steps = skips_steps
        """Whether steps with infinite gradients are left out, as under fp16, and spoil no weights."""
        self._waiting: list[tuple[dict[str, Any], list[str], Tensor]] = []
        self._board: Any = None
        if leads:
            # A killed run may have logged steps after its last checkpoint. They are repeated.
            kept = "".join(json.dumps(line) + "\n" for line in read_log(folder) if line["step"] < start)
            if not self.path.is_file() or self.path.read_text(encoding="utf-8") != kept:
                with writing(self.path):
                    write_text_atomically(self.path, kept)
            self._board = _board(folder, start, note)

    def record(self, step: int, epoch: int, terms: Mapping[str, Tensor], rates: Rates) -> None:
        """Keep the terms of one step without waiting for the device."""
        values = torch.stack([value.float() for value in terms.values()])
        self._waiting.append(({"step": step, "epoch": epoch, **asdict(rates)}, list(terms), values))

    def flush(self, images_per_second: float) -> dict[str, Any]:
        """Write the recorded steps, averaged over processes; return the newest line.

        Raises:
            DivergedError: a term is not finite; the steps before it are written.
        """
        newest: dict[str, Any] = {}
        for line, names, values in self._waiting:
            means = (sum_over_processes(values) / world_size()).tolist()
            terms = dict(zip(names, means, strict=True))
            if self._skips_steps and not isfinite(terms.get("gradient_norm", 0.0)):
                del terms["gradient_norm"]
            if bad := [f"{name} is {value}" for name, value in terms.items() if not isfinite(value)]:
                self._waiting.clear()
                raise DivergedError(
                    f"step {line['step']}: {', '.join(bad)}; the last checkpoint is from before; --resume "
                    "with a lower optim.lr, or --precision fp32"
                )
            loss = sum(value for name, value in terms.items() if name in LOSSES)
            newest = {**line, "loss": loss, **terms, "images_per_second": round(images_per_second, 2)}
            self._write(newest)
        self._waiting.clear()
        self.newest |= newest
        return newest

    def detail(self, *, short: bool) -> str:
        """Return the newest losses and what is watched beside them, for people."""
        terms = ("loss", "gradient_norm") if short else _SAID
        said = [name for name in terms if name in self.newest]
        return ", ".join(f"{name.replace('_', ' ')} {self.newest[name]:.4g}" for name in said)

    def event(self, step: int, epoch: int, name: str, content: Any) -> None:
        """Write a line about something else than a step, before ``step``."""
        self._write({"step": step, "epoch": epoch, name: content})

    def evaluation(self, step: int, epoch: int, scores: Mapping[str, Mapping[str, Any]]) -> None:
        """Write the scores of one evaluation."""
        self._write({"step": step, "epoch": epoch, "evaluation": scores})

    def evaluated(self) -> dict[int, float]:
        """Return the first score of every evaluation, by its step, earliest first."""
        lines = [line for line in read_log(self.path.parent) if "evaluation" in line]
        return {line["step"]: next(iter(line["evaluation"].values()))["value"] for line in lines}

    def _write(self, line: Mapping[str, Any]) -> None:
        if not self._leads:
            return
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self._board is not None:
            with writing(self.path.with_name("tensorboard")):
                for name, value in line.items():
                    if isinstance(value, int | float) and name not in {"step", "epoch"}:
                        self._board.add_scalar(name, value, line["step"])
                self._board.flush()


def _board(folder: Path, start: int, note: Callable[[str], None]) -> Any:
    if find_spec("tensorboard") is None:
        note("no TensorBoard events: tensorboard is not installed (log.jsonl has everything)")
        return None
    from torch.utils.tensorboard.writer import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"), purge_step=start)
