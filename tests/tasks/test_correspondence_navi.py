"""Recall on a miniature of NAVI, against what its geometry says without depth, poses or crops of ours."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ssleval.core import Context, DatasetOptions, Samples
from ssleval.datasets.catalog import open_dataset
from ssleval.features import FeatureSource, Live
from ssleval.metrics.intervals import estimates
from ssleval.tasks.correspondence import Correspondence
from tests.datasets.sets.navi_files import WILD, Camera, as_probe3d, box_of, enlarged, write_scene
from tests.tasks.feature_tables import evaluated
from tests.tasks.test_correspondence import Colours

STEP, MATCHES = 16, 150
BINS = (0.0, 30.0, 60.0, 90.0, 120.0)
TASK = Correspondence(
    protocol="probe3d",
    size=64,
    step=STEP,
    matches=MATCHES,
    centimetres=(2.0, 1.0),
    pixels=(25.0,),
    degrees=BINS,
    alphas=(),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("navi")
    for name, cameras in WILD.items():
        write_scene(folder / name / "wild_set", cameras)
        write_scene(folder / name / "multiview_00", [Camera(0)])
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> FeatureSource:
    context = Context(cache=tmp_path_factory.mktemp("cache"), progress=False, num_workers=0)
    return FeatureSource(Colours(), context)


@pytest.fixture(scope="module")
def samples(root: Path, source: FeatureSource) -> Samples:
    return measured(root, source)


def measured(root: Path, source: FeatureSource, **settings: Any) -> Samples:
    dataset = open_dataset(f"navi_pairs:{root}", DatasetOptions())
    return evaluated(replace(TASK, **settings), source, dataset, source.context)


def cells(path: Path, camera: Camera, source: FeatureSource) -> tuple[Tensor, np.ndarray, int]:
    """Return the tokens of every 16th pixel that shows the sphere, its place on the sphere, and the crop."""
    index = np.arange(camera.height * camera.width, dtype=np.int32).reshape(camera.height, camera.width)
    pixel = as_probe3d(Image.fromarray(index), Image.Resampling.NEAREST)
    places = camera.on_object().reshape(-1, 3)
    top, left, side = box_of(np.isfinite(places[pixel[0]][..., 0]))
    crop = (slice(None), slice(top, top + side), slice(left, left + side))
    with Image.open(path) as stored:
        colours = enlarged(as_probe3d(stored, Image.Resampling.BICUBIC)[crop])
    image = Image.fromarray(colours.permute(1, 2, 0).numpy().astype(np.uint8))
    live = Live(source.backbone, source.context)
    grid = live.read_image(image, live.square("test", TASK.size, "bicubic"), TASK._readout)
    side_of_cells = 512 // STEP
    fine = functional.interpolate(grid.permute(2, 0, 1)[None], (side_of_cells,) * 2, mode="bicubic")[0]
    place = places[enlarged(pixel[crop])[0, ::STEP, ::STEP].numpy().astype(int)]
    shown = np.isfinite(place[..., 0])
    return fine.permute(1, 2, 0)[torch.from_numpy(shown)], place[shown], side


def expected(root: Path, name: str, source: FeatureSource) -> dict[str, float]:
    """Return recall as probe3d counts it, from where on the sphere the matched pixels are."""
    first, _, second = name.partition(":")
    owner, numbers = first.split("/")[0], (int(Path(first).stem), int(Path(second).stem))
    views = [
        cells(root / owner / f"wild_set/images/{number:03}.jpg", WILD[owner][number], source)
        for number in numbers
    ]
    ours, theirs = (view[0] / view[0].norm(dim=1, keepdim=True) for view in views)
    distances, rows = (1 - ours.double() @ theirs.double().T).clip(1e-9).sort(dim=1)
    best = (distances[:, 0] / distances[:, 1]).argsort()[:MATCHES].numpy()
    matched = views[0][1][best], views[1][1][rows[best, 0].numpy()]
    camera = WILD[owner][numbers[1]]
    seen = [places @ camera.turn.T + np.array(camera.shift) for places in matched]
    scale = camera.focal * 512 / camera.height * 512 / views[1][2]
    off = np.linalg.norm(scale * (seen[0][:, :2] / seen[0][:, 2:] - seen[1][:, :2] / seen[1][:, 2:]), axis=1)
    millimetres = np.linalg.norm(matched[0] - matched[1], axis=1)
    turned = abs(WILD[owner][numbers[0]].degrees - camera.degrees)
    return {
        "recall_cm@2": (millimetres < 20).mean(),
        "recall_cm@1": (millimetres < 10).mean(),
        "recall_px@25": (off < 25).mean(),
        "degrees": turned,
    }


def test_recall_is_that_of_the_known_geometry(root: Path, source: FeatureSource, samples: Samples) -> None:
    assert samples["points"].tolist() == [MATCHES] * 4
    right = [expected(root, name, source) for name in samples.ids]
    for column in right[0]:
        # A pixel of the miniature is more than a millimetre wide: a few matches lie that near to a limit.
        np.testing.assert_allclose(samples[column], [row[column] for row in right], atol=0.04)
    assert np.ptp(samples["recall_cm@2"]) > 0.2, "all pairs alike would hide an exchange of two"


def test_recall_is_given_by_the_rotation_of_the_cameras(samples: Samples) -> None:
    scores = {metric.name: metric.score(samples) for metric in TASK.metrics}
    for (low, high), turned in zip(pairwise(BINS), (10, 45, 75, 100), strict=True):
        (row,) = np.flatnonzero(np.isclose(samples["degrees"], turned))
        assert scores[f"recall_cm_{low:g}_{high:g}@2"] == samples["recall_cm@2"][row]


def test_intervals_are_over_objects(samples: Samples) -> None:
    assert samples.cluster == "group"
    assert samples["group"].tolist() == [0, 0, 0, 1]
    alone = replace(samples, cluster="")
    metrics = [metric for metric in TASK.metrics if metric.name == "recall_cm@2"]
    (of_objects,), (of_pairs,) = (estimates(metrics, one).values() for one in (samples, alone))
    assert of_objects.value == of_pairs.value
    assert (of_objects.low, of_objects.high) != (of_pairs.low, of_pairs.high)
