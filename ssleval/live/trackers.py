"""Scores in the tools that people track experiments with: one small class each, imported when it is used.

Where their programs store is theirs to say: `WANDB_MODE=offline`, `MLFLOW_TRACKING_URI`, and so on.
"""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

from ssleval.core.registry import suggestion
from ssleval.errors import ConfigError

Values: TypeAlias = Mapping[str, float]


@runtime_checkable
class Log(Protocol):
    """What takes scores."""

    def log(self, values: dict[str, float], step: int) -> Any:
        """Take the scores of one step, by name."""
        ...


class TensorBoard:
    """Event files in a folder of their own."""

    def __init__(self, folder: Path, run: str) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        # Names of models may be paths.
        self._writer = SummaryWriter(str(folder / "tensorboard" / re.sub(r"[^\w.@+-]+", "_", run)))

    def log(self, values: Values, step: int) -> None:
        """Write scalars."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


class Wandb:
    """The run of Weights & Biases that the program has begun, or one of its own."""

    def __init__(self, folder: Path, run: str) -> None:  # noqa: ARG002
        import wandb  # pyright: ignore[reportMissingImports]

        self._own = wandb.run is None
        self._run: Any = wandb.init(project="ssleval", name=run or None) if self._own else wandb.run
        # Its own counter only grows, and drops what comes late. Scores have an axis of theirs.
        self._run.define_metric("ssleval/step", hidden=True)
        self._run.define_metric("ssleval/*", step_metric="ssleval/step")

    def log(self, values: Values, step: int) -> None:
        """Add the scores to the row that is being filled, or to one that is complete."""
        named = {f"ssleval/{name}": value for name, value in values.items()}
        self._run.log({**named, "ssleval/step": step}, commit=self._own)

    def close(self) -> None:
        """End the run, if it is its own."""
        if self._own:
            self._run.finish()


class Mlflow:
    """The run of MLflow that the program has begun, or one of its own."""

    def __init__(self, folder: Path, run: str) -> None:  # noqa: ARG002
        self._mlflow = mlflow = _library("mlflow")
        self._own = mlflow.active_run() is None
        active: Any = mlflow.start_run(run_name=run or None) if self._own else mlflow.active_run()
        self._id: str = active.info.run_id

    def log(self, values: Values, step: int) -> None:
        """Log metrics; characters that their names may not have become ``-``."""
        named = {re.sub(r"[^\w\-. :/]", "-", name): value for name, value in values.items()}
        self._mlflow.log_metrics(named, step=step, run_id=self._id)

    def close(self) -> None:
        """End the run, if it is its own."""
        if self._own:
            self._mlflow.end_run()


class Trackio:
    """The run of trackio that the program has begun, or one of its own."""

    def __init__(self, folder: Path, run: str) -> None:  # noqa: ARG002
        trackio, active = _library("trackio"), _trackio_run()
        self._own = active is None
        self._run: Any = (
            trackio.init(project="ssleval", name=run or None, embed=False) if self._own else active
        )

    def log(self, values: Values, step: int) -> None:
        """Log metrics."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """End the run, if it is its own."""
        if self._own:
            self._run.finish()


class Active:
    """Every run of W&B, MLflow or trackio that the program has begun by the time scores come."""

    def log(self, values: Values, step: int) -> None:
        """Log to each of them."""
        for name, active in _ACTIVE.items():
            if name in sys.modules and active() is not None:
                _KINDS[name](Path(), "").log(values, step)


def _library(name: str) -> Any:
    return import_module(name)


def _trackio_run() -> Any:
    return _library("trackio.context_vars").current_run.get()


_KINDS: Mapping[str, Callable[[Path, str], Any]] = {
    "tensorboard": TensorBoard, "wandb": Wandb, "mlflow": Mlflow, "trackio": Trackio,
}  # fmt: skip
_ACTIVE: Mapping[str, Callable[[], Any]] = {
    "wandb": lambda: sys.modules["wandb"].run,
    "mlflow": lambda: sys.modules["mlflow"].active_run(),  # noqa: PLW0108
    "trackio": _trackio_run,
}


def check_trackers(names: Sequence[str]) -> None:
    """Refuse, by a ConfigError, the name of a tool that is unknown or not installed."""
    for name in names:
        if name not in _KINDS:
            raise ConfigError(f"log {name!r}: {suggestion(name, _KINDS)}")
        if find_spec(name) is None:
            raise ConfigError(f"log {name!r}: it is not installed; pip install {name}")


def tracker(name: str, folder: Path, run: str) -> Any:
    """Return what logs to one tool by name; ``run`` names what is begun there, in ``folder`` if in files."""
    check_trackers([name])
    return _KINDS[name](folder, run)


def trackers(log: Any, folder: Path) -> tuple[Log, ...]:
    """Return what logs to all of ``log``: names of tools, ``active``, and objects with a method ``log``."""
    several = [log] if isinstance(log, str) or hasattr(log, "log") else list(log)
    made: list[Log] = []
    for one in several:
        if isinstance(one, str):
            made.append(Active() if one == "active" else tracker(one, folder, ""))
        elif isinstance(one, Log):
            made.append(one)
        else:
            raise ConfigError(f"log: a {type(one).__name__} has no method log(dict, step)")
    return tuple(made)
