"""NAVI in depth, normals and pairs, on a rendered miniature of its layout."""

import json
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ssleval.core import Context, Dataset, DatasetOptions
from ssleval.core.targets import Views
from ssleval.datasets.catalog import open_dataset
from ssleval.datasets.files.crops import Shot
from ssleval.datasets.sets import navi
from ssleval.errors import ConfigError, DataError
from ssleval.run.measure import evaluate
from tests.datasets.sets.navi_files import (
    RADIUS,
    WILD,
    Camera,
    as_probe3d,
    box_of,
    enlarged,
    write_navi,
    write_scene,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_navi(tmp_path_factory.mktemp("navi"))


@pytest.fixture
def ball(root: Path, tmp_path: Path) -> Path:
    """A copy of two scenes of one object."""
    for scene in ("wild_set", "multiview_00_pixel_5"):
        shutil.copytree(root / "ball" / scene, tmp_path / "copy/ball" / scene)
    return tmp_path / "copy"


def opened(source: str, root: Path) -> Dataset:
    return open_dataset(f"{source}:{root}", DatasetOptions())


def seen_by(name: str) -> Camera:
    """Return the camera of a path OBJECT/wild_set/images/NUMBER.jpg."""
    return WILD[name.split("/", maxsplit=1)[0]][int(Path(name).stem)]


@pytest.mark.parametrize(("source", "target"), [("navi", "depth"), ("navi_normals", "normals")])
def test_splits_are_those_of_probe3d(root: Path, source: str, target: str) -> None:
    dataset = opened(source, root)
    card = dataset.card
    assert (card.target, card.train_split, card.test_split) == (target, "trainval", "test")
    # Of three scenes, int(0.9 * 3) = 2 are for training; of 12, 6, 18 and 16 images every fourth counts.
    assert card.lengths == {"train": 3, "val": 2, "trainval": 5, "test": 4}
    assert list(dataset.split("trainval").ids) == [
        "ball/multiview_00_pixel_5/images/000.jpg",
        "ball/multiview_01_pixel_5/images/001.jpg",
        "ball/multiview_02_pixel_5/images/002.jpg",
        "globe/multiview_01_pixel_5/images/000.jpg",
        "globe/multiview_02_pixel_5/images/001.jpg",
    ]
    assert list(dataset.split("val").ids) == [
        "ball/multiview_02_pixel_5/images/000.jpg",
        "globe/multiview_02_pixel_5/images/001.jpg",
    ]
    assert [name.split("/")[0] for name in dataset.split("test").ids] == ["ball", "ball", "ball", "globe"]
    assert all("/wild_set/images/" in name for name in dataset.split("test").ids)


def test_images_and_depth_are_the_pixels_of_probe3d(tmp_path: Path) -> None:
    """Of a high and of a wide image with odd sides, by the libraries that probe3d uses."""
    cameras = [Camera(30, (4, 9, 380), 301, 205), Camera(60, (-9, 2, 390), 211, 303)]
    write_scene(tmp_path / "a/wild_set", cameras)
    write_scene(tmp_path / "a/multiview-00-canon", [Camera(0)])
    split, pairs = opened("navi", tmp_path).split("test"), opened("navi_pairs", tmp_path).split("test")
    folder = tmp_path / "a/wild_set"
    square = as_probe3d(Image.open(folder / "images/000.jpg"), Image.Resampling(2))
    stored = np.array(Image.open(folder / "depth/000.png")).astype(np.int32)
    inverse = as_probe3d(Image.fromarray(stored), Image.Resampling.NEAREST)
    top, left, side = box_of(inverse[0].numpy() > 0)
    rows, columns = slice(top, top + side), slice(left, left + side)
    _, image, depth = split[0]
    np.testing.assert_array_equal(np.asarray(image), square[:, rows, columns].permute(1, 2, 0))
    there = inverse[0, rows, columns].double()
    np.testing.assert_allclose(depth, torch.where(there > 0, 655.35 / there, 0.0), rtol=1e-6)
    large = enlarged(square[:, rows, columns]).permute(1, 2, 0)
    np.testing.assert_array_equal(np.asarray(pairs.image(0)), large)
    views = pairs[0].target
    np.testing.assert_array_equal(views.depths[0], enlarged(torch.from_numpy(depth)[None])[0])
    larger = 512 / side
    focal, right, down = 300 * 512 / 205 * larger, (256 - left) * larger, (256 - top) * larger
    np.testing.assert_allclose(views.intrinsics[0], [[focal, 0, right], [0, focal, down], [0, 0, 1]])


def test_normals_are_those_of_the_sphere(tmp_path: Path) -> None:
    # Of 512 pixels all are kept; the steps of stored depth are a third of a pixel.
    camera = Camera(30, (14, 9, 480), 512, 512, focal=1200.0)
    write_scene(tmp_path / "a/wild_set", [camera])
    write_scene(tmp_path / "a/multiview_00", [Camera(0)])
    normals = opened("navi_normals", tmp_path).split("test")[0].target
    surface = camera.surface()
    top, left, side = box_of(np.isfinite(surface[..., 0]))
    true = (surface[top : top + side, left : left + side] - np.array(camera.shift)) / RADIUS
    known = normals.any(axis=2)
    assert known.mean() > 0.7  # a circle is pi / 4 of a square
    off = np.degrees(np.arccos((normals[known] * true[known]).sum(1).clip(-1, 1)))
    assert off.mean() < 1
    assert np.quantile(off, 0.99) < 5


def test_both_maps_share_the_images_and_nothing_else(root: Path) -> None:
    depth, normals = (opened(source, root) for source in ("navi", "navi_normals"))
    assert depth.pictures == normals.pictures != ""
    first, second = depth.split("test"), normals.split("test")
    assert first.pictures == second.pictures
    assert first.fingerprint != second.fingerprint
    assert first.pictures != depth.split("trainval").pictures


def test_a_pair_shows_one_object_from_two_sides(root: Path) -> None:
    dataset = opened("navi_pairs", root)
    split = dataset.split("test")
    assert (dataset.card.target, dataset.card.lengths) == ("views", {"test": 4})
    assert [name.partition(":")[0] for name in split.ids] == list(opened("navi", root).split("test").ids)
    for row, name in enumerate(split.ids):
        sample = split[row]
        views = sample.target
        assert isinstance(views, Views)
        first, _, second = name.partition(":")
        assert views.names == (first, f"{Path(first).parent}/{second}")
        assert views.group == int(name.startswith("globe"))
        assert sample.image.size == views.partner.size == (512, 512)
        here, there = map(seen_by, views.names)
        angle = np.degrees(np.arccos((np.trace(views.motion[:3, :3]) - 1) / 2))
        assert angle == pytest.approx(abs(here.degrees - there.degrees), abs=1e-4)
        assert 0 < angle <= 120
        turn = there.turn @ here.turn.T
        shift = np.array(there.shift) - turn @ here.shift
        np.testing.assert_allclose(views.motion, [*np.c_[turn, shift / 1000], [0, 0, 0, 1]], atol=1e-12)


def test_points_and_their_colours_are_found_again_in_the_partner(root: Path) -> None:
    """Lifted by depth, a pixel lies on the sphere; moved, it falls on the pixel that shows the same place."""
    split = opened("navi_pairs", root).split("test")
    for row in range(len(split)):
        image, views = np.asarray(split.image(row)).astype(int), split[row].target
        there, partner = seen_by(views.names[1]), np.asarray(views.partner).astype(int)
        rows, columns = np.nonzero(views.depths[0])
        depth = views.depths[0][rows, columns].astype(float)
        pixels = np.stack([columns + 0.5, rows + 0.5, np.ones(len(rows))])
        points = np.linalg.inv(views.intrinsics[0]) @ (pixels * depth)
        moved = views.motion[:3, :3] @ points + views.motion[:3, 3:]
        radial = moved * 1000 - np.array(there.shift)[:, None]
        lengths = np.linalg.norm(radial, axis=0)
        assert np.abs(lengths - RADIUS).mean() < 1
        # Points that face the second camera clearly are seen by it.
        facing = (radial * moved).sum(0) / lengths / np.linalg.norm(moved, axis=0) < -0.5
        u, v, w = views.intrinsics[1] @ moved[:, facing]
        found = partner[(v / w).astype(int), (u / w).astype(int)]
        assert facing.mean() > 0.05
        assert np.abs(found - image[rows, columns][facing]).mean() < 4


def test_the_draw_takes_all_angles_alike() -> None:
    """Of one object and 400 cameras, the angles of pairs are distributed as those of all permitted pairs."""
    drawn = np.random.default_rng(0)
    angles = drawn.uniform(0, 360, 400)
    shots = [
        Shot("a/wild_set", f"a/{number}.jpg", "", (9, 9), 1.0, _turned(angle))
        for number, angle in enumerate(angles)
    ]
    pairs = navi._drawn(shots)
    assert [first for first, _, _ in pairs] == list(range(0, 400, 4))

    def between(first: Any, second: Any) -> np.ndarray:
        return np.abs((angles[first] - angles[second] + 180) % 360 - 180)

    chosen = between(*np.array(pairs)[:, :2].T)
    assert chosen.max() <= 120
    # Uniform up to 120 degrees; 100 draws deviate by 0.163 in one of a hundred cases (Kolmogorov).
    assert np.abs(np.sort(chosen) / 120 - np.linspace(0, 1, 100)).max() < 0.163


def _turned(degrees: float) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3] = Camera(degrees).turn
    return pose


def test_the_draw_is_of_names_alone(ball: Path) -> None:
    before = opened("navi_pairs", ball).split("test")
    table = ball / "ball/wild_set/annotations.json"
    entries = json.loads(table.read_text())
    random.Random(1).shuffle(entries)
    table.write_text(json.dumps(entries))
    write_scene(ball / "zebra/wild_set", [Camera(20 * number) for number in range(4)])
    write_scene(ball / "zebra/multiview_00_pixel_5", [Camera(0)])
    after = opened("navi_pairs", ball).split("test")
    assert list(after.ids)[:3] == list(before.ids)
    assert len(after) == 4


def test_an_image_alone_in_its_direction_has_no_pair(tmp_path: Path) -> None:
    write_scene(tmp_path / "a/wild_set", [Camera(0), Camera(130), Camera(150)])
    write_scene(tmp_path / "a/multiview_00", [Camera(0)])
    with pytest.raises(DataError, match="no two cameras of an object within 120 degrees"):
        opened("navi_pairs", tmp_path)


def test_images_are_turned_as_their_exif_says(ball: Path) -> None:
    path = ball / "ball/wild_set/images/000.jpg"
    upright = opened("navi", ball).split("test").image(0)
    stored, exif = Image.open(path).transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    stored.save(path, quality=98, subsampling=0, exif=exif)
    turned = opened("navi", ball).split("test").image(0)
    assert np.abs(np.asarray(turned).astype(int) - np.asarray(upright)).mean() < 2


def test_files_and_cameras_are_in_the_fingerprint(ball: Path) -> None:
    def marks() -> list[str]:
        return [opened(source, ball).split("test").fingerprint for source in ("navi", "navi_pairs")]

    camera: list[dict[str, Any]] = [{"focal_length": 301}, {"t": [0, 0, 401]}, {"q": [1, 0.1, 0, 0]}]
    seen = [marks()]
    for fields in camera:
        stating(**fields)(ball)
        seen.append(marks())
    with (ball / "ball/wild_set/depth/000.png").open("ab") as file:
        file.write(b"\0")
    seen.append(marks())
    assert all(len(set(column)) == 5 for column in zip(*seen, strict=True))


def test_items_survive_pickling(root: Path) -> None:
    for source in ("navi", "navi_normals", "navi_pairs"):
        split = opened(source, root).split("test")
        image, target = pickle.loads(pickle.dumps((split.image, split.target)))
        assert image(0) == split.image(0)
        assert target(0) is not None


Edit = Callable[[Path], object]
SCENE = "ball/wild_set"


def stating(**fields: Any) -> Edit:
    """Return what states other fields of the first image, or of its camera."""

    def edit(root: Path) -> None:
        table = root / SCENE / "annotations.json"
        entries = json.loads(table.read_text())
        for name, value in fields.items():
            (entries[0]["camera"] if name in entries[0]["camera"] else entries[0])[name] = value
        table.write_text(json.dumps(entries))

    return edit


def lacking(name: str) -> Edit:
    def edit(root: Path) -> None:
        table = root / SCENE / "annotations.json"
        entries = json.loads(table.read_text())
        entries[0].pop(name, None)
        entries[0].get("camera", {}).pop(name, None)
        table.write_text(json.dumps(entries))

    return edit


def written(text: str) -> Edit:
    return lambda root: (root / SCENE / "annotations.json").write_text(text)


UNREADABLE: list[tuple[Edit, str]] = [
    (lambda root: (root / SCENE / "annotations.json").unlink(), "No such file.*every scene of NAVI has one"),
    (written("[{"), "no annotations of NAVI"),
    (written("[" * 100_000), "no annotations of NAVI"),
    (written('{"a": 1}'), "Expected `array`, got `object`"),
    (written("[]"), "no image is annotated"),
    (
        lambda root: (root / SCENE / "annotations.json").write_bytes(b'[{"filename":"\xff"}]'),
        "can't decode byte",
    ),
    *((lacking(name), f"missing required field `{name}`") for name in ("filename", "image_size", "camera")),
    *((lacking(name), f"missing required field `{name}`") for name in ("q", "t", "focal_length")),
    (stating(filename="../000.jpg"), r"matching regex .*\$\[0\]\.filename"),
    (stating(filename="000.jpg\n"), r"\$\[0\]\.filename"),
    (stating(filename="001.jpg"), "two images have one name"),
    (stating(filename=7), r"got `int` - at `\$\[0\]\.filename`"),
    (stating(image_size=[192]), "of length 2"),
    (stating(image_size=[192, 0]), r">= 1 - at `\$\[0\]\.image_size"),
    (stating(image_size=[192, 1 << 20]), r"<= 32768 - at `\$\[0\]\.image_size"),
    (stating(image_size=[10, 81]), "no photograph has 81x10 pixels"),
    (stating(q=[0, 0, 0, 0]), "q = 0 is no rotation"),
    (stating(q=[1, 0, 0]), "of length 4"),
    (stating(q=[1e300, 0, 0, 0]), r"<= 1000000000.0 - at `\$\[0\]\.camera\.q"),
    (stating(t=[0, 0, "x"]), r"got `str` - at `\$\[0\]\.camera\.t"),
    (stating(t=[0, 0, float("nan")]), "no annotations of NAVI"),
    (stating(focal_length=0), r"> 0.0 - at `\$\[0\]\.camera\.focal_length"),
    (lambda root: (root / SCENE / "images/000.jpg").unlink(), "No such file.*the list of images names it"),
    (lambda root: (root / SCENE / "depth/000.png").unlink(), "No such file.*the list of images names it"),
]


@pytest.mark.parametrize("source", ["navi", "navi_pairs"])
@pytest.mark.parametrize(("damage", "message"), UNREADABLE, ids=[message for _, message in UNREADABLE])
def test_what_is_not_as_published_is_refused(ball: Path, source: str, damage: Edit, message: str) -> None:
    damage(ball)
    with pytest.raises(DataError, match=message):
        opened(source, ball).split("test")


def repainted(name: str, pixels: np.ndarray) -> Edit:
    return lambda root: Image.fromarray(pixels).save(root / SCENE / name)


DARK, BRIGHT = np.zeros((192, 256), np.uint16), np.full((192, 256), 1000, np.uint16)
CORNER = DARK.copy()
CORNER[:, :20] = 1000
UNDECODABLE: list[tuple[Edit, str]] = [
    (repainted("depth/000.png", DARK), "no object in the central square"),
    (repainted("depth/000.png", CORNER), "no object in the central square"),
    (repainted("depth/000.png", BRIGHT[:-1]), "256x191 pixels, and annotated as 256x192"),
    (repainted("depth/000.png", BRIGHT.T), "192x256 pixels, and annotated as 256x192"),
    (repainted("depth/000.png", BRIGHT.astype(np.uint8)), "mode 'L', expected inverse depth of 16 bits"),
    (repainted("images/000.jpg", np.zeros((256, 192, 3), np.uint8)), "192x256 pixels, and annotated as"),
    (lambda root: (root / SCENE / "images/000.jpg").write_bytes(b"no image"), "cannot be decoded"),
    (lambda root: (root / SCENE / "depth/000.png").write_bytes(b"no image"), "cannot be decoded"),
]


@pytest.mark.parametrize("source", ["navi", "navi_pairs"])
@pytest.mark.parametrize(("damage", "message"), UNDECODABLE, ids=range(len(UNDECODABLE)))
def test_files_that_are_not_as_annotated_are_refused(
    ball: Path, source: str, damage: Edit, message: str
) -> None:
    damage(ball)
    with pytest.raises(DataError, match=message):
        opened(source, ball).split("test").image(0)


def test_a_panorama_is_read(ball: Path) -> None:
    stating(image_size=[32, 256])(ball)
    assert len(opened("navi", ball).split("test")) == 3


def test_a_table_that_is_too_long_is_not_read(ball: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(navi, "_LARGEST", 100)
    with pytest.raises(DataError, match=r"annotations\.json: more than 100 bytes"):
        opened("navi", ball)


@pytest.mark.parametrize("source", ["navi", "navi_normals", "navi_pairs"])
def test_another_folder_is_refused(source: str, root: Path) -> None:
    with pytest.raises(ConfigError, match=f"{source}: needs a path; write {source}:PATH"):
        open_dataset(source, DatasetOptions())
    with pytest.raises(DataError, match="no OBJECT/wild_set beside OBJECT/multiview"):
        opened(source, root / "ball")
    with pytest.raises(DataError, match="no such folder"):
        opened(source, root / "absent")


@pytest.mark.parametrize(
    ("source", "task", "worst"), [("navi", "depth", 0.5), ("navi_normals", "normals", 180)]
)
def test_heads_are_fitted_on_it(root: Path, tmp_path: Path, source: str, task: str, worst: float) -> None:
    settings: dict[str, Any] = {"size": 16, "batch_size": 2, "pixels": 16, "class_token": False}
    settings |= {"iterations": 101, "flip": False} if task == "depth" else {"iterations": 5}
    context = Context(cache=tmp_path, progress=False, num_workers=0)
    (result,) = evaluate(
        "pixels", task, dataset=f"{source}:{root}", settings={task: settings}, context=context
    )
    assert result.metrics["rmse"].n == 4
    assert 0 < result.metrics["rmse"].value < worst
