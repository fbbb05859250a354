from dataclasses import replace

import numpy as np
import pytest

from ssleval.core import Dataset, Geometry, Samples
from ssleval.errors import ConfigError, NotApplicableError
from ssleval.metrics.normals import ERRORS
from ssleval.tasks.normals import Normals
from tests.tasks.dense_tables import WIDTH, dense_dataset, tables
from tests.tasks.feature_tables import CONTEXT, Tables, evaluated


def maps(count: int, seed: int = 0, side: int = 16) -> list[np.ndarray]:
    """Four smooth walls an image, towards the camera; the first row of pixels is unknown."""
    random = np.random.default_rng(seed)
    slopes = random.uniform(-1, 1, (count, 4, 4, 2)).repeat(side // 4, 1).repeat(side // 4, 2)
    vectors = np.concatenate([slopes, np.full((count, side, side, 1), -1.0)], axis=3)
    vectors /= np.linalg.norm(vectors, axis=3, keepdims=True)
    vectors[:, 0] = 0
    return list(vectors.astype(np.float32))


def channels(normals: np.ndarray) -> np.ndarray:
    """Normals, and nothing else, in the first channels."""
    return np.concatenate([normals, np.zeros((*normals.shape[:-1], WIDTH - 3))], axis=-1)


TARGETS = {"train": maps(24), "test": maps(10, seed=1)}
QUICK = Normals(iterations=60, batch_size=8, learning_rate=0.05, pixels=32)
BRIEF = replace(QUICK, iterations=3)
DPT = replace(BRIEF, head="dpt", inputs="lin4", hidden=4)


def data(**card: object) -> Dataset:
    return dense_dataset(TARGETS, **{"target": "normals", **card})


def scores(task: Normals, source: Tables, seed: int = 0) -> tuple[dict[str, float], Samples]:
    samples = evaluated(task, source, data(), replace(CONTEXT, seed=seed))
    return {metric.name: metric.score(samples) for metric in task.metrics}, samples


@pytest.mark.parametrize("inputs", ["lin1", "lin4"])
def test_normals_that_tokens_say_are_found(inputs: str) -> None:
    task = replace(QUICK, inputs=inputs)  # pyright: ignore[reportArgumentType]
    found, samples = scores(task, tables(TARGETS, channels, noise=0.01))
    blind, _ = scores(task, tables(TARGETS, lambda normals: 0 * channels(normals), noise=0.01))
    assert found["within@30"] > blind["within@30"] + 0.15
    assert found["rmse"] < 0.75 * blind["rmse"]
    assert len(samples) == 10


@pytest.mark.parametrize(
    "change",
    [
        {"iterations": 4},
        {"batch_size": 7},
        {"learning_rate": 0.02},
        {"weight_decay": 5.0},
        {"warmup": 0.9},
        {"pixels": 33},
        {"inputs": "lin4"},
        {"class_token": False},
        {"head": "dpt", "inputs": "lin4", "hidden": 4},
    ],
    ids=str,
)
def test_every_setting_changes_the_answer(change: dict[str, object]) -> None:
    source = tables(TARGETS, channels, noise=0.2)
    changed = replace(BRIEF, **change)  # pyright: ignore[reportArgumentType]
    assert (scores(BRIEF, source)[1]["rmse"] != scores(changed, source)[1]["rmse"]).any()


def test_the_channels_of_the_convolutional_head_change_the_answer() -> None:
    source = tables(TARGETS, channels, noise=0.2)
    one, other = (scores(replace(DPT, hidden=hidden), source)[1]["rmse"] for hidden in (4, 5))
    assert (one != other).any()


def test_the_convolutional_head_learns() -> None:
    source = tables(TARGETS, channels, noise=0.01)
    before, after = (
        scores(replace(DPT, hidden=8, iterations=count, learning_rate=0.005), source)[0] for count in (1, 80)
    )
    assert after["rmse"] < 0.8 * before["rmse"]


def test_the_seed_decides_and_equal_seeds_agree() -> None:
    source = tables(TARGETS, channels, noise=0.2)
    first, same, other = (scores(BRIEF, source, seed)[1]["rmse"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()


def test_an_image_without_known_normals_has_no_row_in_the_mean() -> None:
    targets = {**TARGETS, "test": [np.zeros_like(TARGETS["test"][0]), *TARGETS["test"][1:]]}
    dataset = dense_dataset(targets, target="normals")
    samples = evaluated(BRIEF, tables(TARGETS, channels), dataset, CONTEXT)
    assert np.isnan(samples["rmse"][0])
    (_, _, _, rmse) = BRIEF.metrics
    assert rmse.score(samples) == pytest.approx(samples["rmse"][1:].mean())


def test_requests_are_unnormed_tokens_of_squashed_images() -> None:
    train, test = Normals(inputs="lin4").requests(data())
    assert train.geometry == test.geometry == Geometry(448, "square")
    expected = [f"{kind}[quarter {q}]:unnormed" for q in (1, 2, 3, 4) for kind in ("patches", "cls")]
    assert [str(one) for one in train.readouts] == expected
    (train, _) = Normals(class_token=False, size=224, interpolation="bilinear").requests(data())
    assert [str(one) for one in train.readouts] == ["patches[-1]:unnormed"]
    assert train.geometry == Geometry(224, "square", interpolation="bilinear")


def test_scores_and_their_units() -> None:
    assert [metric.name for metric in Normals().metrics] == list(ERRORS)
    assert [metric.unit for metric in Normals().metrics] == ["fraction"] * 3 + ["degrees"]
    assert [metric.higher_is_better for metric in Normals().metrics] == [True] * 3 + [False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head": "dpt"}, r"normals: head=dpt reads four blocks; add --set normals\.inputs=lin4"),
        ({"hidden": 64}, "hidden=64 has no effect with head=linear"),
        ({"head": "dpt", "inputs": "lin4", "hidden": 1025}, r"hidden=1025: expected a whole number <= 1024"),
        ({"warmup": 1.0}, r"normals\.warmup=1\.0: expected a number < 1"),
    ],
    ids=str,
)
def test_settings_without_sense_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Normals(**change)  # pyright: ignore[reportArgumentType]


def test_data_without_normals_are_refused() -> None:
    with pytest.raises(NotApplicableError, match="needs surface normals"):
        evaluated(BRIEF, tables(TARGETS, channels), data(target="depth"))
