"""A model in training, evaluated between two steps as `ssleval run` would evaluate its checkpoint."""

import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

from torch import distributed, nn

from ssleval.backbones.wrapped import wrap as wrapped
from ssleval.core import Context, DatasetOptions
from ssleval.core.backbone import WRAP, Backbone
from ssleval.errors import ConfigError, SslevalError
from ssleval.features import FeatureSource, KeptImages, MemorySource, alone
from ssleval.live.jsonlines import JsonLines
from ssleval.live.trackers import Log, trackers
from ssleval.live.untouched import untouched
from ssleval.results import Result, Score
from ssleval.run.measure import jobs_on, measure

Wrap: TypeAlias = Callable[[Any], nn.Module] | Mapping[str, Any]


class Evaluator:
    """Some tasks on one dataset, for a module whose weights change: ``evaluator(step, module)``.

    Scores are those that `ssleval run` gives for the same weights, to the bit. The module keeps the mode of
    every part, gradients, buffers and device; python, numpy and torch go on with the random numbers they
    would have drawn. Of several processes the first evaluates, the others return at once.
    """

    def __init__(
        self,
        tasks: str | Sequence[str] = ("knn", "spectrum"),
        dataset: str = "scenes",
        *,
        jsonl: Path | str | None,
        every: int = 1,
        wrap: Wrap | None = None,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        limit: int | None = None,
        options: DatasetOptions | None = None,
        context: Context | None = None,
        log: str | Log | Sequence[str | Log] = "active",
        memory_gb: float = 2.0,
        store: Path | str | None = None,
        errors: Literal["raise", "warn"] = "raise",
    ) -> None:
        """Open the dataset and refuse tasks that it cannot serve; no image is read yet.

        Args:
            tasks: task names; any task of `ssleval ls tasks` that suits the model.
            dataset: a registered name or ``source:location``.
            jsonl: file that gets a line for each evaluation; lines that it holds are kept. None: scores are
                only returned and logged.
            every: steps between evaluations: at steps 0, ``every``, ... Of a loop that leaves steps out, at
                the first step after each of these.
            wrap: what makes a backbone of the module: keywords of `ssleval.wrap`, or a function that is given
                the module. None: the module is a backbone of ssleval.
            settings: fields of tasks in place of their defaults, ``{"knn": {"temperature": 0.1}}``.
            limit: keep this many images of every split.
            options: where data lies and how it is fingerprinted.
            context: precision, batch size and the like; the device is that of the module.
            log: ``tensorboard``, ``wandb``, ``mlflow``, ``trackio``, objects with ``log(dict, step)``, or
                several of these. ``active``: the runs of W&B, MLflow and trackio that the program has begun.
            memory_gb: how much memory decoded images may take; those beyond are decoded each time.
            store: folder of a feature store. Features are then written there, and nothing is kept in memory.
            errors: whether what is wrong with the model is raised, or warned of and written to ``jsonl``, so
                that the training goes on.

        Raises:
            SslevalError: anything the caller can mend; the message says what and how.
        """
        if every < 1:
            raise ConfigError(f"every={every}: steps between evaluations, at least 1")
        if not 0 <= memory_gb < float("inf"):
            raise ConfigError(f"memory_gb={memory_gb}: gigabytes for decoded images, 0 or more")
        with alone():
            self._jobs = jobs_on(dataset, tasks, settings or {}, limit, options or DatasetOptions())
        self.every = every
        self._wrap = wrap
        self._context = context
        self._images = KeptImages(int(memory_gb * 1e9))
        self._store = None if store is None else Path(store)
        self._warns = errors == "warn"
        self._seen: int | None = None
        leads = _leads()
        self._lines = JsonLines(Path(jsonl)) if jsonl is not None and leads else None
        folder = Path("ssleval") if jsonl is None else Path(jsonl).with_suffix("")
        self._logs = trackers(log, folder) if leads else ()

    def __call__(self, step: int, module: nn.Module) -> dict[str, float] | None:
        """Return the scores by ``TASK/DATASET/METRIC``, written and logged; None where none are due.

        None also in processes other than the first, and where an error was warned of.
        """
        if not self._due(step) or not _leads():
            return None
        started = time.perf_counter()
        try:
            results = self.measure(module)
        except SslevalError as error:
            if not self._warns:
                raise
            self._write({"step": step, "error": str(error)})
            warnings.warn(f"step {step}: not evaluated: {error}", stacklevel=2)
            return None
        values = scores(results)
        self._write(_line(step, results, time.perf_counter() - started))
        for log in self._logs:
            log.log(values, step=step)
        return values

    def measure(self, module: nn.Module) -> list[Result]:
        """Return the result of every task for a module as it is now; write and log nothing."""
        module = _unwrapped(module)
        with untouched(module), alone():
            backbone = self._backbone(module)
            device = str(backbone.mean.device)
            # Chosen here: how many processes decode depends on the device.
            context = replace(self._context or Context(device=device), device=device, progress=False)
            source_of: Any = partial(MemorySource, images=self._images)
            if self._store is not None:
                source_of, context = FeatureSource, replace(context, cache=self._store)
            return list(measure(backbone, self._jobs, context, None, source_of=source_of))

    def _due(self, step: int) -> bool:
        before, self._seen = self._seen, step
        if before is None or step < before:
            return step % self.every == 0
        return step // self.every > before // self.every

    def _backbone(self, module: nn.Module) -> Backbone:
        wrap: Any = self._wrap
        wrap = partial(wrapped, **wrap) if isinstance(wrap, Mapping) else wrap
        made: Any = module if wrap is None else wrap(module)
        if not isinstance(made, Backbone):
            what = "module" if wrap is None else "wrap(module)"
            raise ConfigError(
                f"{what} is a {type(made).__name__}, {WRAP}, or give these numbers as wrap=dict(...)"
            )
        _refuse_spread(made)
        made.forget_hashes()
        return made

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._lines is not None:
            self._lines.write(line)


def scores(results: Sequence[Result]) -> dict[str, float]:
    """Return the scores of results by ``TASK/DATASET/METRIC``."""
    return {name: score.value for name, score in _named(results)}


def _named(results: Sequence[Result]) -> list[tuple[str, Score]]:
    return [
        (f"{result.task}/{result.dataset}/{name}", score)
        for result in results
        for name, score in result.metrics.items()
    ]


def _line(step: int, results: Sequence[Result], seconds: float) -> dict[str, Any]:
    known = {
        name: {"value": score.value, "ci95": list(score.ci95), "n": score.n}
        for name, score in _named(results)
    }
    first = results[0]
    return {
        "step": step,
        "model": first.model,
        "weights_sha256": first.weights_sha256,
        "seconds": round(seconds, 3),
        "scores": known,
    }


def _leads() -> bool:
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank() == 0
    return os.environ.get("RANK", "0") == "0"


def _unwrapped(module: Any) -> nn.Module:
    """Return the module within those that train it: their forward passes wait for other processes."""
    while isinstance(module, nn.parallel.DistributedDataParallel | nn.DataParallel):
        module = module.module
    if not isinstance(module, nn.Module):
        raise ConfigError(f"evaluator(step, module): module is a {type(module).__name__}, no torch module")
    return module


def _refuse_spread(backbone: Backbone) -> None:
    """Refuse weights that are not whole on one device."""
    tensors = [*backbone.parameters(), *backbone.buffers()]
    devices = sorted({str(tensor.device) for tensor in tensors})
    sharded = any(hasattr(tensor, "full_tensor") for tensor in tensors)
    if len(devices) > 1 or sharded:
        where = "shared out among processes" if sharded else f"on {', '.join(devices)}"
        raise ConfigError(
            f"{backbone.card.name}: its weights are {where}; give evaluator a whole copy on one device"
        )
