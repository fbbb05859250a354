"""Pairs of frames with depth and camera poses, on a tiny fake of the layout of 7-Scenes."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssleval.core import Dataset, DatasetOptions
from ssleval.core.targets import Views
from ssleval.datasets.catalog import open_dataset
from ssleval.errors import ConfigError, DataError

ANGLES = (0.0, 10.0, 16.0, 28.0, 90.0)


def pose(degrees: float) -> np.ndarray:
    angle = np.radians(degrees)
    found = np.eye(4)
    found[0, [0, 2]], found[2, [0, 2]] = (np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))
    found[:3, 3] = degrees / 10, 1, 2
    return found


@pytest.fixture
def room(tmp_path: Path) -> Path:
    for number, degrees in enumerate(ANGLES):
        Image.new("RGB", (6, 4), (number * 10,) * 3).save(tmp_path / f"f{number}.color.png")
        stored = np.full((4, 6), 1000 + number, np.uint16)
        stored[0, :2] = (0, 65535)
        Image.fromarray(stored).save(tmp_path / f"f{number}.depth.png")
        np.savetxt(tmp_path / f"f{number}.pose.txt", pose(degrees))
    np.savetxt(tmp_path / "camera-intrinsics.txt", [[5, 0, 3], [0, 5, 2], [0, 0, 1]])
    return tmp_path


def opened(root: Path) -> Dataset:
    return open_dataset(f"rgbd_pairs:{root}", DatasetOptions())


def test_frames_go_with_the_first_that_has_turned_away(room: Path) -> None:
    dataset = opened(room)
    assert (dataset.card.target, dataset.card.lengths) == ("views", {"test": 4})
    split = dataset.split("test")
    assert list(split.ids) == ["f0:f2", "f1:f3", "f2:f4", "f3:f4"]
    sample = split[1]
    assert sample.image.getpixel((0, 0)) == (10, 10, 10)
    views = sample.target
    assert isinstance(views, Views)
    assert views.names == ("f1.color.png", "f3.color.png")
    assert views.partner.getpixel((0, 0)) == (30, 30, 30)
    np.testing.assert_allclose([depth[0, :3] for depth in views.depths], [[0, 0, 1.001], [0, 0, 1.003]])
    assert [one.tolist() for one in views.intrinsics] == 2 * [[[5, 0, 3], [0, 5, 2], [0, 0, 1]]]


def test_motion_takes_a_point_from_one_camera_to_the_other(room: Path) -> None:
    motion = opened(room).split("test")[0].target.motion
    world = np.array([0.3, -0.2, 5, 1])
    first, second = (np.linalg.solve(pose(ANGLES[frame]), world) for frame in (0, 2))
    np.testing.assert_allclose(motion @ first, second, atol=1e-9)


def test_a_list_says_which_frames_are_pairs(room: Path) -> None:
    before = opened(room).split("test").fingerprint
    (room / "pairs.txt").write_text("f4 f0\n\nf0 f1\n")
    split = opened(room).split("test")
    assert list(split.ids) == ["f4:f0", "f0:f1"]
    assert split[0].image.getpixel((0, 0)) == (40, 40, 40)
    assert split.fingerprint != before
    assert list(opened(room).limited(1).split("test").ids) == ["f4:f0"]


def test_poses_and_intrinsics_are_in_the_fingerprint(room: Path) -> None:
    prints = {opened(room).split("test").fingerprint}
    moved = pose(16)
    moved[0, 3] = 7
    np.savetxt(room / "f2.pose.txt", moved)
    prints.add(opened(room).split("test").fingerprint)
    np.savetxt(room / "camera-intrinsics.txt", [[6, 0, 3], [0, 5, 2], [0, 0, 1]])
    prints.add(opened(room).split("test").fingerprint)
    (room / "depth.yaml").write_text("scale: 500\n")
    prints.add(opened(room).split("test").fingerprint)
    assert len(prints) == 4
    assert opened(room).split("test")[0].target.depths[0][2, 2] == 2


def test_pairs_survive_pickling(room: Path) -> None:
    split = opened(room).split("test")
    image, target = pickle.loads(pickle.dumps((split.image, split.target)))
    assert image(0).getpixel((0, 0)) == (0, 0, 0)
    assert target(0).names == ("f0.color.png", "f2.color.png")


DAMAGE: list[tuple[Callable[[Path], object], str]] = [
    (lambda root: (root / "f1.pose.txt").unlink(), r"f1\.pose\.txt: no such file"),
    (lambda root: (root / "f1.pose.txt").write_text("1 2\n3 x\n"), "expected 4 x 4 numbers"),
    (lambda root: np.savetxt(root / "f1.pose.txt", np.full((4, 4), np.inf)), "4 x 4 finite numbers"),
    (lambda root: np.savetxt(root / "f1.pose.txt", np.diag([2.0, 2, 2, 1])), "no rotation and shift"),
    (lambda root: np.savetxt(root / "f1.pose.txt", np.diag([-1.0, 1, 1, 1])), "no rotation and shift"),
    (lambda root: np.savetxt(root / "camera-intrinsics.txt", np.eye(4)), "expected 3 x 3"),
    (lambda root: (root / "pairs.txt").write_text("f0 f9\n"), "expected the names of two frames"),
    (lambda root: (root / "pairs.txt").write_text("f0 f1\nf0 f1\n"), "listed twice"),
    (lambda root: [path.unlink() for path in root.glob("f[1-4].color.png")], "a pair needs two"),
    (lambda root: [path.unlink() for path in root.glob("f[2-4].color.png")], "no camera turns by 15"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE, ids=[message for _, message in DAMAGE])
def test_damage_is_named(room: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(room)
    with pytest.raises(DataError, match=message):
        opened(room)


def test_a_path_is_needed() -> None:
    with pytest.raises(ConfigError, match="rgbd_pairs:PATH"):
        open_dataset("rgbd_pairs", DatasetOptions())


def test_seven_scenes_without_intrinsics_has_its_own(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (room / "camera-intrinsics.txt").unlink()
    with pytest.raises(DataError, match=r"camera-intrinsics\.txt: no such file"):
        opened(room)
    for path in list(room.iterdir()):
        path.rename(path.with_name(f"frame-00000{path.name[1:]}"))
    views = opened(room).split("test")[0].target
    assert views.intrinsics[0].tolist() == [[585, 0, 320], [0, 585, 240], [0, 0, 1]]
    assert "those of 7-Scenes are taken" in capsys.readouterr().err


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """A scene as ScanNet's tool exports it: frames 8 to 12, the third without a pose; large colour images."""
    for folder in ("color", "depth", "pose", "intrinsic"):
        (tmp_path / folder).mkdir()
    for number, degrees in zip(range(8, 13), ANGLES, strict=True):
        Image.new("RGB", (12, 8), (number * 10,) * 3).save(tmp_path / f"color/{number}.jpg")
        Image.fromarray(np.full((4, 6), 1000 + number, np.uint16)).save(tmp_path / f"depth/{number}.png")
        lost = number == 10
        np.savetxt(tmp_path / f"pose/{number}.txt", np.full((4, 4), -np.inf) if lost else pose(degrees))
    np.savetxt(tmp_path / "intrinsic/intrinsic_color.txt", np.diag([50.0, 50, 1, 1]))
    np.savetxt(tmp_path / "intrinsic/intrinsic_depth.txt", np.diag([5.0, 6, 1, 1]))
    (tmp_path / "color/._8.jpg").write_bytes(b"\0\5\26\7")
    return tmp_path


def test_a_scene_of_scannet_is_read_as_exported(scan: Path) -> None:
    split = opened(scan).split("test")
    # In order of numbers, without the frame whose camera was lost.
    assert list(split.ids) == ["8:11", "9:11", "11:12"]
    sample = split[0]
    assert sample.image.size == sample.target.partner.size == (6, 4)
    assert round(np.asarray(sample.image)[0, 0, 0] / 10) == 8
    assert sample.target.depths[1][0, 0] == np.float32(1.011)
    assert sample.target.intrinsics[0].tolist() == [[5, 0, 0], [0, 6, 0], [0, 0, 1]]
    pickle.dumps((split.image, split.target))
