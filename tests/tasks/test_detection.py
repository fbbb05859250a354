"""Detection end to end, on tokens that say which thing is where."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ssleval.core import Dataset, DatasetCard, Geometry, Samples, Split
from ssleval.core.targets import Objects
from ssleval.errors import ConfigError, ContractError, NotApplicableError
from ssleval.tasks.detection import PATCHES, Detection
from tests.tasks.feature_tables import CONTEXT, Tables, evaluated

SIDE, PIXELS, WIDTH = 8, 4, 6
"""Patches a side, pixels of a patch, and channels."""
QUICK = Detection(iterations=60, batch_size=8, learning_rate=0.05, points=4)
SIZE = (SIDE * PIXELS, SIDE * PIXELS)


def things(seed: int) -> Objects:
    """One thing of 2 x 2 patches, and at times another, in the other half."""
    random = np.random.default_rng(seed)
    masks = np.zeros((2, *SIZE), bool)
    labels = random.integers(0, 2, 2)
    for place, mask in enumerate(masks):
        row, column = random.integers(0, 3) + 4 * place, random.integers(0, 7)
        mask[row * PIXELS : (row + 2) * PIXELS, column * PIXELS : (column + 2) * PIXELS] = True
    count = 1 + seed % 2
    return Objects.of_masks(masks[:count], labels[:count], np.zeros(count, bool))


COUNTS = {"train": 32, "test": 12}
OBJECTS = {split: [things(100 * len(split) + row) for row in range(count)] for split, count in COUNTS.items()}


def tokens(objects: Objects, noise: float, seed: int) -> np.ndarray:
    """Which class a patch shows, and which part of the thing it is."""
    grid = noise * np.random.default_rng(seed).standard_normal((SIDE, SIDE, WIDTH))
    for box, label in zip(objects.boxes, objects.labels, strict=True):
        column, row = (box[:2] / PIXELS).astype(int)
        for down in range(2):
            for across in range(2):
                grid[row + down, column + across, :4] += [1 - label, label, across * 2 - 1, down * 2 - 1]
    return grid.astype(np.float16)


def source(noise: float = 0.1) -> Tables:
    def features(_: Any, split: str) -> np.ndarray:
        return np.stack([tokens(one, noise, row) for row, one in enumerate(OBJECTS[split])])

    return Tables({split: np.zeros(count, int) for split, count in COUNTS.items()}, features, WIDTH)


def data(change: Callable[[Objects], Any] = lambda one: one, **card: Any) -> Dataset:
    def opened(split: str) -> Split:
        ids = [f"{split}/{row}" for row in range(COUNTS[split])]
        return Split(ids, _closed, None, split, lambda row: change(OBJECTS[split][row]))

    described: dict[str, Any] = {"target": "objects", "class_names": ("a", "b"), "lengths": COUNTS, **card}
    return Dataset(DatasetCard("things", **described), opened)


def _closed(index: int) -> Any:
    raise AssertionError(f"image {index} was decoded")


def scores(
    task: Detection, dataset: Dataset | None = None, noise: float = 0.1
) -> tuple[dict[str, float], Samples]:
    dataset = dataset or data()
    samples = evaluated(task, source(noise), dataset)
    return {metric.name: metric.score(samples) for metric in task.resolved(dataset).metrics}, samples


def test_things_that_tokens_name_are_found() -> None:
    found, samples = scores(QUICK)
    names = ["ap50", "ap", "mask_ap50", "mask_ap"]
    assert list(found) == [*names, *(f"bound_{name}" for name in names)]
    assert found["ap50"] > 0.95
    assert found["mask_ap50"] > 0.95
    assert found["ap"] > 0.5
    assert [found[f"bound_{name}"] for name in names] == [1, 1, 1, 1]
    assert samples["objects"].sum(0).tolist() == [
        sum((one.labels == label).sum() for one in OBJECTS["test"]) for label in range(2)
    ]


def test_without_masks_boxes_alone_are_scored() -> None:
    task = replace(QUICK, points=Detection.points)
    bare = data(lambda one: one._replace(masks=None), target="boxes")
    found, _ = scores(task, bare)
    assert list(found) == ["ap50", "ap", "bound_ap50", "bound_ap"]
    assert found["ap50"] > 0.95
    assert list(scores(replace(task, score="boxes"))[0]) == list(found)
    for refused in (lambda: QUICK.resolved(bare), lambda: replace(QUICK, score="boxes")):
        with pytest.raises(ConfigError, match="points=4 has no effect with score=boxes; leave it out"):
            refused()


def test_tokens_of_noise_find_nothing_much() -> None:
    def features(_: Any, split: str) -> np.ndarray:
        random = np.random.default_rng(len(split))
        return random.standard_normal((COUNTS[split], SIDE, SIDE, WIDTH)).astype(np.float16)

    samples = evaluated(QUICK, replace(source(), features=features), data())
    found = {metric.name: metric.score(samples) for metric in QUICK.resolved(data()).metrics}
    assert found["ap50"] < 0.2
    assert found["bound_ap50"] == 1


def test_perfect_patches_miss_what_no_patch_answers_for() -> None:
    def with_a_small_one(one: Objects) -> Objects:
        masks = np.zeros((1, *SIZE), bool)
        masks[0, 3:5, 3:5] = True  # around the corner of four patches
        small = Objects.of_masks(masks, np.ones(1, int), np.zeros(1, bool))
        parts: Any = zip(one[1:], small[1:], strict=True)
        return Objects(SIZE, *(np.concatenate(pair) for pair in parts))

    found, _ = scores(QUICK, data(with_a_small_one))
    large, every = (sum((one.labels == 1).sum() for one in OBJECTS["test"]) + more for more in (0, 12))
    recalls = (np.arange(101) / 100 <= large / every).mean()
    assert found["bound_ap50"] == pytest.approx((1 + recalls) / 2)


@pytest.mark.parametrize(
    ("change", "column"),
    [
        ({"iterations": 13}, "scores"),
        ({"batch_size": 7}, "scores"),
        ({"learning_rate": 0.04}, "scores"),
        ({"weight_decay": 0.5}, "scores"),
        ({"warmup": 0.5}, "scores"),
        ({"alpha": 0.5}, "scores"),
        ({"gamma": 1.0}, "scores"),
        ({"prior": 0.1}, "scores"),
        ({"box_weight": 0.1}, "scores"),
        ({"points": 2}, "scores"),
        ({"threshold": 0.3}, "scores"),
        ({"nms": 0.05}, "scores"),
        ({"most": 2}, "scores"),
        ({"score": "boxes", "points": Detection.points}, "scores"),
    ],
    ids=str,
)
def test_every_setting_changes_the_answer(change: dict[str, Any], column: str) -> None:
    task = replace(QUICK, iterations=12)
    one, other = (scores(each, noise=1.0)[1][column] for each in (task, replace(task, **change)))
    assert one.shape != other.shape or (one != other).any()


def test_the_seed_decides_and_equal_seeds_agree() -> None:
    def measured(seed: int) -> bytes:
        task = replace(QUICK, iterations=20)
        return evaluated(task, source(), data(), replace(CONTEXT, seed=seed))["scores"].tobytes()

    assert measured(0) == measured(0) != measured(1)


def test_size_and_interpolation_are_the_geometry() -> None:
    train, test = Detection().requests(data())
    assert train.geometry == test.geometry == Geometry(448, "square", None, "bicubic")
    assert train.readouts == (PATCHES,)
    (changed, _) = replace(QUICK, size=224, interpolation="bilinear").requests(data())
    assert changed.geometry == Geometry(224, "square", None, "bilinear")


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(NotApplicableError, match="needs boxes and masks of objects or boxes of objects"):
        scores(QUICK, data(target="mask"))
    with pytest.raises(
        NotApplicableError, match="needs boxes and masks of objects; things has target 'boxes'"
    ):
        scores(replace(QUICK, score="masks"), data(target="boxes"))
    with pytest.raises(NotApplicableError, match="needs classes of objects; things states none"):
        scores(QUICK, data(class_names=()))
    with pytest.raises(ContractError, match="opened without the objects its card promises"):
        scores(QUICK, data(lambda one: one.boxes))
    whole = data(lengths={"trainval": 44, **COUNTS}, test_split="trainval")
    with pytest.raises(ConfigError, match="fitted on 'train' and scored on 'trainval', which share images"):
        scores(QUICK, whole)
    with pytest.raises(ConfigError, match=r"detection\.threshold=1\.5"):
        replace(QUICK, threshold=1.5)
