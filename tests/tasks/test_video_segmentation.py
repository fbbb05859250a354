from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ssleval.core import BackboneCard, Context, Dataset, DatasetCard, Samples, Split
from ssleval.core.backbone import Backbone, Features, Tokens
from ssleval.errors import ConfigError, DataError, NotApplicableError
from ssleval.features import FeatureSource
from ssleval.run.jobs import Job
from ssleval.run.measure import evaluate, measure
from ssleval.run.settings import build_task
from ssleval.tasks.video_segmentation import VideoSegmentation
from tests.tasks.feature_tables import evaluated, same_in_ranks

DAVIS = Path(__file__).parents[3] / "shared" / "data" / "davis2016"
SMALL = VideoSegmentation(size=64, radius=3, temperature=0.05)
"""The protocol at a size that tests can afford."""


class Means(Backbone):
    """Patches are the mean colour around them, less the middle grey."""

    def __init__(self) -> None:
        card = BackboneCard("means", "test", "means", embed_dim=3, patch_size=4, image_size=16)
        super().__init__(card, num_blocks=1)

    def extract(self, images: Tensor, blocks: Sequence[int], *, norm: bool) -> Features:
        patches = torch.nn.functional.avg_pool2d(images, 4).permute(0, 2, 3, 1)
        return Features(patches.mean((1, 2)), tuple(Tokens(patches) for _ in blocks))


COLOURS = np.array([(90, 110, 120), (250, 40, 30), (20, 230, 40)], dtype=np.float64)


class Drawn:
    """Clips of 64 x 80 pixels on which a red and a green square move, in noise."""

    def __init__(self, frames: int, noise: float) -> None:
        self.frames, self.noise = frames, noise

    def mask(self, index: int) -> np.ndarray:
        clip, frame = divmod(index, self.frames)
        mask = np.zeros((64, 80), dtype=np.uint8)
        mask[8 + frame * 2 : 28 + frame * 2, 10 + clip * 4 : 34 + clip * 4] = 1
        mask[36:56, 60 - frame * 2 : 76 - frame * 2] = 2
        return mask

    def image(self, index: int) -> Image.Image:
        noise = np.random.default_rng(index).normal(size=(64, 80, 3)) * self.noise
        return Image.fromarray((COLOURS[self.mask(index)] + noise).clip(0, 255).astype(np.uint8))


def drawn(clips: int = 2, frames: int = 6, noise: float = 0.0, target: Any = "video") -> Dataset:
    made = Drawn(frames, noise)

    def open_split(name: str) -> Split:
        ids = [f"clip{index // frames}/{index % frames:05d}" for index in range(clips * frames)]
        return Split(ids, made.image, None, f"{clips}-{frames}-{noise}", made.mask)

    return Dataset(DatasetCard("drawn", target, lengths={"test": clips * frames}), open_split)


Measure = Callable[..., Samples]


@pytest.fixture
def run(tmp_path: Path) -> Measure:
    def measured(dataset: Dataset, **settings: Any) -> Samples:
        source = FeatureSource(Means(), Context(cache=tmp_path, progress=False))
        return evaluated(replace(SMALL, **settings), source, dataset, source.context)

    return measured


def test_objects_that_can_be_told_apart_are_followed(run: Measure) -> None:
    samples = run(drawn())
    assert list(samples.ids) == ["clip0#1", "clip0#2", "clip1#1", "clip1#2"]
    assert (samples["j"] > 0.75).all()
    assert (samples["f"] > 0.5).all()
    assert samples["j_recall"].tolist() == [1.0] * 4
    assert samples["j_and_f"] == pytest.approx((samples["j"] + samples["f"]) / 2)


def test_processes_share_the_clips(run: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    same_in_ranks(lambda: run(drawn(clips=4)), monkeypatch)


def test_objects_that_look_like_noise_are_lost(run: Measure) -> None:
    clear, lost = run(drawn()), run(drawn(noise=2000.0))
    assert lost["j"].mean() < clear["j"].mean() - 0.3


@pytest.mark.parametrize(
    "settings",
    [
        {"size": 80},
        {"interpolation": "bicubic"},
        {"context": 1},
        {"radius": 1},
        {"topk": 2},
        {"temperature": 1.0},
        {"tolerance": 0.03},
    ],
    ids=str,
)
def test_every_setting_changes_the_answer(run: Measure, settings: dict[str, Any]) -> None:
    dataset = drawn(noise=150.0)
    before, after = run(dataset), run(dataset, **settings)
    assert before["j_and_f"].tolist() != after["j_and_f"].tolist()
    assert run(dataset)["j_and_f"].tolist() == before["j_and_f"].tolist()


def test_first_and_last_frame_do_not_score(run: Measure) -> None:
    made = drawn(clips=1)
    split = made.split("test")
    assert split.target is not None

    def garbled(index: int) -> Any:
        assert split.target is not None
        mask = split.target(index)
        return np.ascontiguousarray(mask[::-1]) if index == 5 else mask

    other = Dataset(made.card, lambda _: replace(split, target=garbled))
    assert run(other)["j_and_f"].tolist() == run(made)["j_and_f"].tolist()


def test_frames_of_the_published_size() -> None:
    def size(width: int, height: int, patch: int) -> tuple[int, int]:
        return VideoSegmentation().frame_size((width, height), patch)

    assert size(854, 480, 16) == size(854, 480, 8) == (832, 480)
    assert size(480, 854, 16) == (480, 832)
    assert size(96, 96, 16) == (448, 480)
    assert size(854, 480, 14) == (840, 476)
    with pytest.raises(ConfigError, match="size=12 holds no patch of 16"):
        VideoSegmentation(size=12).frame_size((96, 96), 16)


def test_what_is_no_clip_is_refused(run: Measure) -> None:
    with pytest.raises(NotApplicableError, match="has target 'instances'"):
        run(drawn(target="instances"))
    with pytest.raises(DataError, match="clip clip0: 2 frames"):
        run(drawn(frames=2))
    with pytest.raises(ConfigError, match="topk=0: expected a whole number >= 1"):
        build_task("video_segmentation", {"topk": "0"})
    with pytest.raises(ConfigError, match="tolerance=0: expected a number > 0"):
        build_task("video_segmentation", {"tolerance": "0"})


def test_frames_of_two_sizes_are_no_clip(run: Measure) -> None:
    made = drawn(clips=1)
    split = made.split("test")

    def image(index: int) -> Image.Image:
        return split.image(index).crop((0, 0, 64 + 16 * (index < 3), 64))

    with pytest.raises(
        DataError, match=r"clip0/00003: \(64, 64\) pixels, but its clip began with \(80, 64\)"
    ):
        run(Dataset(made.card, lambda _: replace(split, image=image)))


def test_a_first_frame_without_objects_is_refused(run: Measure) -> None:
    made = drawn(clips=1)

    def nothing(index: int) -> Any:
        return np.zeros((64, 80), np.uint8)

    empty = replace(made.split("test"), target=nothing)
    with pytest.raises(DataError, match="clip0/00000: no object"):
        run(Dataset(made.card, lambda _: empty))


def test_nothing_is_stored_and_the_data_decide_the_key(tmp_path: Path) -> None:
    context = Context(cache=tmp_path, progress=False)
    keys: set[str] = set()
    for noise in (0.0, 1.0, 0.0):
        job = Job("video_segmentation", SMALL, "drawn", drawn(clips=1, noise=noise))
        (result,) = measure(Means(), [job], context, None)
        keys.add(result.key)
        assert result.timings["images_extracted"] == 0
        assert list(result.data["fingerprints"]) == ["drawn/test"]
    assert len(keys) == 2
    assert not list(tmp_path.rglob("*.bin"))


@pytest.mark.skipif(not DAVIS.is_dir(), reason="needs the clips of ../shared/data/davis2016")
def test_a_real_clip(tmp_path: Path) -> None:
    root = tmp_path / "one"
    for kind in ("JPEGImages", "Annotations"):
        (root / kind / "480p").mkdir(parents=True)
        (root / kind / "480p" / "cows").symlink_to(DAVIS / kind / "480p" / "cows")
    (root / "ImageSets" / "2016").mkdir(parents=True)
    (root / "ImageSets" / "2016" / "val.txt").write_text("cows\n")
    (result,) = evaluate(
        "pixels",
        "video_segmentation",
        dataset=f"davis:{root}",
        settings={"video_segmentation": {"size": 128}},
        context=Context(cache=tmp_path, progress=False),
    )
    assert result.metrics["j_and_f"].n == 1
    assert 0.1 < result.metrics["j_and_f"].value < 0.95


def test_objects_of_a_clip_are_one_cluster(run: Measure) -> None:
    samples = run(drawn(clips=3))
    assert samples.cluster == "clip"
    clips = [name.rpartition("#")[0] for name in samples.ids]
    assert len(set(clips)) == len(set(samples["clip"].tolist())) == 3
    assert len(set(zip(clips, samples["clip"].tolist(), strict=True))) == 3
