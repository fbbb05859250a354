from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from ssleval.core import BackboneCard, Context, Geometry, Readout, Samples
from ssleval.core.backbone import Backbone, Features
from ssleval.errors import ConfigError, NotApplicableError
from ssleval.features.readouts import canonical
from ssleval.heads.selection import hold_out
from ssleval.tasks.curves import Curves
from tests.tasks.feature_tables import Tables, dataset, evaluated

CLASSES = 4


class Deep(Backbone):
    """A model of so many blocks that is never run."""

    def __init__(self, count: int) -> None:
        super().__init__(BackboneCard("deep", "test", "deep", 8, 4), num_blocks=count)

    def extract(self, images: Tensor, blocks: Sequence[int], *, norm: bool) -> Features:
        raise AssertionError("the model was run")


def depths(train: int = 120, test: int = 200, best: int = 8) -> Tables:
    """Classes that the block of the twelfth ``best`` separates most, the class token better than patches."""
    targets = {"train": np.arange(train) % CLASSES, "test": np.arange(test) % CLASSES}

    def features(readout: Readout, split: str) -> np.ndarray:
        centres = np.random.default_rng(readout.twelfth).standard_normal((CLASSES, 8))
        random = np.random.default_rng([readout.twelfth, len(split), len(readout.kind)])
        spread = 1.5 + 0.1 * abs(readout.twelfth - best) + 0.1 * (readout.kind == "mean")
        return (centres[targets[split]] + spread * random.standard_normal((len(targets[split]), 8))).astype(
            np.float32
        )

    return Tables(targets, features)


def run(task: Curves, tables: Tables, seed: int = 0) -> tuple[dict[str, float], Samples]:
    data = dataset(tables)
    task = task.resolved(data).suited(lambda _: True)
    samples = evaluated(task, tables, data, Context(progress=False, seed=seed))
    return {metric.name: metric.score(samples) for metric in task.metrics}, samples


def vote(train: np.ndarray, labels: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """Return classes by scikit-learn's neighbours and a weighted vote written out."""
    distance, near = KNeighborsClassifier(k, metric="cosine").fit(train, labels).kneighbors(queries)
    weights = np.exp((1 - distance) / 0.07)
    ballots = [(weights * (labels[near] == label)).sum(axis=1) for label in range(CLASSES)]
    return np.stack(ballots, axis=1).argmax(axis=1)


def test_places_are_scored_and_chosen_as_written_out() -> None:
    tables = depths()
    found, samples = run(Curves(k=5), tables)
    labels, truth = tables.targets["train"], tables.targets["test"]
    held = hold_out(labels, 0.1, 0)
    names = [f"{kind}-{twelfth}/12" for kind in ("cls", "mean") for twelfth in range(1, 13)]
    assert list(found) == ["top1@heldout", *(f"top1@{name}" for name in names), "mean_per_class@heldout"]
    tried: list[float] = []
    for name in names:
        kind, _, step = name.partition("-")
        readout = Readout(kind, twelfth=int(step.removesuffix("/12")))  # pyright: ignore[reportArgumentType]
        train, test = tables.features(readout, "train"), tables.features(readout, "test")
        assert found[f"top1@{name}"] == np.mean(vote(train, labels, test, 5) == truth)
        tried.append(float(np.mean(vote(train[~held], labels[~held], train[held], 5) == labels[held])))
    chosen = int(np.argmax(tried))
    assert found["top1@heldout"] == found[f"top1@{names[chosen]}"]
    assert set(samples["place"]) == {chosen}


@pytest.mark.parametrize(
    ("count", "places"),
    [
        (2, [6, 12]),
        (3, [4, 8, 12]),
        (7, [1, 3, 5, 6, 8, 10, 12]),
        (11, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12]),
        *((count, list(range(1, 13))) for count in (12, 24, 40)),
    ],
)
def test_every_block_stands_once_and_what_is_recorded_is_of_no_depth(count: int, places: list[int]) -> None:
    """Block k of n ends at k/n of the depth: it is that of the last twelfth that is no deeper."""
    data = dataset(depths())

    def gives(readout: Readout) -> bool:
        return -count <= readout.block

    task = Curves().resolved(data).suited(gives)
    names = [f"top1@{kind}-{place}/12" for kind in ("cls", "mean") for place in places]
    assert [metric.name for metric in task.metrics][1:-1] == names
    asked = [readout.twelfth for readout in task.requests(data)[0].readouts]
    assert asked == places * 2
    blocks = [canonical(readout, Deep(count)).block for readout in task.requests(data)[0].readouts]
    assert len(set(blocks)) == len(places)
    assert task.recorded() == Curves().resolved(data).recorded()
    assert "blocks" not in task.recorded()


def test_a_block_that_stands_once_has_the_score_it_had() -> None:
    tables = depths()
    whole, _ = run(Curves(), tables)
    data = dataset(tables)
    task = Curves().resolved(data).suited(lambda readout: readout.block >= -4)
    samples = evaluated(task, tables, data, Context(progress=False))
    for metric in task.metrics[1:-1]:
        assert metric.score(samples) == whole[metric.name]
    per_class = [samples["correct@heldout"][samples["label"] == label].mean() for label in range(CLASSES)]
    assert task.metrics[-1].name == "mean_per_class@heldout"
    assert task.metrics[-1].score(samples) == pytest.approx(np.mean(per_class))


def test_the_scored_split_has_no_say_in_the_choice() -> None:
    one, other = depths(), depths()
    rotated = other.targets["test"].copy()
    other.targets["test"][:] = np.roll(rotated, 1)
    assert set(run(Curves(), one)[1]["place"]) == set(run(Curves(), other)[1]["place"])


def test_sides_are_resized_in_the_proportion_of_the_protocol() -> None:
    tables = depths()
    task = Curves(axis="resolution", sizes=(112, 336), interpolation="bilinear", resize=240, crop=224)
    task = task.resolved(dataset(tables))
    assert [metric.name for metric in task.metrics] == [
        "top1@heldout", "top1@pooled-112px", "top1@pooled-336px", "mean_per_class@heldout",
    ]  # fmt: skip
    asked = [(request.split, request.geometry) for request in task.requests(dataset(tables))]
    small, large = (Geometry(a, "short", b, "bilinear") for a, b in ((120, 112), (360, 336)))
    assert asked == [("train", small), ("test", small), ("train", large), ("test", large)]


@pytest.mark.parametrize(
    "change",
    [
        {"k": 1},
        {"temperature": 5.0},
        {"held_out": 0.5},
        {"classifier": "logreg"},
        {"readouts": ("mean",)},
        {"metric": "mean_per_class"},
        {"axis": "resolution"},
    ],
    ids=str,
)
def test_every_setting_changes_the_answer(change: dict[str, object]) -> None:
    tables = depths()
    tables.targets["test"][:40] = 0
    before, samples = run(Curves(), tables)
    changed = replace(Curves(), **change)  # pyright: ignore[reportArgumentType]
    after, others = run(changed, tables)
    assert before != after or set(samples["place"]) != set(others["place"])


def test_strengths_and_the_seed_change_logistic_regression() -> None:
    tables, task = depths(), Curves(classifier="logreg", readouts=("cls",), strengths=(1e-4,))
    assert run(task, tables)[0] != run(replace(task, strengths=(1e3,)), tables)[0]
    places = [int(run(Curves(k=1), tables, seed)[1]["place"][0]) for seed in range(6)]
    assert len(set(places)) > 1


def test_two_runs_agree_to_the_bit() -> None:
    (_, one), (_, other) = run(Curves(), depths()), run(Curves(), depths())
    assert all(one[name].tobytes() == other[name].tobytes() for name in one.columns)


def test_a_model_without_class_token_has_the_curve_of_its_patches() -> None:
    task = Curves().resolved(dataset(depths()))
    assert task.suited(lambda readout: readout.kind != "cls").readouts == ("mean",)
    with pytest.raises(NotApplicableError, match=r"no cls; --set curves\.readouts=mean"):
        replace(task, readouts=("cls",)).suited(lambda readout: readout.kind != "cls")
    with pytest.raises(NotApplicableError, match=r"one block only; --set curves\.axis=resolution"):
        task.suited(lambda readout: readout.block == -1)


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ConfigError, match="no block has readouts=pooled"):
        Curves(readouts=("pooled",))
    with pytest.raises(ConfigError, match="needs preprocessing=protocol"):
        Curves(axis="resolution", preprocessing="card")
    with pytest.raises(ConfigError, match="k=110 of 120 training images"):
        Curves(k=110).resolved(dataset(depths()))
