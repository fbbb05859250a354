"""A source of features that were never extracted: class blobs in memory, for tests of tasks."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from ssleval.core import (
    BackboneCard,
    Context,
    Dataset,
    DatasetCard,
    FeatureRequest,
    FeatureTable,
    RandomView,
    Readout,
    Samples,
    Split,
)
from ssleval.core.backbone import Backbone, Features
from ssleval.core.task import Inputs, Source, Task, refuse_dataset
from ssleval.features import FeatureSource, live
from tests.features.rank_threads import in_ranks

CONTEXT = Context(progress=False)


class _Unrun(Backbone):
    def __init__(self, width: int) -> None:
        super().__init__(BackboneCard("m", "test", "m", width, 4), num_blocks=12)

    def extract(self, images: Tensor, blocks: Sequence[int], *, norm: bool) -> Features:
        raise AssertionError("the model was run")


@dataclass
class Tables:
    """Answers requests with `features(readout, split)`, and remembers them."""

    targets: dict[str, np.ndarray]
    features: Callable[[Readout, str], np.ndarray]
    width: int = 8
    jitter: float = 0.3
    """How far an augmented view lies from its image."""
    asked: list[FeatureRequest] = field(default_factory=list[FeatureRequest])

    @property
    def backbone(self) -> Backbone:
        return _Unrun(self.width)

    def load(self, request: FeatureRequest) -> FeatureTable:
        self.asked.append(request)
        count = len(self.targets[request.split])
        arrays = {readout: self.features(readout, request.split) for readout in request.readouts}
        if isinstance(view := request.geometry, RandomView):
            moved = np.random.default_rng([view.index, view.seed])
            arrays = {
                readout: array + np.float32(self.jitter) * moved.standard_normal(array.shape, np.float32)
                for readout, array in arrays.items()
            }
        return FeatureTable(
            [f"{request.split}/{i}" for i in range(count)],
            self.targets[request.split],
            arrays,
            np.arange(count),
        )


def same_in_ranks(measure: Callable[[], Samples], monkeypatch: pytest.MonkeyPatch, world: int = 3) -> None:
    """Show that several ranks get the samples of one, to the bit, and each runs the model on a part."""
    calls: list[int] = []
    for name in ("forward", "forward_pixels", "on_device"):
        monkeypatch.setattr(live, name, _noted(getattr(live, name), calls))
    alone = measure()
    whole = len(calls)
    calls.clear()
    for found in in_ranks(world, lambda _: measure()):
        assert isinstance(found, Samples), found
        assert list(found.ids) == list(alone.ids)
        assert [*found.columns] == [*alone.columns]
        assert all(found[name].tobytes() == alone[name].tobytes() for name in alone.columns)
    shares = [calls.count(thread) for thread in set(calls)]
    assert len(shares) == world
    assert sum(shares) == whole


def _noted(function: Callable[..., Any], calls: list[int]) -> Callable[..., Any]:
    def called(*arguments: Any) -> Any:
        calls.append(threading.get_ident())
        return function(*arguments)

    return called


def evaluated(task: Task, source: Source, dataset: Dataset, context: Context = CONTEXT) -> Samples:
    """Return what a task makes of a source, as the runner would have it: needs checked, resolved first."""
    refuse_dataset("task", task.needs, dataset.card)
    task = task.resolved(dataset).for_model(dataset, source.backbone.card)
    requests = task.requests(dataset)
    if isinstance(source, FeatureSource):
        source.check_needs("task", task.needs)
        source.prepare(requests)
    return task.evaluate(Inputs(source, dataset, requests, context))


def blobs(
    spread: float = 0.5, *, train: int = 60, test: int = 90, classes: int = 3, width: int = 8, seed: int = 0
) -> Tables:
    """Classes around random centres; every readout has its own; chance where ``spread`` is infinite."""
    random = np.random.default_rng(seed)
    targets = {"train": random.permutation(np.arange(train) % classes), "test": np.arange(test) % classes}

    def features(readout: Readout, split: str) -> np.ndarray:
        own = np.random.default_rng([seed, len(str(readout)), abs(readout.block), len(readout.kind)])
        centres = own.standard_normal((classes, width)) * np.isfinite(spread)
        noise = np.random.default_rng([seed, abs(readout.block), len(split), len(readout.kind)])
        scale = spread if np.isfinite(spread) else 1.0
        count = len(targets[split])
        return (centres[targets[split]] + scale * noise.standard_normal((count, width))).astype(np.float32)

    return Tables(targets, features, width)


def dataset(tables: Tables, **card: Any) -> Dataset:
    """A dataset of those targets, whose images nobody may ask for."""
    lengths = {name: len(targets) for name, targets in tables.targets.items()}
    classes = max(int(targets.max()) for targets in tables.targets.values()) + 1
    described = DatasetCard("blobs", class_names=tuple("abcdefgh"[:classes]), lengths=lengths)
    return Dataset(replace(described, **card), _closed)


def _closed(split: str) -> Split:
    raise AssertionError(f"{split} was opened")
