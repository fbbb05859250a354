"""Every task, with every head behind it, and the trainer: on an accelerator as on the CPU.

``SSLEVAL_GPU_TESTS=cpu`` runs these tests where there is no accelerator, as those of ``test_gpu``.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssleval import evaluate
from ssleval.backbones.zoo import load
from ssleval.core import Context, DatasetOptions
from ssleval.core.backbone import Backbone
from ssleval.heads.dense.dpt import DPT
from ssleval.heads.dense.grid import Fit
from ssleval.heads.dense.normals import fit_normals
from ssleval.run.suites import Measurement, read_suite
from ssleval.train.logfile import read_log
from ssleval.train.loop import train
from tests import test_gpu
from tests.datasets.scenes.small_copies import rendered, shorten
from tests.tasks.clip_models import tiny_clip
from tests.tasks.feature_tables import evaluated
from tests.tasks.test_robustness import SMALL, Eyes, relative
from tests.test_gpu import on_both
from tests.train.tiny_training import losses, pictures, tiny

pytestmark = test_gpu.pytestmark

LENGTHS = {
    "train": 100,
    "test": 40,
    "video": 24,
    "actions": 240,
    "pairs": 10,
    "copies_queries": 20,
    "copies_database": 20,
    "retrieval_queries": 4,
    "retrieval_gallery": 36,
}
"""Items of every split of the small copy of ``scenes``."""

SHORTER: dict[str, dict[str, Any]] = {
    "linear": {"iterations": 40},
    "fewshot": {"shots": (1, 2)},
    "video_classification": {"iterations": 40},
    "finetune": {"iterations": 20},
    "segmentation": {"iterations": 40},
    "depth": {"iterations": 101},
    "normals": {"iterations": 40},
    "segmentation_logreg": {"count": 3},
    "detection": {"iterations": 40},
    "corruptions": {"items": 4},
    "instance_recognition": {"ks": (1, 2)},
    "copy_detection": {"whitening": "none"},
}
"""Settings in place of those of the suite."""

MORE = [
    Measurement("linear", "scenes", {"preprocessing": "card", "recipe": "dino", "iterations": 40}),
    Measurement("linear", "scenes", {"preprocessing": "card", "recipe": "mae", "iterations": 40}),
    Measurement("segmentation", "scenes:mask", {"protocol": "paper", "size": 56, "iterations": 4}),
]
"""Other heads of tasks."""

OF_TEXTS = {"zeroshot": "scenes", "caption_retrieval": "scenes:captions"}
LINES = [
    Measurement(line.task, line.dataset, {**line.settings, **SHORTER.get(line.task, {})})
    for line in read_suite("all")
] + MORE


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> DatasetOptions:
    """A cache that holds the first items of every split of ``scenes``."""
    return rendered(tmp_path_factory.mktemp("cache"), LENGTHS)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch, LENGTHS)


def scores(
    device: str, model: str | Backbone, line: Measurement, options: DatasetOptions, folder: Path
) -> dict[str, float]:
    context = Context(device, cache=folder / device, progress=False)
    (result,) = evaluate(
        model, line.task, dataset=line.dataset, settings={line.task: line.settings}, options=options,
        context=context,
    )  # fmt: skip
    assert result.hardware["device"] == context.device
    return {name: score.value for name, score in result.metrics.items()}


@pytest.mark.parametrize("line", LINES, ids=lambda line: f"{line.task}-{line.dataset}")
def test_tasks_on_scenes(line: Measurement, options: DatasetOptions, tmp_path: Path) -> None:
    one, two = on_both(lambda device: scores(device, "dino_scenes", line, options, tmp_path))
    # A few items of 40 may lie on the other side of a threshold.
    assert one == pytest.approx(two, abs=0.08, rel=0.05)


@pytest.mark.parametrize("task", OF_TEXTS)
def test_tasks_with_texts(task: str, options: DatasetOptions, tmp_path: Path) -> None:
    tiny_clip(tmp_path / "clip")
    line = Measurement(task, OF_TEXTS[task], {})

    def measured(device: str) -> dict[str, float]:
        model = load(f"open_clip:{tmp_path / 'clip'}", device=device)
        return scores(device, model, line, options, tmp_path)

    one, two = on_both(measured)
    assert one == pytest.approx(two, abs=0.08, rel=0.05)


def test_the_convolutional_head() -> None:
    """By itself: the model of the other tests has two blocks, and it reads four."""
    grids = torch.randn(4, 3, 3, 8, generator=torch.Generator().manual_seed(0))
    normals = np.zeros((9, 9, 3), np.float32)
    normals[..., 2] = -1

    def outputs(device: str) -> Any:
        def read(rows: np.ndarray) -> torch.Tensor:
            return grids[torch.from_numpy(rows)].to(device)

        how, context = Fit(3, 2, 0.01, 0.0, 16), Context(device, progress=False)
        head = fit_normals(DPT(8, 4, 6, seed=0), (read, lambda _row: normals, 4), how, context)
        return head(grids.to(device)).detach().cpu().numpy()

    one, two = on_both(outputs)
    np.testing.assert_allclose(one, two, rtol=0.02, atol=0.02)


def test_robustness() -> None:
    def predicted(device: str) -> Any:
        context = Context(device, progress=False)
        return evaluated(SMALL, Eyes(), relative("imagenet_r", count=48), context)["predicted"]

    one, two = on_both(predicted)
    assert (one == two).mean() > 0.9


def test_the_trainer(tmp_path: Path) -> None:
    data = pictures(tmp_path / "pictures")
    folders = iter((tmp_path / "first", tmp_path / "second"))

    def trained(device: str) -> list[float]:
        folder = next(folders)
        train(tiny(), data, folder, device=device)
        return [loss for _, loss in losses(read_log(folder))]

    np.testing.assert_allclose(*on_both(trained), rtol=2e-2)
