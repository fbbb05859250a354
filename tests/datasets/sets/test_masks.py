"""Sets with masks, on tiny fakes of their layout."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssleval.core import Dataset, DatasetOptions
from ssleval.datasets.catalog import open_dataset
from ssleval.errors import ConfigError, DataError

Paint = Callable[[Path, int], None]
OpenReduced = Callable[..., Dataset]


def draw(path: Path, values: list[int], mode: str = "L") -> None:
    """Write a mask of 6 x 5 pixels whose first ones hold ``values``, the others the last of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full(30, values[-1], dtype=np.uint8)
    pixels[: len(values)] = values
    image = Image.fromarray(pixels.reshape(5, 6))
    if mode == "P":
        image = Image.frombytes("P", (6, 5), pixels.tobytes())
        image.putpalette([200, 30, 10] * 256)
    (image.convert("RGB") if mode == "RGB" else image).save(path)


def first(dataset: Dataset, split: str, count: int) -> list[int]:
    """Return the first pixels of the first mask."""
    target = dataset.split(split).target
    assert target is not None
    return target(0).reshape(-1)[:count].tolist()


def test_camvid_pairs_by_name_and_ignores_void(
    tmp_path: Path, paint: Paint, open_reduced: OpenReduced
) -> None:
    for name in ("b", "a"):
        paint(tmp_path / f"camvid/train/{name}.png", 1)
        draw(tmp_path / f"camvid/trainannot/{name}.png", [0, 10, 11, 255])
    dataset = open_reduced("camvid", 11, {"train": 2})
    assert list(dataset.split("train").ids) == ["train/a.png", "train/b.png"]
    assert first(dataset, "train", 4) == [0, 10, 255, 255]


def test_voc_masks_are_palette_indices(tmp_path: Path, paint: Paint, open_reduced: OpenReduced) -> None:
    for name, folder, listed in (
        ("voc2012", "SegmentationClass", "train"),
        ("voc2012_aug", "SegmentationClassAug", "trainaug"),
    ):
        base = tmp_path / name / "VOCdevkit" / "VOC2012"
        paint(base / "JPEGImages/x.jpg", 3)
        draw(base / folder / "x.png", [0, 20, 255], mode="P")
        (base / "ImageSets/Segmentation").mkdir(parents=True)
        (base / f"ImageSets/Segmentation/{listed}.txt").write_text("x\n")
        assert first(open_reduced(name, 21, {listed: 1}), listed, 3) == [0, 20, 255]


def test_ade20k_moves_down_by_one_and_ignores_zero(
    tmp_path: Path, paint: Paint, open_reduced: OpenReduced
) -> None:
    base = tmp_path / "ade20k" / "ADEChallengeData2016"
    paint(base / "images/training/1.jpg", 3)
    draw(base / "annotations/training/1.png", [0, 1, 2])
    (base / "objectInfo150.txt").write_text(
        "Idx\tRatio\tTrain\tVal\tName\n1\t0\t1\t1\twall\n2\t0\t1\t1\thut, shed\n"
    )
    dataset = open_reduced("ade20k", 2, {"training": 1})
    assert dataset.card.class_names == ("wall", "hut")
    assert first(dataset, "training", 3) == [255, 0, 1]
    draw(base / "annotations/training/1.png", [3])
    with pytest.raises(DataError, match="value 3 is no class of this set"):
        first(dataset, "training", 1)


def test_cityscapes_ids_become_train_ids(tmp_path: Path, paint: Paint, open_reduced: OpenReduced) -> None:
    root = tmp_path / "cityscapes"
    paint(root / "leftImg8bit/val/ulm/ulm_1_leftImg8bit.png", 3)
    draw(root / "gtFine/val/ulm/ulm_1_gtFine_labelIds.png", [0, 7, 8, 9, 11, 17, 19, 26, 29, 31, 33])
    dataset = open_reduced("cityscapes", 19, {"val": 1})
    assert first(dataset, "val", 11) == [255, 0, 1, 255, 2, 5, 6, 13, 255, 16, 18]
    paint(root / "leftImg8bit/val/ulm/other.png", 3)
    with pytest.raises(DataError, match="expected CITY"):
        open_reduced("cityscapes", 19, {"val": 1}).split("val")


@pytest.fixture
def two_folders(tmp_path: Path, paint: Paint) -> str:
    for split in ("train", "val"):
        for name in ("deep/b", "a"):
            paint(tmp_path / f"images/{split}/{name}.png", 1)
            draw(tmp_path / f"masks/{split}/{name}.png", [0, 1, 2])
    (tmp_path / "masks/classes.txt").write_text("cat\nignore\ndog\n")
    return f"masks:{tmp_path / 'images'},{tmp_path / 'masks'}"


def test_two_folders_are_a_dataset(two_folders: str) -> None:
    dataset = open_dataset(two_folders, DatasetOptions())
    assert dataset.card.class_names == ("cat", "dog")
    assert (dataset.card.train_split, dataset.card.test_split) == ("train", "val")
    assert list(dataset.split("val").ids) == ["images/val/a.png", "images/val/deep/b.png"]
    assert first(dataset, "train", 3) == [0, 255, 1]
    assert dataset.split("val").image(1).getpixel((0, 0)) == (1, 1, 1)


def test_what_decides_a_mask_decides_the_fingerprint(two_folders: str, tmp_path: Path) -> None:
    before = open_dataset(two_folders, DatasetOptions()).split("val").fingerprint
    (tmp_path / "masks/classes.txt").write_text("cat\ndog\nignore\n")
    after = open_dataset(two_folders, DatasetOptions()).split("val").fingerprint
    draw(tmp_path / "masks/val/a.png", [0, 1, 2, 0, 1, 2, 0])
    assert len({before, after, open_dataset(two_folders, DatasetOptions()).split("val").fingerprint}) == 3


DAMAGE: list[tuple[Callable[[Path], object], str]] = [
    (
        lambda root: draw(root / "masks/train/a.png", [0], mode="RGB"),
        "mode 'RGB', expected class indices",
    ),
    (lambda root: draw(root / "masks/train/a.png", [0, 3]), "value 3 is no class"),
    (
        lambda root: Image.new("L", (5, 5)).save(root / "masks/train/a.png"),
        "5x5 pixels for an image of 6x5",
    ),
    (lambda root: (root / "masks/train/a.png").write_bytes(b"no"), "cannot be decoded"),
    (lambda root: (root / "masks/train/a.png").unlink(), "a has no partner"),
    (lambda root: (root / "images/train/a.bmp").write_bytes(b"x"), "have one name"),
    (lambda root: (root / "masks/classes.txt").unlink(), "classes.txt: no such file"),
    (lambda root: (root / "masks/classes.txt").write_text("a\na\n"), "needs different names"),
    (lambda root: (root / "images/train").rename(root / "images/other"), "needs train/"),
]


@pytest.mark.parametrize(("change", "message"), DAMAGE)
def test_damage_is_one_line(
    two_folders: str, tmp_path: Path, change: Callable[[Path], object], message: str
) -> None:
    change(tmp_path)
    with pytest.raises(DataError, match=message):
        first(open_dataset(two_folders, DatasetOptions()), "train", 1)


def test_one_folder_is_refused() -> None:
    with pytest.raises(ConfigError, match="masks:IMAGES,MASKS"):
        open_dataset("masks:images", DatasetOptions())


def test_a_named_class_that_no_training_mask_shows_is_refused(two_folders: str, tmp_path: Path) -> None:
    for name in ("a", "deep/b"):
        draw(tmp_path / f"masks/train/{name}.png", [0, 255])
    (tmp_path / "masks/classes.txt").write_text("background\nthing\nother\n")
    dataset = open_dataset(two_folders, DatasetOptions())
    with pytest.raises(DataError, match=r"no mask shows thing, other \(2 classes\)"):
        dataset.split("train")
    assert len(dataset.split("val")) == 2
    # Shown by one mask of several, each class is known.
    draw(tmp_path / "masks/train/a.png", [0, 1])
    draw(tmp_path / "masks/train/deep/b.png", [2])
    dataset = open_dataset(two_folders, DatasetOptions())
    assert len(dataset.limited(1).split("train")) == 1


def test_folders_may_hold_commas_where_two_are_there(two_folders: str, tmp_path: Path) -> None:
    (tmp_path / "x,y").mkdir()
    for name in ("images", "masks"):
        (tmp_path / name).rename(tmp_path / "x,y" / name)
    dataset = open_dataset(f"masks:{tmp_path}/x,y/images,{tmp_path}/x,y/masks", DatasetOptions())
    assert len(dataset.split("train")) == 2
