"""Sets with a published size, on tiny fakes of their layout."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssleval.core import Dataset, DatasetCard, DatasetOptions
from ssleval.datasets.catalog import list_datasets, open_dataset
from ssleval.errors import DataError

Paint = Callable[[Path, int], None]
OpenReduced = Callable[..., Dataset]

PUBLISHED: dict[str, tuple[int, dict[str, int], str, str, str]] = {
    "amstertime": (0, {"images": 2462, "old": 1231, "new": 1231}, "images", "images", "top1"),
    "ade20k": (150, {"training": 20210, "validation": 2000}, "training", "validation", "top1"),
    "aircraft": (100, {"trainval": 6667, "test": 3333}, "trainval", "test", "mean_per_class"),
    "caltech101": (102, {"train": 3060, "test": 6084}, "train", "test", "mean_per_class"),
    "camvid": (11, {"train": 367, "val": 101, "test": 233}, "train", "test", "top1"),
    "cars": (196, {"train": 8144, "test": 8041}, "train", "test", "top1"),
    "cifar10": (10, {"train": 50000, "test": 10000}, "train", "test", "top1"),
    "cifar100": (100, {"train": 50000, "test": 10000}, "train", "test", "top1"),
    "cityscapes": (19, {"train": 2975, "val": 500}, "train", "val", "top1"),
    "copydays": (0, {"original": 157, "strong": 229, "crops/80": 157}, "database", "strong", "top1"),
    "cub200": (200, {"train": 5994, "test": 5794}, "train", "test", "top1"),
    "digits": (10, {"train": 1297, "test": 500}, "train", "test", "top1"),
    "dtd": (47, {"trainval": 3760, "test": 1880}, "trainval", "test", "top1"),
    "flowers102": (102, {"trainval": 2040, "test": 6149}, "trainval", "test", "mean_per_class"),
    "food101": (101, {"train": 75750, "test": 25250}, "train", "test", "top1"),
    "imagenet1k": (1000, {"train": 1281167, "val": 50000}, "train", "val", "top1"),
    "imagenet_a": (200, {"test": 7500}, "train", "test", "top1"),
    "imagenet_r": (200, {"test": 30000}, "train", "test", "top1"),
    "imagenet_sketch": (1000, {"test": 50889}, "train", "test", "top1"),
    "imagenet_v2": (1000, {"test": 10000}, "train", "test", "top1"),
    "objectnet": (113, {"test": 18574}, "train", "test", "top1"),
    "imagenet9": (9, {"original": 4050, "mixed_rand": 4050, "only_bg_t": 4050}, "train", "original", "top1"),
    "dollar_street": (1000, {"test": 4308}, "train", "test", "top1"),
    "imagenet_real": (1000, {"test": 50000 - 3163}, "train", "test", "top1"),
    "inat2018": (8142, {"train": 437513, "val": 24426}, "train", "val", "top1"),
    "inat2021": (10000, {"train": 2686843, "val": 100000}, "train", "val", "top1"),
    "kitti": (0, {"train": 23158, "test": 652}, "train", "test", "top1"),
    "met": (0, {"database": 397121, "val": 2165, "test": 19319}, "database", "test", "top1"),
    "met_mini": (0, {"database": 38307, "val": 2165, "test": 19319}, "database", "test", "top1"),
    "nyuv2": (0, {"train": 24231, "test": 654}, "train", "test", "top1"),
    "nyuv2_normals": (0, {"train": 795, "test": 654}, "train", "test", "top1"),
    "pets": (37, {"trainval": 3680, "test": 3669}, "trainval", "test", "mean_per_class"),
    "places205": (205, {"train": 2448873, "val": 20500}, "train", "val", "top1"),
    "spair71k": (18, {"trn": 53340, "val": 5384, "test": 12234}, "trn", "test", "top1"),
    "roxford5k": (0, {"queries": 70, "gallery": 4993}, "gallery", "queries", "top1"),
    "rparis6k": (0, {"queries": 70, "gallery": 6322}, "gallery", "queries", "top1"),
    "sunrgbd": (0, {"test": 5050}, "train", "test", "top1"),
    "sun397": (397, {"train": 19850, "test": 19850}, "train", "test", "top1"),
    "voc2007": (20, {"trainval": 5011, "test": 4952}, "trainval", "test", "map"),
    "voc2012": (21, {"train": 1464, "val": 1449}, "train", "val", "top1"),
    "coco2017": (80, {"train": 118287, "val": 5000}, "train", "val", "top1"),
    "voc2012_detection": (20, {"train": 5717, "val": 5823}, "train", "val", "top1"),
    "voc2012_instances": (20, {"train": 1464, "val": 1449}, "train", "val", "top1"),
    "voc2012_aug": (21, {"trainaug": 10582, "val": 1449}, "trainaug", "val", "top1"),
}
"""Sizes and conventions as the papers print them, written down apart from the cards."""


def cards() -> dict[str, DatasetCard]:
    return {name: card for name, card in list_datasets().items() if isinstance(card, DatasetCard)}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_cards_state_what_was_published(name: str) -> None:
    card = cards()[name]
    classes, lengths, train, test, metric = PUBLISHED[name]
    assert card.name == name
    assert card.num_classes == classes
    assert lengths.items() <= card.lengths.items()
    assert (card.train_split, card.test_split, card.metric) == (train, test, metric)
    assert card.license
    assert card.source


@pytest.mark.parametrize("name", sorted(cards()))
def test_every_card_is_complete(name: str) -> None:
    card = cards()[name]
    assert card.name == name
    assert card.test_split in card.lengths
    assert all(length > 0 for length in card.lengths.values())
    assert card.num_classes > 0 or card.target not in {"label", "multilabel", "mask"}
    assert card.class_names == () or len(card.class_names) == card.num_classes
    assert card.license
    assert card.source


def test_no_set_loses_its_published_sizes() -> None:
    assert len(PUBLISHED) == 44
    assert cards().keys() >= PUBLISHED.keys() | {"imagenet_c"}


def test_imagenet_c_has_fifteen_corruptions_at_five_severities() -> None:
    card = cards()["imagenet_c"]
    assert len(card.lengths) == 75
    assert set(card.lengths.values()) == {50_000}
    assert {name.rpartition("-")[2] for name in card.lengths} == set("12345")
    assert len({name.rpartition("-")[0] for name in card.lengths}) == 15


@pytest.mark.parametrize("name", sorted({*PUBLISHED, "imagenet_c"} - {"digits"}))
def test_absent_files_are_one_line_with_the_way_to_get_them(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=rf"{name}: no folder .*{name}.*--data-root") as caught:
        open_dataset(name, DatasetOptions(data_root=tmp_path))
    assert cards()[name].source in str(caught.value)
    assert "\n" not in str(caught.value)


def contents(dataset: Dataset, split: str) -> list[tuple[str, int, Any]]:
    """Return id, grey level and target of every item."""
    opened = dataset.split(split)
    rows: list[tuple[str, int, Any]] = []
    for index in range(len(opened)):
        sample = opened[index]
        pixel = sample.image.getpixel((0, 0))
        assert isinstance(pixel, tuple)
        rows.append((sample.id, round(pixel[0] / 10) * 10, np.asarray(sample.target).tolist()))
    return rows


def write(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


A, B, C = "n01440764", "n01443537", "n15075141"


def test_imagenet(tmp_path: Path, paint: Paint, open_reduced: OpenReduced) -> None:
    for number, wnid in enumerate((C, A, B)):
        paint(tmp_path / f"imagenet1k/train/{wnid}/{wnid}_1.JPEG", number * 10)
        paint(tmp_path / f"imagenet1k/val/{wnid}/ILSVRC2012_val_{number + 1:08d}.JPEG", number * 10)
    dataset = open_reduced("imagenet1k", 3, {"train": 3, "val": 3})
    assert dataset.card.class_names == (A, B, C)
    assert contents(dataset, "train") == [
        (f"{w}/{w}_1.JPEG", v, t) for w, v, t in ((A, 10, 0), (B, 20, 1), (C, 0, 2))
    ]
    assert [target for _, _, target in contents(dataset, "val")] == [0, 1, 2]
    (tmp_path / f"imagenet1k/train/{C}").rename(tmp_path / "imagenet1k/train/n99999999")
    with pytest.raises(DataError, match="other class folders"):
        open_reduced("imagenet1k", 3, {"train": 3, "val": 3}).split("train")


def test_the_real_card_refuses_a_reduced_copy(
    tmp_path: Path, paint: Paint, open_reduced: OpenReduced
) -> None:
    paint(tmp_path / f"imagenet_a/{A}/1.jpg", 0)
    with pytest.raises(DataError, match=r"imagenet_a: 1 classes in .*, expected 200; the copy is incomplete"):
        open_dataset("imagenet_a", DatasetOptions(data_root=tmp_path))
    with pytest.raises(DataError, match="imagenet_a/test: 1 items, expected 7500; the copy is incomplete"):
        open_reduced("imagenet_a", 1, {"test": 7500}).split("test")


@pytest.mark.parametrize("name", ["imagenet_a", "imagenet_r", "imagenet_sketch"])
def test_folders_of_wordnet_ids(tmp_path: Path, paint: Paint, open_reduced: OpenReduced, name: str) -> None:
    write(tmp_path / name / "README.txt", ["not an image"])
    for number, wnid in enumerate((B, A)):
        paint(tmp_path / name / wnid / "1.jpg", number * 10)
    dataset = open_reduced(name, 2, {"test": 2})
    assert dataset.card.class_names == (A, B)
    assert contents(dataset, "test") == [(f"{A}/1.jpg", 10, 0), (f"{B}/1.jpg", 0, 1)]
    (tmp_path / name / A).rename(tmp_path / name / "goldfish")
    with pytest.raises(DataError, match="'goldfish', expected WordNet ids"):
        open_reduced(name, 2, {"test": 2})


def test_imagenet_v2_sorts_its_folders_as_numbers(
    tmp_path: Path, paint: Paint, open_reduced: OpenReduced
) -> None:
    for label in range(12):
        paint(tmp_path / f"imagenet_v2/{label}/x.jpeg", label * 10)
    dataset = open_reduced("imagenet_v2", 12, {"test": 12})
    assert contents(dataset, "test") == [(f"{label}/x.jpeg", label * 10, label) for label in range(12)]
    paint(tmp_path / "imagenet_v2/n01440764/x.jpeg", 0)
    with pytest.raises(DataError, match="expected class numbers"):
        open_reduced("imagenet_v2", 13, {"test": 13})


def test_imagenet_real_leaves_out_images_without_labels(
    tmp_path: Path, paint: Paint, open_reduced: OpenReduced
) -> None:
    for number, wnid in ((1, C), (2, A), (3, B), (4, A)):
        paint(tmp_path / f"imagenet1k/val/{wnid}/ILSVRC2012_val_{number:08d}.JPEG", number * 10)
    listed = tmp_path / "imagenet_real" / "real.json"
    write(listed, [json.dumps([[2], [], [0, 1], [0]])])
    dataset = open_reduced("imagenet_real", 3, {"test": 3})
    assert [(level, target) for _, level, target in contents(dataset, "test")] == [
        (10, [False, False, True]),
        (30, [True, True, False]),
        (40, [True, False, False]),
    ]
    write(listed, [json.dumps([[2], [], [0, 1], [0], [1]])])
    with pytest.raises(
        DataError, match=r"1 images of real\.json are absent, such as ILSVRC2012_val_00000005"
    ):
        open_reduced("imagenet_real", 3, {"test": 3}).split("test")


def test_imagenet_c_splits_are_corruption_and_severity(
    tmp_path: Path, paint: Paint, open_reduced: OpenReduced
) -> None:
    for corruption, severity, level in (("gaussian_noise", 1, 10), ("fog", 3, 20)):
        paint(tmp_path / "imagenet_c" / corruption / str(severity) / A / "v.JPEG", level)
    dataset = open_reduced("imagenet_c", 1, {"gaussian_noise-1": 1, "fog-3": 1})
    assert contents(dataset, "fog-3") == [(f"{A}/v.JPEG", 20, 0)]
    assert contents(dataset, "gaussian_noise-1") == [(f"{A}/v.JPEG", 10, 0)]


def test_caltech101_draws_thirty_of_each_class(
    tmp_path: Path, paint: Paint, open_reduced: OpenReduced
) -> None:
    for name, count in (("ant", 33), ("BACKGROUND_Google", 31)):
        for number in range(1, count + 1):
            paint(tmp_path / f"caltech101/101_ObjectCategories/{name}/image_{number:04d}.jpg", 0)
    # The published archive holds this file.
    (tmp_path / "caltech101/101_ObjectCategories/BACKGROUND_Google/tmp").write_bytes(b"")
    dataset = open_reduced("caltech101", 2, {"train": 60, "test": 4})
    train, test = dataset.split("train"), dataset.split("test")
    assert dataset.card.class_names == ("BACKGROUND_Google", "ant")
    assert np.bincount(np.asarray(train.targets)).tolist() == [30, 30]
    assert np.bincount(np.asarray(test.targets)).tolist() == [1, 3]
    assert not set(train.ids) & set(test.ids)
    # The drawing itself: another seed or generator would give another test set.
    assert [path[-8:-4] for path in test.ids] == ["0013", "0001", "0016", "0033"]
    assert len(open_reduced("caltech101", 2, {"train": 60, "test": 4}).split("test")) == 4
    for number in range(31, 34):
        (tmp_path / f"caltech101/101_ObjectCategories/ant/image_{number:04d}.jpg").unlink()
    with pytest.raises(DataError, match="ant: 30 images, needs more than 30"):
        open_reduced("caltech101", 2, {"train": 60, "test": 4})


def test_pets(tmp_path: Path, paint: Paint, open_reduced: OpenReduced) -> None:
    base = tmp_path / "pets/oxford-iiit-pet"
    for number, image in enumerate(("great_dane_1", "Abyssinian_7", "great_dane_2")):
        paint(base / f"images/{image}.jpg", number * 10)
    write(base / "annotations/trainval.txt", ["great_dane_1 2 2 1", "Abyssinian_7 1 1 1"])
    write(base / "annotations/test.txt", ["great_dane_2 2 2 1"])
    dataset = open_reduced("pets", 2, {"trainval": 2, "test": 1})
    assert dataset.card.class_names == ("Abyssinian", "great dane")
    assert contents(dataset, "trainval") == [
        ("images/great_dane_1.jpg", 0, 1),
        ("images/Abyssinian_7.jpg", 10, 0),
    ]
    assert contents(dataset, "test") == [("images/great_dane_2.jpg", 20, 1)]


def test_cub200(tmp_path: Path, paint: Paint, open_reduced: OpenReduced) -> None:
    base = tmp_path / "cub200/CUB_200_2011"
    images = ["002.B_Bird/b.jpg", "001.A_Bird/a.jpg", "001.A_Bird/c.jpg"]
    for number, image in enumerate(images):
        paint(base / "images" / image, number * 10)
    write(base / "images.txt", [f"{number} {image}" for number, image in enumerate(images, 1)])
    write(base / "image_class_labels.txt", ["1 2", "2 1", "3 1"])
    write(base / "train_test_split.txt", ["1 1", "2 0", "3 1"])
    write(base / "classes.txt", ["1 001.A_Bird", "2 002.B_Bird"])
    dataset = open_reduced("cub200", 2, {"train": 2, "test": 1})
    assert dataset.card.class_names == ("A Bird", "B Bird")
    assert contents(dataset, "train") == [(images[0], 0, 1), (images[2], 20, 0)]
    assert contents(dataset, "test") == [(images[1], 10, 0)]
    write(base / "train_test_split.txt", ["1 1", "2 0"])
    with pytest.raises(DataError, match="disagree"):
        open_reduced("cub200", 2, {"train": 2, "test": 1})


def test_sun397(tmp_path: Path, paint: Paint, open_reduced: OpenReduced) -> None:
    images = ["/a/abbey/sun_a.jpg", "/b/barn/outdoor/sun_b.jpg", "/a/abbey/sun_c.jpg"]
    for number, image in enumerate(images):
        paint(tmp_path / f"sun397/SUN397{image}", number * 10)
    lists = tmp_path / "sun397/Partitions"
    write(lists / "ClassName.txt", ["/a/abbey", "/b/barn/outdoor"])
    write(lists / "Training_01.txt", [images[1], images[0]])
    write(lists / "Testing_01.txt", [images[2]])
    dataset = open_reduced("sun397", 2, {"train": 2, "test": 1})
    assert dataset.card.class_names == ("abbey", "barn, outdoor")
    assert contents(dataset, "train") == [("b/barn/outdoor/sun_b.jpg", 10, 1), ("a/abbey/sun_a.jpg", 0, 0)]
    assert contents(dataset, "test") == [("a/abbey/sun_c.jpg", 20, 0)]
    write(lists / "Testing_01.txt", ["/c/cave/sun_d.jpg"])
    with pytest.raises(DataError, match=r"absent from ClassName\.txt: /c/cave"):
        open_reduced("sun397", 2, {"train": 2, "test": 1}).split("test")


def test_voc2007(tmp_path: Path, paint: Paint, open_reduced: OpenReduced) -> None:
    base = tmp_path / "voc2007/VOCdevkit/VOC2007"
    names = cards()["voc2007"].class_names
    images = {"trainval": ["000005", "000007"], "test": ["000001"]}
    for split, listed in images.items():
        write(base / f"ImageSets/Main/{split}.txt", listed)
        for name in names:
            write(base / f"ImageSets/Main/{name}_{split}.txt", [f"{image} -1" for image in listed])
        for image in listed:
            paint(base / f"JPEGImages/{image}.jpg", int(image) * 10)
    write(base / "ImageSets/Main/car_trainval.txt", ["000005  1", "000007  0"])
    write(base / "ImageSets/Main/dog_trainval.txt", ["000005 -1", "000007  1"])
    dataset = open_reduced("voc2007", 20, {"trainval": 2, "test": 1})
    rows = contents(dataset, "trainval")
    assert [row[:2] for row in rows] == [("JPEGImages/000005.jpg", 50), ("JPEGImages/000007.jpg", 70)]
    assert [[name for name, label in zip(names, row[2], strict=True) if label == 1] for row in rows] == [
        ["car"],
        ["dog"],
    ]
    # The car of the second image is difficult: it counts neither way.
    assert [names[label] for label in np.flatnonzero(np.array(rows[1][2]) == -1)] == ["car"]
    assert sum(map(abs, rows[0][2])) == 1
    before = dataset.split("trainval").fingerprint
    write(base / "ImageSets/Main/car_trainval.txt", ["000005  1", "000007 -1"])
    assert open_reduced("voc2007", 20, {"trainval": 2, "test": 1}).split("trainval").fingerprint != before
    write(base / "ImageSets/Main/cow_test.txt", ["000009 1"])
    with pytest.raises(DataError, match=r"cow_test\.txt: lists other images"):
        open_reduced("voc2007", 20, {"trainval": 2, "test": 1}).split("test")


@pytest.mark.parametrize(("year", "suffix"), [("2018", "2018"), ("2021", "")])
def test_inaturalist(tmp_path: Path, paint: Paint, open_reduced: OpenReduced, year: str, suffix: str) -> None:
    root = tmp_path / f"inat{year}"
    categories = [{"id": 1, "name": "Apis mellifera"}, {"id": 0, "name": "Quercus robur"}]

    def listed(split: str, rows: list[tuple[int, str, int]]) -> None:
        images = [{"id": image, "file_name": path} for image, path, _ in rows]
        annotations = [
            {"id": image, "image_id": image, "category_id": label} for image, _, label in reversed(rows)
        ]
        content = {"images": images, "annotations": annotations, "categories": categories}
        write(root / f"{split}{suffix}.json", [json.dumps(content)])
        for image, path, _ in rows:
            paint(root / path, image * 10)

    listed("train", [(7, "train/x.jpg", 1), (3, "train/a.jpg", 0)])
    listed("val", [(4, "val/b.jpg", 1)])
    dataset = open_reduced(f"inat{year}", 2, {"train": 2, "val": 1})
    assert dataset.card.class_names == ("Quercus robur", "Apis mellifera")
    assert contents(dataset, "train") == [("train/x.jpg", 70, 1), ("train/a.jpg", 30, 0)]
    assert contents(dataset, "val") == [("val/b.jpg", 40, 1)]
    categories[0]["id"] = 5
    listed("val", [(4, "val/b.jpg", 1)])
    with pytest.raises(DataError, match="do not run from 0 to 1"):
        open_reduced(f"inat{year}", 2, {"train": 2, "val": 1})


def test_places205(tmp_path: Path, paint: Paint, open_reduced: OpenReduced) -> None:
    root = tmp_path / "places205"
    rows = {
        "train": [("b/bar/g1.jpg", 1), ("a/abbey/g2.jpg", 0)],
        "val": [("a/abbey/g3.jpg", 0), ("b/bar/g4.jpg", 1)],
    }
    for split, listed in rows.items():
        write(
            root / f"trainvalsplit_places205/{split}_places205.csv",
            [f"{path} {label}" for path, label in listed],
        )
        for path, _ in listed:
            paint(root / "data/vision/torralba/deeplearning/images256" / path, int(path[-5]) * 10)
    dataset = open_reduced("places205", 2, {"train": 2, "val": 2})
    assert dataset.card.class_names == ("abbey", "bar")
    assert contents(dataset, "train") == [("b/bar/g1.jpg", 10, 1), ("a/abbey/g2.jpg", 20, 0)]
    assert contents(dataset, "val") == [("a/abbey/g3.jpg", 30, 0), ("b/bar/g4.jpg", 40, 1)]
    write(root / "trainvalsplit_places205/val_places205.csv", ["a/abbey/g3.jpg,0"])
    with pytest.raises(DataError, match="expected lines of PATH CLASS"):
        open_reduced("places205", 2, {"train": 2, "val": 2})


def test_damaged_json_is_named(tmp_path: Path, open_reduced: OpenReduced) -> None:
    write(tmp_path / "inat2018/val2018.json", ['{"images": ['])
    with pytest.raises(DataError, match=r"val2018\.json: not a whole JSON file"):
        open_reduced("inat2018", 2, {"train": 2, "val": 1})


def test_lists_that_are_absent_are_named(tmp_path: Path, open_reduced: OpenReduced) -> None:
    (tmp_path / "sun397").mkdir()
    with pytest.raises(DataError, match=r"no ClassName\.txt in it or in Partitions, SUN397"):
        open_reduced("sun397", 2, {"train": 2, "test": 1})


def spair(root: Path, paint: Paint, names: Sequence[str] = ("000001-a-b:cat", "000002-b-a:dog")) -> Path:
    """Write a copy of a few pairs with two key points each."""
    folder = root / "spair71k/PairAnnotation/test"
    for number, name in enumerate(names):
        category = name.rpartition(":")[2]
        said = {
            "category": category,
            "src_imname": "a.jpg",
            "trg_imname": "b.jpg",
            "src_kps": [[1, 2], [3, 0]],
            "trg_kps": [[2, 2], [4, number]],
            "trg_bndbox": [1, 0, 5, 3],
            "kps_ids": ["0", "7"],
        }
        write(folder / f"{name}.json", [json.dumps(said)])
        for level, image in ((10, "a"), (40, "b")):
            paint(root / f"spair71k/JPEGImages/{category}/{image}.jpg", level + 100 * number)
    return folder


def test_spair71k(tmp_path: Path, paint: Paint, open_reduced: OpenReduced) -> None:
    spair(tmp_path, paint)
    dataset = open_reduced("spair71k", 18, {"test": 2})
    split = dataset.split("test")
    assert list(split.ids) == ["000001-a-b:cat", "000002-b-a:dog"]
    image, pair = split[1].image, split[1].target
    assert [round(np.asarray(one)[0, 0, 0] / 10) for one in (image, pair.partner)] == [11, 14]
    assert pair.names == ("JPEGImages/dog/a.jpg", "JPEGImages/dog/b.jpg")
    assert pair.points.tolist() == [[1.5, 2.5], [3.5, 0.5]]
    assert pair.partner_points.tolist() == [[2.5, 2.5], [4.5, 1.5]]
    assert pair.box == (1, 0, 5, 3)
    assert dataset.card.class_names[pair.category] == "dog"


def test_the_fingerprint_of_spair71k_holds_key_points(
    tmp_path: Path, paint: Paint, open_reduced: OpenReduced
) -> None:
    folder = spair(tmp_path, paint)
    before = open_reduced("spair71k", 18, {"test": 2}).split("test").fingerprint
    path = folder / "000002-b-a:dog.json"
    path.write_text(path.read_text().replace("[3, 0]", "[3, 1]"))
    assert open_reduced("spair71k", 18, {"test": 2}).split("test").fingerprint != before


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"src_kps"', '"kps"', "no src_kps; expected the annotation of a pair"),
        ('"category": "dog"', '"category": "hen"', "'hen' is no category"),
        ("[[1, 2], ", "[", "1 and 2 key points; expected as many of both"),
        ("[1, 0, 5, 3]", "[1, 0, 5]", "expected 4 numbers each"),
        ("[3, 0]", '["x", 0]', "src_kps holds no numbers"),
        ("b.jpg", "c.jpg", r"dog/c\.jpg"),
    ],
)
def test_damaged_pairs_of_spair71k_are_named(
    tmp_path: Path, paint: Paint, open_reduced: OpenReduced, old: str, new: str, message: str
) -> None:
    path = spair(tmp_path, paint) / "000002-b-a:dog.json"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DataError, match=message):
        open_reduced("spair71k", 18, {"test": 2}).split("test")


def test_spair71k_without_pairs_is_incomplete(
    tmp_path: Path, paint: Paint, open_reduced: OpenReduced
) -> None:
    spair(tmp_path, paint)
    with pytest.raises(DataError, match="no annotations of pairs"):
        open_reduced("spair71k", 18, {"val": 2}).split("val")
