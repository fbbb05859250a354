"""Dry runs price what tasks do beyond extraction: here of a task whose cost is known."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ssleval.core import Context, Dataset, DatasetCard, FeatureRequest, Metric, Samples
from ssleval.core.backbone import Similarity
from ssleval.core.settings import Count
from ssleval.core.task import Inputs, Task
from ssleval.errors import DataError
from ssleval.features import FeatureSource
from ssleval.features.rehearsal import Watched, made_up
from ssleval.metrics.stats import mean_of
from ssleval.run import rehearse
from ssleval.run.jobs import Job
from ssleval.run.measure import Plan
from tests.features.feature_fakes import POOLED, Tiny, split_of

CLOCK = [0.0]
"""Seconds of a clock that only the task below moves."""


@dataclass(frozen=True)
class Known(Task):
    """Takes 3 s, 0.01 s a scored image, 0.2 s an iteration, 0.001 s a training image; sees images twice."""

    iterations: Count = 500
    fewest: Count = 1
    """Scored images without which there is no score."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return (Metric("number", mean_of("number")),)

    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        return tuple(
            FeatureRequest(dataset, *rest) for rest in (("test", None, ()), ("train", None, (POOLED,)))
        )

    def amounts(self, dataset: Dataset) -> dict[str, tuple[int, int]]:
        train = dataset.card.lengths["train"]
        return {**super().amounts(dataset), "iterations": (1, self.iterations), "train": (4, train)}

    def evaluate(self, inputs: Inputs) -> Samples:
        count = len(inputs.test_split)
        if count < self.fewest:
            raise DataError("too few")
        features = inputs.source.load(inputs.requests[1])[POOLED]
        CLOCK[0] += 3 + 0.01 * count + 0.2 * self.iterations + 0.001 * len(features)
        for _ in range(count):
            inputs.backbone(torch.zeros(2, 3, 8, 8))
        return Samples(inputs.test_split.ids, {"number": np.zeros(count)})


def plan(task: Task, test: int = 400, train: int = 900, target: str = "none") -> Plan:
    lengths = {"test": test, "train": train}
    card = DatasetCard("noise", target=target, lengths=lengths)  # pyright: ignore[reportArgumentType]
    data = Dataset(card, lambda name: split_of(lengths[name]))
    return Plan(Job("known", task, "noise", data), task.requests(data), (), {}, "")


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FeatureSource:
    monkeypatch.setattr("time.perf_counter", lambda: CLOCK[0])
    return FeatureSource(Tiny(), Context(cache=tmp_path, progress=False))


@pytest.mark.parametrize("target", ["none", "video"])
@pytest.mark.parametrize("fewest", [1, 3, 400])
def test_the_price_of_a_task_is_extrapolated_from_each_of_its_amounts(
    fewest: int, target: str, source: FeatureSource
) -> None:
    cost = rehearse.rehearse(plan(Known(fewest=fewest), target=target), source)
    assert cost.seconds == pytest.approx(3 + 0.01 * 400 + 0.2 * 500 + 0.001 * 900)
    assert (cost.images, cost.forwards) == (pytest.approx(800), pytest.approx(400))
    assert not (source.context.cache / "features").exists()


def test_a_whole_that_is_small_is_run_and_not_extrapolated(source: FeatureSource) -> None:
    cost = rehearse.rehearse(plan(Known(iterations=1), test=2, train=3), source)
    assert (cost.seconds, cost.images) == (pytest.approx(3 + 0.02 + 0.2 + 0.003), 4)


@dataclass(frozen=True)
class Looking(Known):
    """Looks at every scored image three times."""

    def amounts(self, dataset: Dataset) -> dict[str, tuple[int, int]]:
        amounts = super().amounts(dataset)
        return {**amounts, "test": (1, 3 * dataset.card.lengths["test"])}


def test_more_images_than_there_are_are_extrapolated(source: FeatureSource) -> None:
    cost = rehearse.rehearse(plan(Looking(), test=20), source)
    assert cost.seconds == pytest.approx(3 + 0.01 * 60 + 0.2 * 500 + 0.001 * 900)
    assert cost.images == pytest.approx(120)


def test_an_error_of_the_whole_is_an_error_of_its_price(source: FeatureSource) -> None:
    with pytest.raises(DataError, match="too few"):
        rehearse.rehearse(plan(Known(fewest=401)), source)


def test_images_that_are_each_others_answers_are_not_parted() -> None:
    card = DatasetCard("g", target="groups", lengths={"all": 70}, train_split="all", test_split="all")
    assert Task.amounts(Known(), Dataset(card, lambda _: split_of(70))) == {"test": (70, 70)}


def test_features_that_are_stored_are_used_and_others_look_like_classes(tmp_path: Path) -> None:
    labels = np.arange(60) % 3
    split = replace(split_of(60), targets=labels)
    card = DatasetCard("noise", class_names=tuple("abc"), lengths={"train": 60})
    whole = FeatureRequest(Dataset(card, lambda _: split), "train", None, (POOLED,))
    half = split.subset(np.arange(0, 60, 2))
    part = replace(whole, dataset=Dataset(replace(card, lengths={"train": 30}), lambda _: half))
    source = FeatureSource(Tiny(), Context(cache=tmp_path, progress=False))
    drawn = source.rehearsal([whole]).load(part)[POOLED]
    means = np.stack([drawn[half.targets == label].mean(axis=0) for label in range(3)])
    assert drawn.shape == (30, 8)
    assert means[:, 0].std() > 2 * means[:, -1].std()
    source.prepare([whole])
    stored, table = source.rehearsal([whole]).load(part), source.load(whole)
    assert np.array_equal(stored[POOLED], table[POOLED][::2])
    assert list(stored.ids) == list(half.ids)


def test_rows_are_made_up_in_little_memory_and_differ() -> None:
    rows = made_up(1_000_000, (4, 4, 96), "float16")
    assert (rows.shape, rows.dtype) == ((1_000_000, 4, 4, 96), np.dtype("float16"))
    assert rows.base is not None
    few = np.asarray(rows[[0, 1, 2, 999_999]], np.float32).reshape(4, -1)
    assert np.abs(np.corrcoef(few) - np.eye(4)).max() < 0.15
    assert few.std() == pytest.approx(1, abs=0.05)


def test_of_many_texts_some_are_embedded_and_the_others_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Texts(Tiny):
        def encode_text(self, texts: Sequence[str]) -> torch.Tensor:
            CLOCK[0] += 0.5 * len(texts)
            return torch.zeros(len(texts), 8)

        def similarity(self) -> Similarity:
            return Similarity(7.0)

    monkeypatch.setattr("time.perf_counter", lambda: CLOCK[0])
    watched, before = Watched(Texts()), CLOCK[0]
    shapes = {tuple(watched.encode_text(["a"] * 4).shape) for _ in range(100)}
    assert (shapes, watched.similarity()) == ({(4, 8)}, Similarity(7.0))
    assert CLOCK[0] - before + watched.skipped_seconds == pytest.approx(200)
    assert CLOCK[0] - before < 5


def test_what_goes_through_a_watched_model_is_counted_and_unchanged() -> None:
    inner = Tiny().eval()
    watched, images = Watched(inner), torch.rand(3, 3, 16, 16)
    own, seen = inner(images, (-1, 0)), watched(images, (-1, 0))
    assert torch.equal(own.pooled, seen.pooled)
    assert torch.equal(own.blocks[1].patches, seen.blocks[1].patches)
    assert (watched.images, watched.forwards) == (3, 1)
