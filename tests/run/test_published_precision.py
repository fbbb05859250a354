"""`--precision published`: every task at the precision of its protocol's own code, recorded as that."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ssleval.core import Context
from ssleval.core.task import tasks
from ssleval.errors import ConfigError
from ssleval.features import FeatureSource
from ssleval.run.estimate import Estimate, estimate
from ssleval.run.launch import _stored
from ssleval.run.measure import evaluate
from ssleval.run.parts import units_of
from ssleval.run.settings import build_task
from ssleval.run.sweep import Sweep, jobs_of
from tests.features.feature_fakes import Tiny

EXPECTED = {
    "knn": "fp32", "attention": "fp32", "video_segmentation": "fp32", "copy_detection": "fp32",
    "segmentation": "fp32", "depth": "fp32", "logreg": "fp16", "fewshot": "fp16", "zeroshot": "fp16",
    "linear": "fp16", "robustness": "fp16", "segmentation_knn": "fp16", "attentive": "fp16",
    "video_classification": "fp16",
}  # fmt: skip
"""By the authors' code: DINO's fp32, DINOv2's classifiers and Hummingbird under autocast to fp16."""


def test_every_task_states_what_its_authors_used() -> None:
    stated = {name: build_task(name).published_precision for name in tasks}
    assert {name: stated[name] for name in EXPECTED} == EXPECTED
    assert {stated[name] for name in stated if name not in EXPECTED} == {"fp32"}
    assert build_task("linear", {"recipe": "dino"}).published_precision == "fp32"
    assert build_task("linear", {"recipe": "mae"}).published_precision == "fp16"
    assert build_task("attentive", {"protocol": "capi"}).published_precision == "fp32"
    assert build_task("finetune", {"recipe": "mae"}).published_precision == "fp16"


def scored(folder: Path, names: list[str], precision: Any) -> dict[str, Any]:
    context = Context("cpu", precision, cache=folder / "cache", progress=False)
    settings = {name: {"count": 2} for name in names if name == "logreg"}
    data: dict[str, Any] = {"dataset": "digits", "limit": 40, "settings": settings}
    results = evaluate("pixels", names, context=context, results=folder, **data)
    return {result.task: result for result in results}


def test_results_are_those_of_the_precision_by_name(tmp_path: Path) -> None:
    names = ["knn", "logreg"]
    published = scored(tmp_path / "one", names, "published")
    assert {name: published[name].settings["precision"] for name in names} == {
        "knn": "fp32",
        "logreg": "fp16",
    }
    for name, precision in (("knn", "fp32"), ("logreg", "fp16")):
        by_name = scored(tmp_path / precision, [name], precision)[name]
        assert by_name.key == published[name].key
        assert by_name.metrics == published[name].metrics
    assert all(result.cached for result in scored(tmp_path / "one", names, "published").values())


def test_a_source_of_features_has_one_precision() -> None:
    with pytest.raises(ConfigError, match="precision published"):
        FeatureSource(Tiny(), Context(precision="published"))


def test_a_dry_run_prices_other_precisions(tmp_path: Path) -> None:
    context = Context("cpu", "published", cache=tmp_path, progress=False)
    asked = Sweep("pixels", "knn,logreg", "digits", settings=("logreg.count=2",), limit=40)
    prices = [*estimate(asked, context, None, force=False)]
    assert all(isinstance(price, Estimate) for price in prices)
    by_task = {price.tasks: price for price in prices if isinstance(price, Estimate)}
    assert by_task["knn",].precision == "fp32"
    assert set(by_task["knn",].other_precisions) == {"bf16"}
    assert set(by_task["logreg",].other_precisions) == {"fp32", "bf16"}
    assert "extraction in bf16" in str(by_task["knn",])


def test_stored_results_are_not_submitted_to_a_cluster_again(tmp_path: Path) -> None:
    scored(tmp_path, ["knn", "logreg"], "published")
    asked = Sweep("pixels", "knn,logreg", "digits", settings=("logreg.count=2",), limit=40)
    context = Context("cpu", "published", cache=tmp_path / "cache", progress=False)
    stored = [
        _stored(one, context, tmp_path, units_of(["pixels"], jobs_of(one).groups))
        for one in (asked, replace(asked, limit=30))
    ]
    (results,) = stored[0].values()
    assert [result.task for result in results] == ["knn", "logreg"]
    assert stored[1] == {}
