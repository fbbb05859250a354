"""Sets with surface normals, on tiny fakes of their layout."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssleval.core import Dataset, DatasetOptions
from ssleval.datasets.catalog import open_dataset
from ssleval.errors import ConfigError, DataError

OpenReduced = Callable[..., Dataset]
INTRINSICS = np.array([[20.0, 0, 10], [0, 20, 8], [0, 0, 1]])
NORMAL = np.array([0.2, -0.3, -1]) / np.linalg.norm([0.2, -0.3, -1])


@pytest.fixture
def wall(tmp_path: Path) -> Path:
    """Five frames of one plane in 16-bit tenths of a millimetre; one pixel is unknown."""
    rows, columns = np.mgrid[:16, :20] + 0.5
    rays = np.stack([(columns - 10) / 20, (rows - 8) / 20, np.ones((16, 20))], axis=2)
    depth = (-20_000 / (rays @ NORMAL)).round().astype(np.uint16)
    depth[2, 3] = 0
    for number in range(5):
        Image.new("RGB", (20, 16)).save(tmp_path / f"f{number}.color.png")
        Image.fromarray(depth).save(tmp_path / f"f{number}.depth.png")
    np.savetxt(tmp_path / "camera-intrinsics.txt", INTRINSICS)
    (tmp_path / "depth.yaml").write_text("scale: 10000\nradius: 1\n")
    return tmp_path


def opened(root: Path) -> Dataset:
    return open_dataset(f"rgbd_normals:{root}", DatasetOptions())


def test_depth_is_differenced_with_the_camera_of_the_folder(wall: Path) -> None:
    dataset = opened(wall)
    assert (dataset.card.target, dataset.card.lengths) == ("normals", {"train": 4, "test": 1})
    split = dataset.split("test")
    assert list(split.ids) == ["f4.color.png"]
    normals = split[0].target
    known = np.zeros((16, 20), bool)
    known[2:-2, 2:-2] = True
    known[:5, 1:6] = False
    np.testing.assert_array_equal(normals.any(axis=2), known)
    np.testing.assert_allclose(normals[known], np.broadcast_to(NORMAL, (known.sum(), 3)), atol=0.01)


def test_camera_and_reading_are_in_the_fingerprint(wall: Path) -> None:
    prints = {opened(wall).split("test").fingerprint}
    for line in ("radius: 2", "edge: 0.1", "scale: 5000"):
        (wall / "depth.yaml").write_text(f"{line}\n")
        prints.add(opened(wall).split("test").fingerprint)
    np.savetxt(wall / "camera-intrinsics.txt", INTRINSICS * [[1.1], [1], [1]])
    prints.add(opened(wall).split("test").fingerprint)
    assert len(prints) == 5


def test_a_camera_of_another_image_size_is_refused(wall: Path) -> None:
    np.savetxt(wall / "camera-intrinsics.txt", 2 * INTRINSICS / [[1], [1], [2]])
    with pytest.raises(DataError, match=r"20x16 pixels, and intrinsics with the centre at 20, 16"):
        opened(wall).split("test")[0]


def test_a_folder_without_a_camera_is_refused(wall: Path) -> None:
    (wall / "camera-intrinsics.txt").unlink()
    with pytest.raises(DataError, match=r"camera-intrinsics.txt: no such file"):
        opened(wall)
    with pytest.raises(ConfigError, match="write rgbd_normals:PATH"):
        open_dataset("rgbd_normals:", DatasetOptions())


@pytest.fixture
def nyu(tmp_path: Path) -> Path:
    root = tmp_path / "nyuv2_normals"
    for split, count in (("train", 2), ("test", 1)):
        (root / split).mkdir(parents=True)
        for number in range(count):
            colours = np.full((4, 6, 3), np.round(127.5 * (NORMAL + 1)), np.uint8)
            colours[0] = 0
            Image.new("RGB", (6, 4), (number,) * 3).save(root / split / f"{number:06}_img.png")
            Image.fromarray(colours).save(root / split / f"{number:06}_normal.png")
    return root


def test_colours_are_read_as_unit_vectors(nyu: Path, open_reduced: OpenReduced) -> None:
    dataset = open_reduced("nyuv2_normals", 0, {"train": 2, "test": 1})
    train = dataset.split("train")
    assert list(train.ids) == ["train/000000_img.png", "train/000001_img.png"]
    sample = train[1]
    assert sample.image.getpixel((0, 0)) == (1, 1, 1)
    assert not sample.target[0].any()
    np.testing.assert_allclose(sample.target[1:], np.broadcast_to(NORMAL, (3, 6, 3)), atol=0.01)
    np.testing.assert_allclose(np.linalg.norm(sample.target[1:], axis=2), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("colours", "message"),
    [
        (np.full((4, 6, 3), 128, np.uint8), r"no unit vectors n, stored as 255 \(n \+ 1\) / 2"),
        (np.full((4, 6), 200, np.uint8), "expected normals as colours of 8 bits"),
        (np.full((5, 6, 3), 255, np.uint8), "6x5 pixels for an image of 6x4"),
    ],
    ids=["short vectors", "grey", "another size"],
)
def test_what_are_no_normals_is_refused(
    nyu: Path, open_reduced: OpenReduced, colours: np.ndarray, message: str
) -> None:
    Image.fromarray(colours).save(nyu / "test/000000_normal.png")
    with pytest.raises(DataError, match=message):
        open_reduced("nyuv2_normals", 0, {"train": 2, "test": 1}).split("test")[0]


def test_an_image_without_normals_is_refused(nyu: Path, open_reduced: OpenReduced) -> None:
    (nyu / "train/000001_normal.png").unlink()
    with pytest.raises(DataError, match=r"000001_img has no 000001_normal \(1 such images\)"):
        open_reduced("nyuv2_normals", 0, {"train": 2, "test": 1}).split("train")
