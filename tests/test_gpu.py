"""What must be the same on an accelerator as on the CPU, each within a stated tolerance.

``SSLEVAL_GPU_TESTS=cpu`` runs these tests where there is no accelerator, to try the tests themselves.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssleval import evaluate
from ssleval.core import Context, RandomView, Readout
from ssleval.features import FeatureSource
from ssleval.heads.dense.depth import Bins, fit_bins
from ssleval.heads.dense.grid import Fit, LinearHead
from ssleval.heads.dense.segmentation import fit_classes
from ssleval.heads.knn import knn_predict, nearest_neighbours
from ssleval.heads.logistic import fit_path
from ssleval.heads.probes import fit_linear
from ssleval.tasks.linear import Linear
from tests.features.feature_fakes import (
    CLS,
    GEM,
    MEAN,
    PATCHES,
    POOLED,
    Tiny,
    dataset_of,
    request_of,
    split_of,
)
from tests.tasks.feature_tables import blobs, dataset

DEVICE = os.environ.get("SSLEVAL_GPU_TESTS", "cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE != "cpu" and not torch.cuda.is_available(), reason="no CUDA device"),
]
READOUTS = (POOLED, CLS, MEAN, GEM, PATCHES, Readout("patches", -2, norm=False))


def on_both(call: Callable[[str], Any]) -> tuple[Any, Any]:
    return call("cpu"), call(DEVICE)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 0.1), ("fp16", 0.02)], ids=str)
@pytest.mark.parametrize("workers", [0, 2])
def test_extraction_of_every_readout(tmp_path: Path, precision: Any, tolerance: float, workers: int) -> None:
    def arrays(device: str, kind: Any = precision) -> Any:
        context = Context(
            device, kind, 4, workers, cache=tmp_path / f"{device}{kind}{workers}", progress=False
        )
        source = FeatureSource(Tiny(), context)
        return source.load(request_of(dataset_of(split_of(22)), *READOUTS)).arrays

    exact, there = arrays("cpu", "fp32"), arrays(DEVICE)
    for readout in READOUTS:
        one, two = (values[readout].astype(np.float64) for values in (exact, there))
        assert one.shape == two.shape
        assert np.linalg.norm(one - two) <= tolerance * np.linalg.norm(one), readout


def test_views_and_fast_pixels(tmp_path: Path) -> None:
    def array(device: str) -> np.ndarray:
        context = Context(device, cache=tmp_path / device, progress=False, pixels="fast")
        request = request_of(dataset_of(split_of(9)), PATCHES, geometry=RandomView(0, 16))
        return np.array(FeatureSource(Tiny(), context).load(request)[PATCHES], np.float32)

    np.testing.assert_allclose(*on_both(array), atol=2e-3, rtol=2e-3)


def test_the_batch_that_fits_is_found(tmp_path: Path) -> None:
    context = Context(DEVICE, cache=tmp_path, progress=False)
    source = FeatureSource(Tiny(), context)
    (price,) = source.prices(source.passes([request_of(dataset_of(split_of(9)), POOLED)]))
    assert price.batch_size == (32 if DEVICE == "cpu" else 256)


def test_neighbours() -> None:
    random = np.random.default_rng(0)
    train, queries = (random.standard_normal((count, 64)).astype(np.float32) for count in (3000, 200))
    labels = random.integers(0, 20, 3000)
    one, two = on_both(
        lambda device: knn_predict(
            train, labels, queries, ks=(20, 200), temperature=0.07, num_classes=20, device=device
        )
    )
    for k in one:
        np.testing.assert_array_equal(one[k], two[k])
    one, two = on_both(lambda device: nearest_neighbours(train, queries, k=5, device=device, settled=True))
    for mine, theirs in zip(one, two, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)


def test_linear_heads() -> None:
    tables = blobs(1.2, train=200, test=150)
    train, test = (tables.load(request) for request in Linear().requests(dataset(tables)))
    one, two = on_both(lambda device: fit_linear(train, 3, 40, 0.1, Context(device))(test))
    np.testing.assert_allclose(one, two, atol=1e-2, rtol=1e-2)
    assert (one.argmax(1) == two.argmax(1)).mean() > 0.98


def test_logistic_regression() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, 300)
    features = (random.standard_normal((300, 16)) + labels[:, None]).astype(np.float32)

    def logits(device: str) -> np.ndarray:
        (fitted,) = fit_path(features, labels, [1.0], num_classes=4, device=device)
        return fitted.scores(features)

    np.testing.assert_allclose(*on_both(logits), atol=1e-3)


def test_dense_heads() -> None:
    grids = torch.randn(6, 3, 3, 5, generator=torch.Generator().manual_seed(0))
    masks = [np.full((6, 6), row % 2, np.uint8) for row in range(6)]
    depths = [np.full((6, 6), 1.0 + row, np.float32) for row in range(6)]
    settings = Fit(5, 2, 0.1, 0.0, 16)

    def weights(device: str) -> tuple[np.ndarray, ...]:
        def rows_of(rows: np.ndarray) -> torch.Tensor:
            return grids.to(device)[torch.from_numpy(rows).to(device)]

        context = Context(device)
        heads = (
            fit_classes((rows_of, masks.__getitem__, 6), settings, 2, context),
            fit_bins(
                LinearHead(5, 16, normalise=False, seed=0),
                (rows_of, depths.__getitem__, 6),
                settings,
                Bins(0.1, 8.0, 16, 2),
                context,
            ),
        )
        return tuple(head.linear.weight.detach().float().cpu().numpy() for head in heads)

    for one, two in zip(*on_both(weights), strict=True):
        np.testing.assert_allclose(one, two, atol=2e-3, rtol=2e-2)


@pytest.mark.parametrize("task", ["knn", "logreg", "fewshot", "spectrum"])
def test_tasks_end_to_end(tmp_path: Path, task: str) -> None:
    def scores(device: str) -> dict[str, float]:
        context = Context(device, cache=tmp_path / device, progress=False)
        (result,) = evaluate("random:vit_tiny", task, dataset="digits", limit=60, context=context)
        assert result.hardware["device"] == context.device
        return {name: score.value for name, score in result.metrics.items()}

    one, two = on_both(scores)
    # An item or two of 60 may lie on the other side of a threshold.
    assert one == pytest.approx(two, abs=0.04, rel=0.02)
