"""Scores in the tools that people track experiments with: one function each, which imports the tool.

Where their programs store is theirs to say: `WANDB_MODE=offline`, `MLFLOW_TRACKING_URI`, and so on.
"""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Tool:
    """One run of a tool."""

    log: Callable[..., Any]
    """Takes the scores of one ``step``, by name."""
    close: Callable[[], object]
    """Ends the run, unless the program has begun it."""


def _tensorboard(folder: Path, run: str) -> Tool:
    from torch.utils.tensorboard.writer import SummaryWriter

    # Names of models may be paths.
    writer = SummaryWriter(str(folder / "tensorboard" / re.sub(r"[^\w.@+-]+", "_", run)))

    def log(values: Values, step: int) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return Tool(log, writer.close)


def _wandb(_: Path, name: str) -> Tool:
    own = (run := _BEGUN["wandb"]()) is None
    run = import_module("wandb").init(project="ssleval", name=name or None) if own else run
    # Its own counter only grows, and drops what comes late. Scores have an axis of theirs.
    run.define_metric("ssleval/step", hidden=True)
    run.define_metric("ssleval/*", step_metric="ssleval/step")

    def log(values: Values, step: int) -> None:
        named = {f"ssleval/{name}": value for name, value in values.items()}
        # The row of a run of the program is still being filled.
        run.log({**named, "ssleval/step": step}, commit=own)

    return Tool(log, run.finish if own else _leave)


def _mlflow(_: Path, name: str) -> Tool:
    own, mlflow = (run := _BEGUN["mlflow"]()) is None, import_module("mlflow")
    identity: str = (mlflow.start_run(run_name=name or None) if own else run).info.run_id

    def log(values: Values, step: int) -> None:
        # Names may not have other characters.
        named = {re.sub(r"[^\w\-. :/]", "-", name): value for name, value in values.items()}
        mlflow.log_metrics(named, step=step, run_id=identity)

    return Tool(log, mlflow.end_run if own else _leave)


def _trackio(_: Path, name: str) -> Tool:
    own, trackio = (run := _BEGUN["trackio"]()) is None, import_module("trackio")
    run = trackio.init(project="ssleval", name=name or None, embed=False) if own else run

    def log(values: Values, step: int) -> None:
        run.log(dict(values), step=step)

    return Tool(log, run.finish if own else _leave)


def _leave() -> None:
    pass


_TOOLS: Mapping[str, Callable[[Path, str], Tool]] = {
    "tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow, "trackio": _trackio,
}  # fmt: skip
_BEGUN: Mapping[str, Callable[[], Any]] = {
    "wandb": lambda: import_module("wandb").run,
    "mlflow": lambda: import_module("mlflow").active_run(),
    "trackio": lambda: import_module("trackio.context_vars").current_run.get(),  # noqa: PLW0108
}
"""Return the run that the program has begun."""


class Active:
    """Every run of W&B, MLflow or trackio that the program has begun by the time scores come."""

    def log(self, values: Values, step: int) -> None:
        """Log to each of them."""
        for name, begun in _BEGUN.items():
            if name in sys.modules and begun() is not None:
                _TOOLS[name](Path(), "").log(values, step)


def check_trackers(names: Sequence[str]) -> None:
    """Refuse, by a ConfigError, the name of a tool that is unknown or not installed."""
    for name in names:
        if name not in _TOOLS:
            raise ConfigError(f"log {name!r}: {suggestion(name, _TOOLS)}")
        if find_spec(name) is None:
            raise ConfigError(f"log {name!r}: it is not installed; pip install {name}")


def tracker(name: str, folder: Path, run: str) -> Tool:
    """Return what logs to one tool by name; ``run`` names what is begun there, in ``folder`` if in files."""
    check_trackers([name])
    return _TOOLS[name](folder, run)


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
