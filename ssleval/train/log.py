"""The record of a run: one JSON line for every step, and TensorBoard events where that is installed."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed

from ssleval.errors import DivergedError
from ssleval.train.schedules import Rates


class Log:
    """``log.jsonl``: steps and evaluations, in order; steps are read from the device some at a time."""

    def __init__(self, folder: Path, *, start: int, leads: bool, note: Callable[[str], None]) -> None:
        self.path = folder / "log.jsonl"
        self._leads = leads
        self._waiting: list[tuple[dict[str, Any], list[str], Tensor]] = []
        self._board: Any = None
        if leads:
            # What a killed run recorded beyond its last checkpoint will be done and recorded again.
            kept = [line for line in read_log(folder) if line["step"] < start]
            self.path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
            self._board = _board(folder, start, note)

    def record(self, step: int, epoch: int, terms: Mapping[str, Tensor], rates: Rates) -> None:
        """Remember the terms of one step without waiting for the device."""
        values = torch.stack([value.float() for value in terms.values()])
        self._waiting.append(({"step": step, "epoch": epoch, **asdict(rates)}, list(terms), values))

    def flush(self, images_per_second: float) -> dict[str, Any]:
        """Write what was remembered; return the newest line.

        Values are means over processes.

        Raises:
            DivergedError: a term is not finite; everything up to that step is written.
        """
        newest: dict[str, Any] = {}
        for line, names, values in self._waiting:
            found = dict(zip(names, _mean(values).tolist(), strict=True))
            bad = [name for name, value in found.items() if not isfinite(value)]
            if bad:
                self._waiting.clear()
                raise DivergedError(
                    f"step {line['step']}: {', '.join(f'{name} is {found[name]}' for name in bad)}; the last "
                    "checkpoint is from before; resume with a lower learning rate, or fp32"
                )
            losses = [value for name, value in found.items() if name in ("dino", "ibot", "koleo")]
            newest = {**line, "loss": sum(losses), **found, "images_per_second": round(images_per_second, 2)}
            self._write(newest)
        self._waiting.clear()
        return newest

    def evaluation(self, step: int, epoch: int, scores: Mapping[str, Mapping[str, Any]]) -> None:
        """Write the scores of one evaluation."""
        self._write({"step": step, "epoch": epoch, "evaluation": dict(scores)})

    def has_evaluation(self, step: int) -> bool:
        """Return whether the teacher after ``step`` was evaluated."""
        return any(line["step"] == step for line in self._evaluations())

    def best_evaluation(self) -> int | None:
        """Return the step whose evaluation leads, by its first score; the earliest of equals."""
        best = max(self._evaluations(), key=lambda line: _leading(line["evaluation"]), default=None)
        return None if best is None else int(best["step"])

    def _evaluations(self) -> list[dict[str, Any]]:
        return [line for line in read_log(self.path.parent) if "evaluation" in line]

    def _write(self, line: Mapping[str, Any]) -> None:
        if not self._leads:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self._board is not None:
            for name, value in line.items():
                if isinstance(value, int | float) and name not in {"step", "epoch"}:
                    self._board.add_scalar(name, value, line["step"])
            self._board.flush()


def _leading(scores: Mapping[str, Mapping[str, Any]]) -> float:
    return float(next(iter(scores.values()))["value"])


def _mean(values: Tensor) -> Tensor:
    if not distributed.is_initialized():
        return values
    distributed.all_reduce(values)
    return values / distributed.get_world_size()


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's log; a last one that a killed process wrote by half is left out."""
    path = folder / "log.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _board(folder: Path, start: int, note: Callable[[str], None]) -> Any:
    if find_spec("tensorboard") is None:
        note("no TensorBoard events: tensorboard is not installed (log.jsonl has everything)")
        return None
    from torch.utils.tensorboard.writer import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"), purge_step=start)
