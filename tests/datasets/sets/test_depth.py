"""Sets with depth, on tiny fakes of their layout."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssleval.core import Dataset, DatasetOptions, Split, datasets
from ssleval.datasets.catalog import open_dataset
from ssleval.datasets.published import Published
from ssleval.errors import ConfigError, DataError, SslevalError

OpenReduced = Callable[..., Dataset]


def write(path: Path, stored: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(stored).save(path)


def pair(image: Path, depth: Path, height: int = 4, width: int = 6, value: int = 2000) -> None:
    """Write a grey image, and depth of one value with 0 and 65535 first."""
    write(image, np.full((height, width, 3), 7, np.uint8))
    stored = np.full((height, width), value, np.uint16)
    stored[0, :2] = (0, 65535)
    write(depth, stored)


def depth(split: Split, index: int = 0) -> np.ndarray:
    assert split.target is not None
    found = split.target(index)
    assert found.dtype == np.float32
    return found


@pytest.fixture
def sequence(tmp_path: Path) -> Path:
    for number in range(6):
        pair(tmp_path / f"f{number}.color.jpg", tmp_path / f"f{number}.depth.png", value=1000 + number)
    return tmp_path


def test_the_last_fifth_of_a_sequence_is_scored(sequence: Path) -> None:
    dataset = open_dataset(f"rgbd:{sequence}", DatasetOptions())
    assert (dataset.card.target, dataset.card.max_depth) == ("depth", 10.0)
    assert list(dataset.split("test").ids) == ["f4.color.jpg", "f5.color.jpg"]
    np.testing.assert_allclose(depth(dataset.split("test"), 1)[0, :3], [0, 0, 1.005])


def test_folders_name_their_splits(tmp_path: Path) -> None:
    for split in ("train", "test"):
        pair(tmp_path / split / "rgb/a.jpg", tmp_path / split / "depth/a.png")
    dataset = open_dataset(f"rgbd:{tmp_path}", DatasetOptions())
    assert list(dataset.split("train").ids) == ["train/rgb/a.jpg"]
    assert depth(dataset.split("test"))[1, 1] == 2


def test_a_format_of_their_own(sequence: Path) -> None:
    plain = open_dataset(f"rgbd:{sequence}", DatasetOptions()).split("test").fingerprint
    (sequence / "depth.yaml").write_text("scale: 500\ninvalid: [0, 1004]\nmax_depth: 3\n")
    dataset = open_dataset(f"rgbd:{sequence}", DatasetOptions())
    assert dataset.card.max_depth == 3
    assert dataset.split("test").fingerprint != plain
    assert depth(dataset.split("test"))[0].tolist() == [0, np.float32(65535) / np.float32(500), 0, 0, 0, 0]


DAMAGE: list[tuple[Callable[[Path], object], str]] = [
    (
        lambda root: (root / "depth.yaml").write_text("scal: 3"),
        r"depth.yaml has no setting 'scal'; did you mean scale",
    ),
    (lambda root: (root / "depth.yaml").write_text("scale: 0"), r"depth.yaml.scale=0: expected a number > 0"),
    (lambda root: (root / "depth.yaml").write_text("scale: [3]"), r"depth.yaml.scale=3: expected a number"),
    (lambda root: (root / "depth.yaml").write_text("scale: .inf"), "expected finite numbers"),
    (lambda root: (root / "depth.yaml").write_text("radius: 65"), "radius=65: expected a whole number <= 64"),
    (lambda root: (root / "depth.yaml").write_text("scale"), "expected lines such as scale: 1000"),
    (lambda root: (root / "depth.yaml").write_text("a: b: c"), "is no YAML"),
    (lambda root: (root / "f5.depth.png").unlink(), "f5.depth.png"),
    (lambda root: write(root / "f5.depth.png", np.zeros((4, 6), np.uint8)), "expected depth of 16 bits"),
    (
        lambda root: write(root / "f5.depth.png", np.zeros((4, 5), np.uint16)),
        "5x4 pixels for an image of 6x4",
    ),
    (lambda root: (root / "f5.depth.png").write_bytes(b"x"), "cannot be decoded"),
    (lambda root: [path.unlink() for path in root.glob("*.color.jpg")], "needs train/ and test/"),
]


@pytest.mark.parametrize(("change", "message"), DAMAGE)
def test_damage_is_one_line(sequence: Path, change: Callable[[Path], object], message: str) -> None:
    change(sequence)
    with pytest.raises(SslevalError, match=message):
        depth(open_dataset(f"rgbd:{sequence}", DatasetOptions()).split("test"), 1)


def test_no_path_is_refused() -> None:
    with pytest.raises(ConfigError, match="rgbd:PATH"):
        open_dataset("rgbd:", DatasetOptions())


def test_nyu_counts_inside_eigens_crop(tmp_path: Path, open_reduced: OpenReduced) -> None:
    root = tmp_path / "nyuv2"
    for split in ("train", "test"):
        pair(root / split / "rgb_1.jpg", root / split / "sync_depth_1.png", 480, 640)
        (root / f"nyu_{split}.txt").write_text(f"/{split}/rgb_1.jpg /{split}/sync_depth_1.png 518.8579\n")
    dataset = open_reduced("nyuv2", 0, {"train": 1, "test": 1})
    for split, (top, bottom, left, right) in {
        "train": (45, 472, 43, 608),
        "test": (45, 471, 41, 601),
    }.items():
        rows, columns = np.nonzero(depth(dataset.split(split)))
        assert (rows.min(), rows.max() + 1) == (top, bottom)
        assert (columns.min(), columns.max() + 1) == (left, right)


def test_kitti_is_cropped_and_counts_inside_gargs_crop(tmp_path: Path, open_reduced: OpenReduced) -> None:
    root = tmp_path / "kitti"
    pair(root / "input/d/1.png", root / "gt_depth/s/1.png", 375, 1242, value=512)
    lines = "d/1.png s/1.png 721.5377\nd/2.png None 721.5377\n"
    for split in ("train", "test"):
        (root / f"kitti_eigen_{split}.txt").write_text(lines)
    dataset = open_reduced("kitti", 0, {"train": 1, "test": 1})
    assert dataset.split("test").image(0).size == (1216, 352)
    assert depth(dataset.split("train"))[200, 600] == 2
    rows, columns = np.nonzero(depth(dataset.split("test")))
    assert (rows.min(), rows.max() + 1) == (int(0.40810811 * 352), int(0.99189189 * 352))
    assert (columns.min(), columns.max() + 1) == (int(0.03594771 * 1216), int(0.96405229 * 1216))
    assert dataset.split("train").fingerprint != dataset.split("test").fingerprint


def test_a_small_kitti_image_is_refused(tmp_path: Path, open_reduced: OpenReduced) -> None:
    root = tmp_path / "kitti"
    pair(root / "input/d/1.png", root / "gt_depth/s/1.png")
    (root / "kitti_eigen_test.txt").write_text("d/1.png s/1.png 721.5377\n")
    with pytest.raises(DataError, match="expected at least 1216x352"):
        open_reduced("kitti", 0, {"test": 1}).split("test").image(0)


def test_sun_rgbd_is_unrotated_cut_and_counted_inside_a_window(
    tmp_path: Path, open_reduced: OpenReduced
) -> None:
    """Stored values are millimetres whose three lowest bits went to the top."""
    root, where = tmp_path / "sunrgbd", "SUNRGBD/xtion/a"
    millimetres = np.full((480, 640), 2345, np.uint16)
    millimetres[100, 100], millimetres[100, 101] = 0, 9500
    stored = (millimetres << 3) | (millimetres >> 13)
    write(root / where / "image/1.jpg", np.full((480, 640, 3), 7, np.uint8))
    write(root / where / "depth/1.png", stored)
    (root / "SUNRGBD_val_splits.txt").write_text(f"{where}/image/1.jpg {where}/depth/1.png\n")
    dataset = open_reduced("sunrgbd", 0, {"test": 1})
    split = dataset.split("test")
    assert list(split.ids) == [f"{where}/image/1.jpg"]
    found = depth(split)
    expected = np.zeros((480, 640))
    expected[45:471, 41:601] = 2.345
    expected[100, 100], expected[100, 101] = 0, 8
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    loader = datasets.get("sunrgbd")
    assert isinstance(loader, Published)
    assert loader.fitted_on is datasets.get("nyuv2")
