"""Video classification: which frames are seen, how they are put together, what heads see."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssleval.backbones.zoo import load
from ssleval.core import Context, Dataset, DatasetCard, DatasetOptions, FeatureTable, Readout, Samples, Split
from ssleval.core.clips import frame_at, frames_of
from ssleval.core.task import Inputs, refuse_dataset
from ssleval.datasets.catalog import open_dataset
from ssleval.errors import ConfigError, ContractError, NotApplicableError
from ssleval.features import FeatureSource
from ssleval.heads.linear_recipes import RECIPES
from ssleval.heads.probes import GridFit
from ssleval.tasks.video_classification import VideoClassification
from tests.tasks.feature_tables import CONTEXT, Tables

QUICK = VideoClassification(inputs="pooled", iterations=60, batch_size=32, frames=4)


class Frames:
    """Four frames a clip: appearance is class // 2, the order of the last feature is class % 2."""

    def __init__(self, labels: np.ndarray) -> None:
        self.labels = labels

    def __call__(self, index: int) -> Image.Image:
        raise AssertionError("a clip is seen by its frames")

    def frame(self, index: int, place: int, count: int) -> Image.Image:
        return Image.new("RGB", (8, 8), (index, place, count))


def clips(counts: dict[str, int]) -> Dataset:
    labels = {name: np.arange(count) % 4 for name, count in counts.items()}

    def opened(name: str) -> Split:
        ids = [f"{name}{row}" for row in range(counts[name])]
        return Split(ids, Frames(labels[name]), labels[name], name)

    return Dataset(DatasetCard("c", "clips", ("a<", "a>", "b<", "b>"), lengths=counts), opened)


def moving(counts: dict[str, int], frames: int) -> Tables:
    def features(readout: Readout, split: str) -> np.ndarray:
        labels = np.repeat(np.arange(counts[split]) % 4, frames)
        steps = np.tile(np.arange(frames) - (frames - 1) / 2, counts[split])
        random = np.random.default_rng(len(split))
        looks = np.where(labels < 2, -1.0, 1.0)
        moves = steps * np.where(labels % 2, 1.0, -1.0)
        return (np.stack([looks, moves], 1) + 0.2 * random.normal(size=(len(labels), 2))).astype(np.float32)

    return Tables({name: np.zeros(count * frames) for name, count in counts.items()}, features, width=2)


COUNTS = {"train": 80, "test": 40}


def run(task: VideoClassification, tables: Tables, dataset: Dataset) -> Samples:
    task = task.resolved(dataset)
    return task.evaluate(Inputs(tables, dataset, task.requests(dataset), CONTEXT))


@pytest.mark.parametrize(
    ("length", "places"),
    [(8, [0, 1, 2, 3, 4, 5, 6, 7]), (16, [1, 3, 5, 7, 9, 11, 13, 15]), (3, [0, 0, 0, 1, 1, 2, 2, 2])],
)
def test_frames_are_the_middles_of_equal_parts(length: int, places: list[int]) -> None:
    assert [frame_at(place, 8, length) for place in range(8)] == places


def test_frames_come_clip_by_clip_in_order_and_of_parts_of_a_split_too() -> None:
    dataset = frames_of(clips(COUNTS).limited(5), 3)
    assert dataset.card.lengths == {"train": 15, "test": 5 * 3}
    split, whole = dataset.split("test"), clips(COUNTS).split("test")
    pixels: list[Any] = [split.image(row).getpixel((0, 0)) for row in range(15)]
    assert [pixel[1] for pixel in pixels] == [0, 1, 2] * 5
    assert {pixel[2] for pixel in pixels} == {3}
    assert [split.ids[row] for row in (0, 4)] == [
        f"{whole.ids[pixels[0][0]]}/0",
        f"{whole.ids[pixels[4][0]]}/1",
    ]
    assert (
        frames_of(clips(COUNTS), 4).split("test").fingerprint
        != frames_of(clips(COUNTS), 3).split("test").fingerprint
    )


def test_clips_without_frames_break_a_promise() -> None:
    def still(index: int) -> Image.Image:
        return Image.new("RGB", (8, 8), (index, 0, 0))

    def opened(name: str) -> Split:
        return replace(clips(COUNTS).split(name), image=still)

    with pytest.raises(ContractError, match="without frames"):
        frames_of(replace(clips(COUNTS), open=opened), 2).split("test")


def test_the_mean_knows_what_is_seen_and_only_the_order_knows_what_moves() -> None:
    tables, dataset = moving(COUNTS, 4), clips(COUNTS)
    right = {
        fusion: run(replace(QUICK, fusion=fusion), tables, dataset)["correct@heldout"].mean()
        for fusion in ("mean", "concat")
    }
    assert right["concat"] > 0.9
    assert 0.3 < right["mean"] < 0.75


@pytest.mark.parametrize("fusion", ["mean", "concat"])
def test_heads_see_what_was_put_together_by_hand(fusion: str) -> None:
    """The grid of `linear`, on features that a loop averages or lays side by side."""
    tables, dataset = moving(COUNTS, 4), clips(COUNTS)
    task = replace(QUICK, fusion=fusion).resolved(dataset)
    samples = run(task, tables, dataset)
    pooled, fused = Readout("pooled"), dict[str, FeatureTable]()
    for name, count in COUNTS.items():
        rows = tables.features(pooled, name)
        each = [[rows[4 * clip + frame] for frame in range(4)] for clip in range(count)]
        by_hand = [np.mean(one, axis=0) if fusion == "mean" else np.concatenate(one) for one in each]
        fused[name] = FeatureTable(
            [""] * count, np.arange(count) % 4, {pooled: np.array(by_hand, np.float32)}, np.arange(count)
        )
    labels = np.arange(80) % 4
    fit = GridFit(RECIPES["dinov2"], (pooled,), task.learning_rates, 60, 32, 4, CONTEXT)
    everything = np.ones(80, bool), fused["test"], np.ones(40, bool)
    found = fit.predictions([fused["train"]], labels, everything[0], *everything[1:])
    best = (found["class"] == (np.arange(40) % 4)[:, None]).mean(axis=0).max()
    assert samples["correct@paper"].mean() == pytest.approx(best)


def test_other_targets_and_missing_frames_are_refused() -> None:
    with pytest.raises(NotApplicableError, match="clips with a class each"):
        refuse_dataset("video_classification", QUICK.needs, DatasetCard("x", "label", lengths=COUNTS))
    tables = moving({"train": 79, "test": 40}, 4)
    with pytest.raises(ConfigError, match="frames cannot be left out"):
        run(QUICK, tables, clips(COUNTS))


def test_a_model_without_class_token_has_its_descriptor() -> None:
    assert VideoClassification().suited(lambda readout: readout.kind != "cls").inputs == "pooled"
    assert VideoClassification().suited(lambda _: True).inputs == "blocks"


def test_clips_of_folders_and_a_real_network_end_to_end(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for split, each in (("train", 12), ("test", 4)):
        for name, colour in (("dark", 40), ("light", 200)):
            for clip in range(each):
                folder = tmp_path / split / name / f"clip{clip}"
                folder.mkdir(parents=True)
                for frame in range(3):
                    pixels = random.integers(0, 40, (24, 24, 3)) + colour
                    Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{frame}.png")
    dataset = open_dataset(f"clips:{tmp_path}", DatasetOptions(cache=tmp_path))
    task = replace(QUICK, frames=2, preprocessing="card").resolved(dataset)
    context = Context(device="cpu", num_workers=0, progress=False, cache=tmp_path / "cache")
    source = FeatureSource(load("pixels"), context)
    requests = task.requests(dataset)
    source.prepare(requests)
    samples = task.evaluate(Inputs(source, dataset, requests, context))
    assert samples["correct@heldout"].mean() == 1
    assert samples.ids[0] == "dark/clip0"
