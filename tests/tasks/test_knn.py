from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ssleval.core import BackboneCard, Context, Dataset, DatasetCard, Geometry, Samples, Split
from ssleval.core.backbone import Backbone, Features, Tokens
from ssleval.errors import ConfigError, NotApplicableError
from ssleval.features import FeatureSource
from ssleval.run.settings import build_task
from ssleval.tasks.knn import Knn
from tests.tasks.feature_tables import blobs, dataset, evaluated

CARD = BackboneCard("colours", "test", "colours", embed_dim=6, patch_size=4, image_size=12)
SMALL = Knn(ks=(5, 2), resize=24, crop=16)
"""The protocol at a size that tests can afford."""


class Colours(Backbone):
    """Patches are mean and middle colours; the class token keeps the first patch, pooled the largest."""

    def __init__(self) -> None:
        super().__init__(CARD, num_blocks=1)

    def extract(self, images: Tensor, blocks: Sequence[int], *, norm: bool) -> Features:
        patches = torch.nn.functional.avg_pool2d(images, 4)
        grid = torch.cat([patches, images[:, :, 1::4, 1::4]], dim=1).permute(0, 2, 3, 1)
        return Features(grid.amax((1, 2)), tuple(Tokens(grid, grid[:, 0, 0]) for _ in blocks))


class Drawn:
    """Noise around the colour of the label, as strong as `noise` says."""

    def __init__(self, labels: np.ndarray, noise: float, seed: int) -> None:
        self.labels, self.noise, self.seed = labels, noise, seed

    def __call__(self, index: int) -> Image.Image:
        random = np.random.default_rng([self.seed, index])
        colour = np.random.default_rng(self.labels[index]).uniform(0, 255, 3)
        pixels = colour + self.noise * random.normal(size=(30, 40, 3))
        return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def drawn(noise: float = 0.0, *, train: int = 60, test: int = 80, shuffled: bool = False) -> Dataset:
    counts = {"train": train, "test": test}

    def open_split(name: str) -> Split:
        seed = list(counts).index(name)
        labels = np.arange(counts[name]) % 6
        shown = np.random.default_rng(9).permutation(labels) if shuffled else labels
        ids = [f"{name}{i}" for i in range(counts[name])]
        return Split(ids, Drawn(labels, noise, seed), shown, f"{name}-{noise}-{counts[name]}-{shuffled}")

    return Dataset(DatasetCard("drawn", class_names=tuple("abcdef"), lengths=counts), open_split)


Measure = Callable[..., Samples]


@pytest.fixture
def measure(tmp_path: Path) -> Measure:
    def run(dataset: Dataset, task: Knn = SMALL, **settings: Any) -> Samples:
        task = replace(task, **settings)
        source = FeatureSource(Colours(), Context(cache=tmp_path, progress=False))
        return evaluated(task, source, dataset, source.context)

    return run


def scores(samples: Samples, task: Knn = SMALL) -> dict[str, float]:
    return {metric.name: metric.score(samples) for metric in task.metrics}


def test_separable_classes_are_all_found(measure: Measure) -> None:
    found = scores(measure(drawn(noise=3.0)))
    assert found == {f"{score}@{k}": 1.0 for score in ("top1", "top5", "mean_per_class") for k in (5, 2)}


def test_shuffled_labels_are_at_chance(measure: Measure) -> None:
    found = scores(measure(drawn(noise=3.0, test=600, shuffled=True)))
    # Chance is 1/6 for top-1; for top-5 it is that any of five neighbours has the label, since classes
    # without a vote do not count. Labels of equal images vary, so four deviations of 600.
    assert abs(found["top1@5"] - 1 / 6) < 4 * (5 / 36 / 600) ** 0.5
    assert abs(found["top5@5"] - (1 - (5 / 6) ** 5)) < 4 * (1 / 4 / 600) ** 0.5


def test_samples_say_what_was_predicted(measure: Measure) -> None:
    samples = measure(drawn(noise=90.0))
    assert set(samples.columns) == {"label"} | {
        f"{name}@{k}" for name in ("predicted", "top1", "top5") for k in (5, 2)
    }
    assert list(samples.ids[:2]) == ["test0", "test1"]
    for k in (5, 2):
        right = samples[f"predicted@{k}"] == samples["label"]
        assert samples[f"top1@{k}"].tolist() == right.tolist()
        assert 0 < right.mean() < samples[f"top5@{k}"].mean()


@pytest.mark.parametrize(
    "settings",
    [
        {"ks": (7, 2)},
        {"temperature": 0.001},
        {"readout": "cls"},
        {"readout": "mean"},
        {"readout": "gem"},
        {"preprocessing": "card"},
        {"resize": 32},
        {"crop": 20},
        {"interpolation": "bilinear"},
    ],
    ids=str,
)
def test_every_setting_changes_the_answer(measure: Measure, settings: dict[str, Any]) -> None:
    dataset = drawn(noise=120.0, test=300)
    before, after = measure(dataset), measure(dataset, **settings)
    first = settings.get("ks", SMALL.ks)[0]
    assert before["predicted@5"].tolist() != after[f"predicted@{first}"].tolist()


def test_the_first_k_leads() -> None:
    assert [metric.name for metric in Knn().metrics][:2] == ["top1@20", "top1@10"]
    assert Knn(ks=(3, 20)).metrics[0].name == "top1@3"


def test_ks_beyond_the_training_set_are_left_out_in_the_open() -> None:
    task = Knn().resolved(drawn(train=60))
    assert task.ks == (20, 10)
    names = [f"{score}@{k}" for score in ("top1", "top5", "mean_per_class") for k in (20, 10)]
    assert [metric.name for metric in task.metrics] == names
    assert Knn().resolved(drawn(train=100)).ks == (20, 10, 100)
    assert Knn().resolved(drawn(train=12)).ks == (10,)
    with pytest.raises(ConfigError, match=r"among 6 training images; --set knn\.ks=6 or fewer"):
        Knn().resolved(drawn(train=6))


def test_ks_beyond_what_could_be_decoded_are_refused() -> None:
    tables = blobs(train=4)
    promised = dataset(tables, lengths={"train": 6, "test": 90})
    with pytest.raises(ConfigError, match=r"ks=\(6, 2\), but only 4 training images could be decoded"):
        evaluated(Knn(ks=(6, 2)), tables, promised)


def test_fewer_test_images_than_any_chunk_work(measure: Measure) -> None:
    assert scores(measure(drawn(noise=3.0, test=1)))["top1@5"] == 1.0


def test_data_without_one_label_per_image_has_no_knn(measure: Measure) -> None:
    dataset = drawn()
    for target in ("multilabel", "mask"):
        other = replace(dataset, card=replace(dataset.card, target=target))
        with pytest.raises(NotApplicableError, match=f"drawn has target '{target}'"):
            measure(other)


def test_scoring_the_training_split_is_refused(measure: Measure) -> None:
    with pytest.raises(ConfigError, match="every image would find itself"):
        measure(drawn().evaluated_on("train"))


def test_default_requests_are_the_published_geometry() -> None:
    train, test = Knn().requests(drawn())
    assert (train.split, test.split) == ("train", "test")
    geometry = train.geometry
    assert isinstance(geometry, Geometry)
    assert (geometry.resize, geometry.mode, geometry.crop, geometry.interpolation) == (
        256,
        "short",
        224,
        "bicubic",
    )
    assert [str(readout) for readout in train.readouts] == ["pooled"]
    assert Knn(preprocessing="card").requests(drawn())[0].geometry is None


def test_settings_reach_it_as_text() -> None:
    task = build_task("knn", {"ks": "5,1", "temperature": "0.1", "readout": "cls"})
    assert task == Knn(ks=(5, 1), temperature=0.1, readout="cls")


@pytest.mark.parametrize("wrong", [{"ks": ()}, {"ks": (0,)}, {"ks": (5, 5)}, {"temperature": -1.0}], ids=str)
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"knn\.(ks|temperature)="):
        Knn(**wrong)
