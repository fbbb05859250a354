from dataclasses import replace

import numpy as np
import pytest
from torch import nn

from ssleval.core import Dataset, FeatureRequest, FeatureTable, Geometry, Samples
from ssleval.errors import ConfigError, ContractError, NotApplicableError
from ssleval.heads.dense.depth import Bins
from ssleval.tasks.depth import Depth
from tests.tasks.dense_tables import WIDTH, dense_dataset, tables
from tests.tasks.feature_tables import CONTEXT, Tables, evaluated


def maps(count: int, seed: int = 0, side: int = 16) -> list[np.ndarray]:
    """Slanted planes around 2.5 m; the first row of pixels is unknown."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side - 0.5
    slopes = random.uniform(-2, 2, (count, 2))
    found = [(2.5 + slope[0] * x + slope[1] * y).astype(np.float32) for slope in slopes]
    for one in found:
        one[0] = 0
    return found


def ramp(depths: np.ndarray) -> np.ndarray:
    """Channels that say how near a depth is to each of some depths."""
    return 20 * np.exp(-((depths[..., None] - np.linspace(1, 4, WIDTH)) ** 2))


TARGETS = {"train": maps(24), "test": maps(10, seed=1)}
QUICK = Depth(iterations=200, batch_size=8, learning_rate=0.01, pixels=32, bins=12, max_depth=5.0, warmup=0.1)


BRIEF = replace(QUICK, iterations=101, flip=False)
"""As few iterations as are allowed."""


def data(**card: object) -> Dataset:
    return dense_dataset(TARGETS, **{"target": "depth", "max_depth": 5.0, **card})


def scores(task: Depth, source: Tables, seed: int = 0) -> tuple[dict[str, float], Samples]:
    samples = evaluated(task, source, data(), replace(CONTEXT, seed=seed))
    return {metric.name: metric.score(samples) for metric in task.metrics}, samples


@pytest.mark.parametrize("inputs", ["lin1", "lin4"])
def test_depth_that_tokens_say_is_found(inputs: str) -> None:
    task = replace(QUICK, inputs=inputs, flip=False)  # pyright: ignore[reportArgumentType]
    found, samples = scores(task, tables(TARGETS, ramp, noise=0.01))
    constant, _ = scores(task, tables(TARGETS, lambda depths: ramp(depths * 0 + 2), noise=0.01))
    assert found["rmse"] < 0.75 * constant["rmse"]
    assert found["delta1"] > constant["delta1"] + 0.02
    assert len(samples) == 10
    assert not next(metric for metric in task.metrics if metric.name == "rmse").higher_is_better


@pytest.fixture(scope="module")
def brief() -> Samples:
    return scores(BRIEF, tables(TARGETS, ramp, noise=0.2))[1]


@pytest.mark.parametrize(
    "change",
    [
        {"iterations": 102},
        {"batch_size": 7},
        {"learning_rate": 0.002},
        {"weight_decay": 0.5},
        {"warmup": 0.5},
        {"clip": 0.01},
        {"pixels": 33},
        {"bins": 13},
        {"upsample": 2},
        {"min_depth": 0.5},
        {"max_depth": 4.5},
        {"inputs": "lin4"},
        {"class_token": False},
        {"flip": True},
    ],
    ids=str,
)
def test_every_setting_changes_the_answer(brief: Samples, change: dict[str, object]) -> None:
    changed = replace(BRIEF, **change)  # pyright: ignore[reportArgumentType]
    other = scores(changed, tables(TARGETS, ramp, noise=0.2))[1]
    assert (brief["rmse"] != other["rmse"]).any()


def test_mirrored_views_are_mirrored_back() -> None:
    plain = tables(TARGETS, ramp, noise=0.01)

    class Mirrors(Tables):
        def load(self, request: FeatureRequest) -> FeatureTable:
            table = super().load(request)
            if request.geometry is None or not request.geometry.flip:
                return table
            arrays = {name: a[:, :, ::-1] if a.ndim == 4 else a for name, a in table.arrays.items()}
            return replace(table, arrays=arrays)

    faithful = scores(QUICK, Mirrors(plain.targets, plain.features))[0]
    alone = scores(replace(QUICK, flip=False), plain)[0]
    assert faithful["rmse"] == pytest.approx(alone["rmse"], rel=1e-4)
    assert scores(QUICK, plain)[0]["rmse"] > 2 * alone["rmse"]


def test_requests_are_unnormed_tokens_of_the_quarters_and_a_mirrored_view() -> None:
    train, test, mirrored = Depth().requests(data())
    assert train.geometry == test.geometry == Geometry(448, "square")
    assert mirrored.geometry == Geometry(448, "square", flip=True)
    assert [str(one) for one in train.readouts] == ["patches[-1]:unnormed", "cls[-1]:unnormed"]
    (request, _) = Depth(inputs="lin4", class_token=False, flip=False, size=224).requests(data())
    assert [str(one) for one in request.readouts] == [f"patches[quarter {q}]:unnormed" for q in (1, 2, 3, 4)]
    assert request.geometry == Geometry(224, "square")
    (request, *_) = Depth(interpolation="bilinear").requests(data())
    assert request.geometry == Geometry(448, "square", interpolation="bilinear")


def test_the_seed_decides_and_equal_seeds_agree(brief: Samples) -> None:
    source = tables(TARGETS, ramp, noise=0.2)
    same, other = (scores(BRIEF, source, seed)[1]["rmse"] for seed in (0, 1))
    np.testing.assert_array_equal(brief["rmse"], same)
    assert (same != other).any()


def test_the_range_is_the_datasets_unless_set() -> None:
    assert Depth().resolved(data(max_depth=80.0)).max_depth == 80.0
    assert Depth(max_depth=20.0).resolved(data(max_depth=80.0)).max_depth == 20.0
    with pytest.raises(ConfigError, match="to 0"):
        Depth().resolved(data(max_depth=0.0))


def test_what_it_cannot_do_is_refused() -> None:
    source = tables(TARGETS, ramp)
    with pytest.raises(NotApplicableError, match="needs metres"):
        evaluated(QUICK, source, data(target="mask"))
    with pytest.raises(ConfigError, match="'test' alone"):
        evaluated(QUICK, source, data(train_split="test"))
    with pytest.raises(ConfigError, match=r"depth\.warmup=1\.0: expected a number < 1"):
        replace(QUICK, warmup=1.0)
    with pytest.raises(ConfigError, match=r"depth\.bins=1: expected a whole number >= 2"):
        replace(QUICK, bins=1)
    with pytest.raises(ConfigError, match=r"depth\.iterations=100: expected a whole number >= 101"):
        replace(QUICK, iterations=100)


def test_only_parts_of_something_are_fractions() -> None:
    units = {metric.name: metric.unit for metric in Depth().metrics}
    fractions = {name for name, unit in units.items() if unit == "fraction"}
    assert fractions == {"abs_rel", "delta1", "delta2", "delta3"}
    assert (units["log10"], units["rmse_log"], units["rmse"]) == ("log10", "log", "m")


def test_a_head_that_has_gone_silent_is_refused() -> None:
    constant = tables(TARGETS, lambda depths: ramp(depths * 0 + 2), noise=0.01)
    with pytest.raises(ContractError, match="no bin has a positive"):
        scores(replace(QUICK, learning_rate=30.0, iterations=150, flip=False), constant)


DPT = replace(BRIEF, head="dpt", inputs="lin4", hidden=4, batch_size=2, pixels=8)


def test_the_convolutional_head_and_its_channels_change_the_answer() -> None:
    source = tables(TARGETS, ramp, noise=0.2)
    linear = replace(DPT, head="linear", hidden=512)
    first, other, simple = (scores(task, source)[1]["rmse"] for task in (DPT, replace(DPT, hidden=5), linear))
    assert (first != other).any()
    assert (first != simple).any()


def test_bins_of_the_convolutional_head_are_mixed_sixteen_times_as_fine_as_patches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fitted: list[Bins] = []

    def recorded(head: nn.Module, *arguments: object) -> nn.Module:
        fitted.append(next(item for item in arguments if isinstance(item, Bins)))
        return head.eval()

    monkeypatch.setattr("ssleval.tasks.depth.fit_bins", recorded)
    for task in (DPT, BRIEF):
        scores(task, tables(TARGETS, ramp))
    # The outputs of the convolutional head are 8 times as fine as the patches.
    assert [bins.upsample for bins in fitted] == [2, 4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head": "dpt"}, r"depth: head=dpt reads four blocks; add --set depth\.inputs=lin4"),
        ({"head": "dpt", "inputs": "lin4", "upsample": 2}, "upsample=2 has no effect with head=dpt"),
        ({"hidden": 64}, "hidden=64 has no effect with head=linear"),
    ],
    ids=str,
)
def test_settings_of_another_head_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Depth(**change)  # pyright: ignore[reportArgumentType]


def test_results_of_the_linear_head_are_recorded_as_before_there_was_another() -> None:
    assert {"head", "hidden"} & set(Depth().recorded()) == set()
    assert set(DPT.recorded()) - set(BRIEF.recorded()) == {"head", "hidden"}


def only_tested(max_depth: float) -> Dataset:
    """The test images, without a training split of their own: heads are fitted on `data`."""
    whole = data()
    card = replace(whole.card, name="other", lengths={"test": 10}, max_depth=max_depth)
    return Dataset(card, whole.open, lambda: whole)


def test_a_set_that_is_only_tested_gets_the_head_of_another() -> None:
    source = tables(TARGETS, ramp, noise=0.01)
    other = only_tested(5.0)
    train, test, _ = Depth().requests(other)
    assert (train.dataset.card.name, train.split) == ("dense", "train")
    assert (test.dataset.card.name, test.split) == ("other", "test")
    assert Depth().resolved(only_tested(3.0)).max_depth == 5.0
    assert Depth().amounts(other)["train"] == (16, 24)
    plain, transferred = scores(BRIEF, source)[1], evaluated(BRIEF, source, other)
    np.testing.assert_array_equal(plain["rmse"], transferred["rmse"])


def test_predictions_are_cut_where_the_depth_of_a_tested_set_is() -> None:
    """Of maps that are 1 m everywhere, a prediction cut at 1 m is off by nothing at all or from below."""
    source, other = tables(TARGETS, ramp, noise=0.01), only_tested(1.0)
    cut, whole = evaluated(BRIEF, source, other), scores(BRIEF, source)[1]
    # Nothing is predicted nearer than 1 m here, so that what is cut is 1 m for every pixel.
    errors = [np.sqrt(((1 - depths[depths > 0]) ** 2).mean()) for depths in TARGETS["test"]]
    assert (whole["rmse"] < cut["rmse"]).all()
    np.testing.assert_allclose(cut["rmse"], errors, rtol=0.02)


def test_a_set_without_training_images_is_refused() -> None:
    alone = replace(only_tested(5.0), fitted_on=None)
    with pytest.raises(NotApplicableError, match="depth fits on a training split; other has test"):
        Depth().resolved(alone)
