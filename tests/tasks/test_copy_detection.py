from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from ssleval.core import (
    Dataset,
    DatasetCard,
    FeatureRequest,
    FeatureTable,
    Geometry,
    Readout,
    Samples,
    Split,
)
from ssleval.core.targets import Groups
from ssleval.errors import ConfigError, DataError, NotApplicableError
from ssleval.tasks.copy_detection import CopyDetection
from tests.tasks.feature_tables import Tables, evaluated

ORIGINALS, DATABASE, KINDS, WIDTH = 20, 60, 3, 4
COPY_OF = np.repeat(np.arange(ORIGINALS), KINDS)
NOTHING = np.zeros(0, np.int64)


def copy_of(index: int) -> Groups:
    return Groups(COPY_OF[index : index + 1], NOTHING, NOTHING, group=index % KINDS)


def with_junk(index: int) -> Groups:
    return copy_of(index)._replace(junk=np.array([30 + index % 7], np.int64))


def every_other(index: int) -> Groups:
    return copy_of(index) if index % 2 else Groups(NOTHING, NOTHING, NOTHING, group=index % KINDS)


def alone_as_junk(index: int) -> Groups:
    return copy_of(index) if index else Groups(NOTHING, NOTHING, np.arange(ORIGINALS, DATABASE))


def nearly_all(index: int) -> Groups:
    return Groups(np.arange(DATABASE - 3), NOTHING, NOTHING, group=index % KINDS)


def unopened(index: int) -> Any:
    raise AssertionError(index)


def tables(spread: float = 1.0) -> Tables:
    """Copies around their originals; directions of unequal variance about a mean far from zero."""
    sizes = {"queries": len(COPY_OF), "database": DATABASE, "whitening": 50}
    mixed = np.diag([5.0, 1.0, 1.0, 0.2])

    def features(readout: Readout, split: str) -> np.ndarray:
        part = ord(readout.kind[0])
        shared = np.random.default_rng(part).standard_normal((DATABASE, WIDTH))
        own = np.random.default_rng([len(split), part]).standard_normal((sizes[split], WIDTH))
        if split == "queries":
            own = shared[COPY_OF] + spread * own
        elif split == "database":
            own = shared
        return (own @ mixed + 2).astype(np.float32)

    return Tables({name: np.zeros(size) for name, size in sizes.items()}, features)


def copies(answers: Any = copy_of, *, whitening: bool = True, **card: Any) -> Dataset:
    described = DatasetCard(
        "c",
        target="groups",
        class_names=("crop", "blur", "jpeg"),
        lengths={"queries": len(COPY_OF), "database": DATABASE, **({"whitening": 50} if whitening else {})},
        train_split="database",
        test_split="queries",
    )
    ids = [str(i) for i in range(len(COPY_OF))]
    return Dataset(replace(described, **card), lambda _: Split(ids, unopened, None, "f", answers))


def measured(dataset: Dataset, spread: float = 1.0, **settings: Any) -> Samples:
    task = CopyDetection(**settings).resolved(dataset)
    samples = evaluated(task, tables(spread), dataset)
    for metric in task.metrics:
        assert 0 <= metric.score(samples) <= 1
    return samples


def by_hand(whitening: str, *, inside: bool = False) -> np.ndarray:
    """Cosines of whitened descriptors, by a symmetric root in place of ours."""
    found = {
        split: np.concatenate(
            [tables().features(Readout(kind), split).astype(np.float64) for kind in ("cls", "gem")], axis=1
        )
        for split in ("queries", "database", "whitening")
    }
    learnt = found["database"][ORIGINALS:] if inside else found["whitening"]
    mean = learnt.mean(axis=0) * (whitening != "none")
    if whitening == "none":
        root = np.eye(2 * WIDTH)
    else:
        rows = learnt - mean if whitening == "pca" else learnt
        values, vectors = np.linalg.eigh(rows.T @ rows / len(rows))
        root = vectors @ np.diag(np.maximum(values, 1e-5 * values.max()) ** -0.5) @ vectors.T
    sides = [(found[split] - mean) @ root for split in ("queries", "database")]
    first, second = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides)
    return first @ second.T


@pytest.mark.parametrize("whitening", ["dino", "pca", "none"])
def test_scores_are_those_of_whitened_descriptors(whitening: str) -> None:
    samples = measured(copies(), whitening=whitening, depth=0)
    cosines = by_hand(whitening)
    ranks = (cosines > np.take_along_axis(cosines, COPY_OF[:, None], axis=1)).sum(axis=1)
    area = np.where(ranks == 0, 1.0, 0.5 / (ranks + 1))
    assert samples["ap"] == pytest.approx(area)
    truth = np.arange(DATABASE) == COPY_OF[:, None]
    scores = {one.name: one.score(samples) for one in CopyDetection(kinds=("crop", "jpeg")).metrics}
    assert scores["map"] == pytest.approx(area.mean())
    micro = average_precision_score(truth.reshape(-1), cosines.reshape(-1))
    assert scores["micro_ap"] == pytest.approx(micro, abs=1e-6)
    assert scores["map_jpeg"] == pytest.approx(area[2::3].mean())
    assert scores["map_crop"] == pytest.approx(area[::3].mean())


def test_whitening_is_learnt_on_distractors_where_nothing_else_is_offered() -> None:
    samples = measured(copies(whitening=False), depth=0)
    cosines = by_hand("dino", inside=True)
    ranks = (cosines > np.take_along_axis(cosines, COPY_OF[:, None], axis=1)).sum(axis=1)
    assert samples["ap"] == pytest.approx(np.where(ranks == 0, 1.0, 0.5 / (ranks + 1)))
    with pytest.raises(DataError, match="of 8 channels needs as many images"):
        measured(copies(nearly_all, whitening=False))


def test_claims_of_queries_without_an_original_are_wrong_and_nothing_else_is_counted_of_them() -> None:
    samples = measured(copies(every_other), whitening="none", depth=0)
    cosines, asked = by_hand("none"), np.arange(len(COPY_OF)) % 2 == 1
    truth = (np.arange(DATABASE) == COPY_OF[:, None]) & asked[:, None]
    scores = {one.name: one.score(samples) for one in CopyDetection().metrics}
    micro = average_precision_score(truth.reshape(-1), cosines.reshape(-1))
    assert scores["micro_ap"] == pytest.approx(micro, abs=1e-6)
    dropped = average_precision_score(truth[asked].reshape(-1), cosines[asked].reshape(-1))
    assert scores["micro_ap"] < dropped - 0.01
    assert np.isnan(samples["ap"]).tolist() == (~asked).tolist()
    assert scores["map"] == pytest.approx(measured(copies(), whitening="none", depth=0)["ap"][asked].mean())


def test_the_junk_of_a_query_without_an_original_is_fit_for_learning_a_whitening() -> None:
    (first, second) = (measured(copies(one, whitening=False)) for one in (copy_of, alone_as_junk))
    assert second["ap"][1:].tolist() == first["ap"][1:].tolist()


def test_originals_beyond_the_depth_are_missed() -> None:
    whole, first = measured(copies(), depth=0), measured(copies(), depth=2)
    assert ((first["ap"] == 0) | (first["ap"] == whole["ap"])).all()
    assert (first["ap"] == 0).sum() == (whole["ap"] < 0.25).sum() > 0
    assert CopyDetection().depth == 20


def test_separable_copies_are_found() -> None:
    samples = measured(copies(), spread=1e-4)
    assert samples["ap"].min() == 1
    assert {one.score(samples) for one in CopyDetection().metrics} == {1.0}


def test_junk_is_in_no_ranking() -> None:
    samples = measured(copies(with_junk))
    assert np.isnan(samples["similarity"]).sum(axis=1).tolist() == [1] * len(COPY_OF)
    assert (samples["ap"] >= measured(copies())["ap"]).all()


@pytest.mark.parametrize(
    "setting",
    [{"readouts": ("cls",)}, {"whitening": "pca"}, {"floor": 0.5}, {"depth": 1}, {"claims": 3}],
    ids=str,
)
def test_settings_change_the_answer(setting: dict[str, Any]) -> None:
    first, second = measured(copies()), measured(copies(), **setting)
    scores = [[one.score(samples) for one in CopyDetection().metrics] for samples in (first, second)]
    assert scores[0] != scores[1]


def test_kinds_that_a_limited_set_lacks_are_left_out() -> None:
    few = copies().limited(1)
    (row,) = (int(one) for one in few.split("queries").ids)
    assert row % KINDS == 1
    source = tables()

    class Few(Tables):
        def load(self, request: FeatureRequest) -> FeatureTable:
            table = super().load(request)
            if request.split != "queries":
                return table
            arrays = {key: array[[row]] for key, array in table.arrays.items()}
            return FeatureTable([str(row)], None, arrays, np.arange(1))

    task = CopyDetection().resolved(few)
    samples = evaluated(task, Few(source.targets, source.features), few)
    assert [one.name for one in task.metrics] == ["map", "micro_ap", "map_blur"]
    assert np.isfinite([one.score(samples) for one in task.metrics]).all()
    assert samples["ap_blur"].tolist() == [measured(copies())["ap"][row]]


def test_kinds_come_from_the_set_and_settings_without_effect_are_refused() -> None:
    task = CopyDetection().resolved(copies())
    assert task.kinds == ("crop", "blur", "jpeg")
    assert task.resolved(copies()) == task, "a recorded protocol can be run again"
    assert CopyDetection().resolved(copies(class_names=())).kinds == ()
    with pytest.raises(ConfigError, match="kinds=crop, but c has crop,blur,jpeg; leave kinds out"):
        CopyDetection(kinds=("crop",)).resolved(copies())
    with pytest.raises(ConfigError, match=r"floor=0\.5 has no effect with whitening=none"):
        CopyDetection(whitening="none", floor=0.5)


def test_requests_are_the_protocols() -> None:
    task = CopyDetection()
    requests = task.requests(copies())
    assert [one.split for one in requests] == ["queries", "database", "whitening"]
    assert {one.geometry for one in requests} == {Geometry(320, "square", None, "bicubic")}
    assert {one.readouts for one in requests} == {(Readout("cls"), Readout("gem"))}
    assert len(CopyDetection(whitening="none").requests(copies())) == 2
    small = CopyDetection(size=64, interpolation="bilinear").requests(copies())
    assert small[0].geometry == Geometry(64, "square", None, "bilinear")
    with pytest.raises(NotApplicableError, match="needs groups of images"):
        measured(copies(target="label"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"readouts": ()},
        {"readouts": ("cls", "cls")},
        {"size": 0},
        {"depth": -1},
        {"claims": -1},
        {"floor": 1.0},
    ],
    ids=str,
)
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"^copy_detection.{next(iter(wrong))}="):
        CopyDetection(**wrong)


def test_copies_of_one_original_are_one_cluster() -> None:
    samples = measured(copies())
    assert samples.cluster == "cluster"
    same = samples["cluster"][:, None] == samples["cluster"]
    np.testing.assert_array_equal(same, COPY_OF[:, None] == COPY_OF)
