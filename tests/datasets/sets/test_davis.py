from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssleval.core import Dataset, DatasetOptions
from ssleval.datasets.catalog import open_dataset
from ssleval.errors import DataError

Paint = Callable[[Path, int], None]


def annotate(root: Path, name: str, values: list[int], mode: str = "P") -> None:
    path = root / "Annotations" / "480p" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = Image.fromarray(np.array([values], dtype=np.uint8))
    if mode == "P":
        mask.putpalette([value for level in range(256) for value in (level, 0, 255 - level)])
    (mask if mode in {"L", "P"} else mask.convert(mode)).save(path)


def listed(root: Path, version: str, *lines: str) -> None:
    (root / "ImageSets" / version).mkdir(parents=True, exist_ok=True)
    (root / "ImageSets" / version / "val.txt").write_text("\r\n".join(lines) + " \r\n")


def frames(*clips: str) -> list[str]:
    """Lines of ImageSets/480p in the archive of DAVIS-2016."""
    return [f"/JPEGImages/480p/{name}.jpg /Annotations/480p/{name}.png" for name in clips]


@pytest.fixture
def root(tmp_path: Path, paint: Paint) -> Path:
    """Two listed clips of two frames; the paths say the order they must come in."""
    listed(tmp_path, "2017", "a", "b")
    for level, name in enumerate(("b/00000", "b/00001", "a/00010", "a/00002")):
        paint(tmp_path / "JPEGImages" / "480p" / f"{name}.jpg", 10 * level)
        annotate(tmp_path, name, [0, level, 255])
    return tmp_path


def opened(root: Path) -> Dataset:
    return open_dataset(f"davis:{root}", DatasetOptions())


def test_frames_come_clip_by_clip_with_their_objects(root: Path) -> None:
    dataset = opened(root)
    split = dataset.split("val")
    assert dataset.card.target == "video"
    assert list(split.ids) == ["a/00002", "a/00010", "b/00000", "b/00001"]
    # 255 is void, which the benchmark's own code counts as background.
    assert [sample.target.tolist() for sample in split] == [
        [[0, 3, 0]],
        [[0, 2, 0]],
        [[0, 0, 0]],
        [[0, 1, 0]],
    ]
    assert split[0].image.getpixel((0, 0)) == (30, 30, 30)


def test_listed_clips_alone_in_the_order_listed(root: Path) -> None:
    listed(root, "2017", "b")
    assert list(opened(root).split("val").ids) == ["b/00000", "b/00001"]
    listed(root, "2017", "b", "a")
    assert [name[0] for name in opened(root).split("val").ids] == ["b", "b", "a", "a"]


@pytest.mark.parametrize(
    ("version", "lines"),
    [("2016", ["b"]), ("480p", frames("b/00000", "b/00001")), ("2017", ["b"])],
)
def test_the_training_clips_of_an_archive_are_not_scored(root: Path, version: str, lines: list[str]) -> None:
    (root / "ImageSets" / "2017" / "val.txt").unlink()
    (root / "ImageSets" / "2017" / "train.txt").write_text("a\n")
    listed(root, version, *lines)
    assert list(opened(root).split("val").ids) == ["b/00000", "b/00001"]


def test_of_two_lists_the_later_version_counts(root: Path) -> None:
    listed(root, "2016", "b")
    listed(root, "480p", *frames("b/00000"))
    assert len(opened(root).split("val")) == 4


@pytest.mark.parametrize("lines", [["a", "b", "a"], []])
def test_a_clip_listed_twice_or_none_is_refused(root: Path, lines: list[str]) -> None:
    listed(root, "2017", *lines)
    with pytest.raises(DataError, match="different ones; list each one once"):
        opened(root)


def test_clips_without_a_list_are_refused(root: Path) -> None:
    (root / "ImageSets" / "2017" / "val.txt").unlink()
    with pytest.raises(DataError, match=r"none of ImageSets/2017/val\.txt, .* write the names of your clips"):
        opened(root)


def test_grey_masks_hold_one_object_or_indices(root: Path) -> None:
    annotate(root, "a/00002", [0, 255, 255], "L")
    annotate(root, "a/00010", [0, 2, 1], "L")
    split = opened(root).split("val")
    assert split[0].target.tolist() == [[0, 1, 1]]
    assert split[1].target.tolist() == [[0, 2, 1]]


@pytest.mark.parametrize(
    ("values", "mode", "message"),
    [([0, 3, 255], "L", "grey with 255 and 3; save indices"), ([0, 1, 2], "RGB", "a mask of mode 'RGB'")],
)
def test_masks_that_could_mean_two_things_are_refused(
    root: Path, values: list[int], mode: str, message: str
) -> None:
    annotate(root, "a/00002", values, mode)
    with pytest.raises(DataError, match=message):
        opened(root).split("val")[0]


def test_a_frame_without_its_mask_is_refused(root: Path) -> None:
    (root / "Annotations" / "480p" / "a" / "00010.png").unlink()
    with pytest.raises(DataError, match="clip a: 2 frames, 1 masks; 00010 is only in one"):
        opened(root)


def test_a_damaged_mask_is_named(root: Path) -> None:
    (root / "Annotations" / "480p" / "a" / "00002.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"00002\.png: cannot be decoded"):
        opened(root).split("val")[0]


def test_another_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unpack the whole archive of DAVIS"):
        opened(tmp_path)


def test_masks_are_part_of_the_fingerprint(root: Path) -> None:
    before = opened(root).split("val").fingerprint
    assert opened(root).split("val").fingerprint == before
    annotate(root, "a/00002", list(range(200)))
    assert opened(root).split("val").fingerprint != before
