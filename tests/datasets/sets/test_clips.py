"""clips: folders of frames and videos, by class."""

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssleval.core import DatasetOptions
from ssleval.datasets.catalog import open_dataset
from ssleval.datasets.sets import clips as module
from ssleval.errors import ConfigError, DataError


def paint(path: Path, level: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 5), (level,) * 3).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    levels = {
        "train/b/1": [1, 2],
        "train/a/z": [3, 4, 5, 6],
        "train/a/y": [7],
        "val/a/k": [8, 9],
        "val/b/k": [10],
    }
    for clip, frames in levels.items():
        for number, level in enumerate(frames):
            paint(tmp_path / clip / f"{number:03}.png", level)
    return tmp_path


def test_clips_come_by_class_and_name_with_their_frames_in_order(root: Path) -> None:
    dataset = open_dataset(f"clips:{root}", DatasetOptions())
    assert (dataset.card.class_names, dataset.card.test_split) == (("a", "b"), "val")
    split = dataset.split("train")
    assert list(split.ids) == ["a/y", "a/z", "b/1"]
    assert split.targets is not None
    assert split.targets.tolist() == [0, 0, 1]
    frame = pickle.loads(pickle.dumps(split.image)).frame
    assert [frame(1, place, 2).getpixel((0, 0))[0] for place in (0, 1)] == [4, 6]
    assert [frame(2, place, 8).getpixel((0, 0))[0] for place in range(8)] == [1, 1, 1, 1, 2, 2, 2, 2]
    assert split.image(1).getpixel((0, 0)) == (5, 5, 5)


def test_the_fingerprint_moves_with_frames_and_labels(root: Path) -> None:
    mark = open_dataset(f"clips:{root}", DatasetOptions()).split("train").fingerprint
    assert open_dataset(f"clips:{root}", DatasetOptions()).split("train").fingerprint == mark
    paint(root / "train/b/1/002.png", 1)
    assert open_dataset(f"clips:{root}", DatasetOptions()).split("train").fingerprint != mark


def test_clips_of_one_file_each_say_which(root: Path) -> None:
    assert open_dataset(f"clips:{root}", DatasetOptions()).split("train").file is None
    for clip in ("train/a/z", "train/b/1", "val/a/k"):
        for frame in sorted((root / clip).iterdir())[1:]:
            frame.unlink()
    split = open_dataset(f"clips:{root}", DatasetOptions()).split("train")
    assert split.file is not None
    assert split.file(1) == str(root / "train/a/z/000.png")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("train/a/notes.txt", "neither a video"), ("train/a/z/notes.txt", "not an image"),
        ("val/c/k/0.png", "c not in both train/ and val/"), ("train/c/k/0.png", "c not in both train/"),
    ],
)  # fmt: skip
def test_what_is_no_clip_is_refused(root: Path, name: str, message: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    with pytest.raises(DataError, match=message):
        open_dataset(f"clips:{root}", DatasetOptions())


def test_a_clip_without_frames_is_refused(root: Path) -> None:
    (root / "train/a/empty").mkdir()
    with pytest.raises(DataError, match="without frames"):
        open_dataset(f"clips:{root}", DatasetOptions())


def test_a_video_without_its_decoder_says_what_to_install(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "train/a/clip.mp4").write_bytes(b"x")
    split = open_dataset(f"clips:{root}", DatasetOptions()).split("train")
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(ConfigError, match=r"ssleval\[video\]"):
        split.image(0)


class Container:
    """Stands for a video of grey frames, whose packets are twice as many."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes = sizes
        size = SimpleNamespace(width=sizes[0], height=sizes[0])
        self.streams = SimpleNamespace(video=[SimpleNamespace(codec_context=size)])
        self.decoded = 0

    def __enter__(self) -> "Container":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def demux(self, **_: object) -> list[Any]:
        return [SimpleNamespace(size=9) for _ in range(2 * len(self.sizes))]

    def decode(self, *_: object, **__: object) -> Iterator[Any]:
        for number, side in enumerate(self.sizes):
            self.decoded += 1
            image = Image.new("RGB", (4, 4), (number,) * 3)
            yield SimpleNamespace(width=side, height=side, to_image=lambda image=image: image)


@pytest.fixture
def video(root: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Container], Any]:
    (root / "train/a/clip.mp4").write_bytes(b"x")

    def frame_of(container: Container) -> Any:
        def opened(_: str) -> Container:
            return container

        library = SimpleNamespace(open=opened, FFmpegError=OSError)
        monkeypatch.setitem(__import__("sys").modules, "av", library)
        module._decoded.cache_clear()
        split = open_dataset(f"clips:{root}", DatasetOptions()).split("train")
        return getattr(split.image, "frame")  # noqa: B009

    return frame_of


def test_frames_that_are_shown_count_and_not_packets(video: Callable[[Container], Any]) -> None:
    frame = video(Container([4] * 8))
    assert [frame(0, place, 4).getpixel((0, 0))[0] for place in range(4)] == [1, 3, 5, 7]


@pytest.mark.parametrize(
    ("sizes", "message", "decoded"),
    [([9, 4], "9x9 pixels", 0), ([4, 9, 4, 4], "9x9 pixels", 2), ([4] * 7, "more than 6 frames", 7)],
)
def test_large_and_long_videos_are_refused_as_soon_as_that_is_known(
    video: Callable[[Container], Any],
    monkeypatch: pytest.MonkeyPatch,
    sizes: list[int],
    message: str,
    decoded: int,
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    monkeypatch.setattr(module, "_MOST_FRAMES", 6)
    container = Container(sizes)
    with pytest.raises(DataError, match=message):
        video(container)(0, 0, 1)
    assert container.decoded == decoded


def test_frames_of_a_video_are_those_of_the_file(root: Path) -> None:
    av = pytest.importorskip("av", reason="PyAV is not installed")
    path = root / "train/a/clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 64, 48, "yuv420p", 4_000_000
        for number in range(20):
            image = np.full((48, 64, 3), 12 * number, np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    split = open_dataset(f"clips:{root}", DatasetOptions()).split("train")
    frame: Any = getattr(split.image, "frame")  # noqa: B009
    levels = [np.asarray(frame(0, place, 4)).mean() for place in range(4)]
    np.testing.assert_allclose(levels, [12 * number for number in (2, 7, 12, 17)], atol=4)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 3])
    module._decoded.cache_clear()
    with pytest.raises(DataError, match=r"clip\.mp4"):
        split.image(0)
