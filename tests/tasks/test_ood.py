from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.covariance import EmpiricalCovariance
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from ssleval.core import Dataset, DatasetCard, DatasetOptions, Readout, Samples
from ssleval.core.task import Inputs
from ssleval.datasets.catalog import open_dataset
from ssleval.errors import ConfigError, ContractError, DataError
from ssleval.tasks.ood import Ood, _refuse_shared
from tests.tasks.feature_tables import CONTEXT, Tables, blobs, dataset

QUICK = Ood(out="other", k=5, strengths=(0.1, 1.0))


def given(away: float = 3.0, spread: float = 0.5, *, classes: int = 3) -> Tables:
    """Blobs, and 40 images of a fourth place under the split ``elsewhere``."""
    tables = blobs(spread, classes=classes)
    inside = tables.features

    def features(readout: Readout, split: str) -> np.ndarray:
        if split != "elsewhere":
            return inside(readout, split)
        random = np.random.default_rng(len(readout.kind))
        centre = away * random.standard_normal(8)
        return (centre + spread * random.standard_normal((40, 8))).astype(np.float32)

    return Tables({**tables.targets, "elsewhere": np.zeros(40, np.int64)}, features)


def opened(tables: Tables, **card: Any) -> Dataset:
    described: dict[str, Any] = {
        "name": "other",
        "target": "none",
        "lengths": {"elsewhere": 40},
        "test_split": "elsewhere",
        **card,
    }
    other = Dataset(DatasetCard(**described), dataset(tables).open)
    inside = dataset(tables, lengths={"train": 60, "test": 90})

    def beside(_: str) -> Dataset:
        return other

    return replace(inside, beside=beside)


def _nothing_shared(*_: object) -> None:
    pass


def run(task: Ood, tables: Tables, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, float], Samples]:
    monkeypatch.setattr("ssleval.tasks.ood._refuse_shared", _nothing_shared)
    data = opened(tables)
    samples = task.evaluate(Inputs(tables, data, task.resolved(data).requests(data), CONTEXT))
    return {metric.name: metric.score(samples) for metric in task.metrics}, samples


def test_what_lies_elsewhere_is_told_apart_and_what_does_not_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = run(QUICK, given(6.0, 0.3), monkeypatch)
    assert list(found)[:3] == ["auroc@knn", "auroc@mahalanobis", "auroc@max_logit"]
    assert min(found["auroc@knn"], found["auroc@mahalanobis"]) == 1
    assert max(found["fpr95@knn"], found["fpr95@mahalanobis"]) == 0
    noise = blobs(np.inf)
    noise.targets["elsewhere"] = np.zeros(40, np.int64)
    found, _ = run(QUICK, noise, monkeypatch)
    assert all(abs(found[f"auroc@{name}"] - 0.5) < 0.15 for name in QUICK.methods)


@pytest.mark.parametrize("classes", [2, 3])
def test_scores_are_those_of_scikit_learn(monkeypatch: pytest.MonkeyPatch, classes: int) -> None:
    tables = given(1.0, 1.0, classes=classes)
    found, samples = run(replace(QUICK, strengths=(0.1,)), tables, monkeypatch)
    train, test, outside = (
        tables.features(Readout("pooled"), name) for name in ("train", "test", "elsewhere")
    )
    labels, queries = tables.targets["train"], np.concatenate([test, outside]).astype(float)
    units = NearestNeighbors(n_neighbors=5).fit(normalize(train))
    distances = units.kneighbors(normalize(queries))[0][:, -1]
    assert samples["score@knn"] == pytest.approx(distances**2 / 2, abs=1e-5)
    means = np.stack([train[labels == one].mean(axis=0) for one in range(classes)]).astype(float)
    within = EmpiricalCovariance().fit(train - means[labels])
    precision: Any = within.precision_
    squared = [((queries - mean) @ precision * (queries - mean)).sum(axis=1) for mean in means]
    assert samples["score@mahalanobis"] == pytest.approx(np.min(squared, axis=0), rel=1e-4)
    peer: Any = LogisticRegression(C=0.1, tol=1e-10, max_iter=5000).fit(train, labels)
    logits = peer.decision_function(queries)
    largest = np.abs(logits) / 2 if classes == 2 else logits.max(axis=1)
    assert samples["score@max_logit"] == pytest.approx(-largest, abs=1e-3)
    for name in QUICK.methods:
        assert found[f"auroc@{name}"] == pytest.approx(
            roc_auc_score(samples["out"], samples[f"score@{name}"])
        )
        false, true, _ = roc_curve(samples["out"], samples[f"score@{name}"], drop_intermediate=False)
        assert found[f"fpr95@{name}"] == pytest.approx(false[np.argmax(true >= 0.95)])
    assert samples["out"].sum() == 40
    assert (samples.ids[0], samples.ids[-1]) == ("in/test/0", "out/elsewhere/39")


def test_a_direction_without_variance_within_classes_counts_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = given(1.0, 1.0)
    inside = tables.features

    def flat(readout: Readout, split: str) -> np.ndarray:
        features = inside(readout, split).copy()
        features[:, 0] = 7.0
        return features

    task = replace(QUICK, methods=("mahalanobis",))
    found, samples = run(task, Tables(tables.targets, flat), monkeypatch)
    assert np.isfinite(samples["score@mahalanobis"]).all()
    assert 0 < found["auroc@mahalanobis"] < 1


@pytest.mark.parametrize(
    "change",
    [{"k": 9}, {"held_out": 0.8, "strengths": (1e-4, 1e4)}, {"strengths": (1e-3,)}, {"readout": "mean"}],
    ids=str,
)
def test_every_setting_changes_the_answer(monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]) -> None:
    base = {"strengths": (1e-4, 1e4)} if "held_out" in change else {}
    tables = given(1.0, 2.0)
    one, other = (run(replace(QUICK, **{**base, **more}), tables, monkeypatch)[1] for more in ({}, change))
    assert any(one[name].tolist() != other[name].tolist() for name in one.columns)


def test_sets_that_share_images_or_classes_are_refused() -> None:
    tables = given()
    with pytest.raises(ConfigError, match="shows the images of blobs"):
        QUICK.resolved(opened(tables, name="blobs"))
    with pytest.raises(ConfigError, match="has classes of blobs: B;"):
        QUICK.resolved(opened(tables, class_names=("B", "z")))
    with pytest.raises(ConfigError, match="other has several domains"):
        QUICK.resolved(opened(tables, domains=("elsewhere", "x")))
    with pytest.raises(ConfigError, match="k=61 of 60"):
        replace(QUICK, k=61).resolved(opened(tables))
    with pytest.raises(ConfigError, match="not opened by name"):
        QUICK.requests(replace(opened(tables), beside=None))
    scenes = open_dataset("scenes", DatasetOptions())
    with pytest.raises(ConfigError, match="scenes:material shows the images of scenes"):
        Ood(out="scenes:material").resolved(scenes)


@pytest.mark.parametrize("exif", [False, True])
def test_a_file_of_both_sets_is_refused_and_named(tmp_path: Path, exif: bool) -> None:
    random = np.random.default_rng(0)
    for place in ("a/train/x", "a/test/x", "b"):
        (tmp_path / place).mkdir(parents=True)
        for number in range(3):
            pixels = random.integers(0, 255, (4, 4, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / place / f"{number}.png")
    task = Ood(out=f"images:{tmp_path / 'b'}", k=1)
    context = replace(CONTEXT, cache=tmp_path / "cache")

    def attempt(*, exif: bool) -> None:
        options = DatasetOptions(cache=tmp_path / "cache", exif=exif)
        data = open_dataset(f"folder:{tmp_path / 'a'}", options)
        task.evaluate(Inputs(blobs(), data, task.resolved(data).requests(data), context))

    for split in ("train", "test"):
        shared = tmp_path / "b" / f"{split}.png"
        shared.write_bytes((tmp_path / f"a/{split}/x/1.png").read_bytes())
        with pytest.raises(DataError, match=rf"holds files of .*{split}, byte for byte: x/1.png"):
            attempt(exif=exif)
        shared.unlink()
    data = open_dataset(f"folder:{tmp_path / 'a'}", DatasetOptions(cache=tmp_path / "cache", exif=exif))
    for request in (requests := task.resolved(data).requests(data))[:2]:
        _refuse_shared(request, requests[2], context.cache)


def test_scores_that_are_not_finite_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_: object) -> np.ndarray:
        return np.full(130, np.nan)

    monkeypatch.setattr("ssleval.tasks.ood._METHODS", {"knn": nothing})
    with pytest.raises(ContractError, match="knn is not finite"):
        run(replace(QUICK, methods=("knn",)), given(), monkeypatch)
