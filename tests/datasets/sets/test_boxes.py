import json
import pickle
import tracemalloc
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import VOCDetection

from ssleval.core import DatasetOptions
from ssleval.datasets.catalog import open_dataset
from ssleval.datasets.files import objects
from ssleval.errors import ConfigError, DataError

OBJECT = (
    "<object><name>{0}</name><difficult>{5}</difficult><truncated>0</truncated><bndbox><xmin>{1}</xmin>"
    "<ymin>{2}</ymin><xmax>{3}</xmax><ymax>{4}</ymax></bndbox></object>"
)
TRUTH = {"000001": [("dog", 1, 1, 30, 20, 0)], "000002": [("cat", 3, 5, 9, 8, 1), ("dog", 2, 2, 40, 30, 0)]}


def voc(root: Path, *, lists: bool = True) -> Path:
    base = root / "VOCdevkit" / "VOC2007"
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (base / folder).mkdir(parents=True)
    for name, rows in TRUTH.items():
        Image.new("RGB", (40, 30)).save(base / "JPEGImages" / f"{name}.jpg")
        objects = "".join(OBJECT.format(*row) for row in rows)
        (base / "Annotations" / f"{name}.xml").write_text(f"<annotation>{objects}</annotation>")
    if lists:
        (base / "ImageSets" / "Main" / "trainval.txt").write_text("000002\n000001\n")
        (base / "ImageSets" / "Main" / "test.txt").write_text("000001\n")
    return base


def test_voc_is_read_as_torchvision_reads_it(tmp_path: Path) -> None:
    base = voc(tmp_path)
    opened = open_dataset(f"boxes:{base}", DatasetOptions())
    assert (opened.card.target, opened.card.test_split) == ("boxes", "trainval")
    assert opened.card.lengths == {"test": 1, "trainval": 2}
    split = opened.split("trainval")
    assert list(split.ids) == ["000002.jpg", "000001.jpg"]
    assert split.target is not None
    theirs = VOCDetection(str(tmp_path), "2007", "trainval")
    for row in range(2):
        corners = [one["bndbox"] for one in theirs[row][1]["annotation"]["object"]]
        expected = [[int(box[side]) for side in ("xmin", "ymin", "xmax", "ymax")] for box in corners]
        found = pickle.loads(pickle.dumps(split.target))(row)
        assert (found.boxes + np.array([1, 1, 0, 0])).tolist() == expected
        names = [one["name"] for one in theirs[row][1]["annotation"]["object"]]
        assert [opened.card.class_names[label] for label in found.labels] == names
    assert split.image(0).size == (40, 30)


def test_without_lists_every_annotated_image_is_there(tmp_path: Path) -> None:
    opened = open_dataset(f"boxes:{voc(tmp_path, lists=False)}", DatasetOptions())
    assert list(opened.split("all").ids) == ["000001.jpg", "000002.jpg"]


def test_boxes_are_part_of_the_fingerprint(tmp_path: Path) -> None:
    base = voc(tmp_path)
    before = open_dataset(f"boxes:{base}", DatasetOptions()).split("test").fingerprint
    path = base / "Annotations" / "000001.xml"
    path.write_text(path.read_text().replace("<xmax>30", "<xmax>31"))
    assert open_dataset(f"boxes:{base}", DatasetOptions()).split("test").fingerprint != before


def coco(folder: Path, **changed: object) -> str:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (20, 20)).save(folder / name)
    boxes = [(7, [1.4, 2, 3.2, 4.6], 0), (7, [0, 0, 9, 9], 1), (9, [5, 5, 0.2, 2], 0)]
    content = {
        "images": [{"id": 9, "file_name": "b.png"}, {"id": 7, "file_name": "a.png"}],
        "annotations": [{"image_id": image, "bbox": box, "iscrowd": crowd} for image, box, crowd in boxes],
    }
    (folder / "boxes.json").write_text(json.dumps(content | changed))
    return f"boxes:{folder},{folder / 'boxes.json'}"


def test_coco_is_read_with_crowds_and_to_the_digit(tmp_path: Path) -> None:
    opened = open_dataset(coco(tmp_path), DatasetOptions())
    split = opened.split("all")
    assert (list(split.ids), opened.card.target, opened.card.class_names) == (["b.png", "a.png"], "boxes", ())
    assert split.target is not None
    assert split.target(0).boxes.tolist() == [[5, 5, 5.2, 7]]
    assert split.target(1).boxes.tolist() == [[1.4, 2, 1.4 + 3.2, 6.6], [0, 0, 9, 9]]
    assert split.target(1).counted.tolist() == [True, False]
    assert split.target(1).size == (20, 20)


def outlined(root: Path, split: str, second: Any, **changed: Any) -> Path:
    """A split of COCO's layout with one image and two objects, the first of which is a polygon."""
    folder = root / split
    (root / "annotations").mkdir(exist_ok=True)
    folder.mkdir()
    Image.new("RGB", (8, 6)).save(folder / "a.png")
    polygon = [[1.0, 1, 5, 1, 5, 4, 1, 4]]
    entries = [
        {"image_id": 1, "bbox": [1, 1, 4, 3], "category_id": 30, "segmentation": polygon},
        {"image_id": 1, "bbox": [0, 0, 2, 6], "category_id": 7, "segmentation": second, "iscrowd": 1},
    ]
    categories = [{"id": 30, "name": "ant"}, {"id": 7, "name": "bee"}]
    content = {"images": [{"id": 1, "file_name": "a.png"}], "categories": categories, "annotations": entries}
    table = root / "annotations" / f"instances_{split}.json"
    table.write_text(json.dumps(content | changed))
    return table


runs: Any = import_module("pycocotools.mask")
LEFT = np.zeros((6, 8), np.uint8)
LEFT[:, :2] = 1
RUNS = {"size": [6, 8], "counts": [0, 12, 36]}
PACKED = {"size": [6, 8], "counts": runs.encode(np.asfortranarray(LEFT))["counts"].decode()}


@pytest.mark.parametrize("second", [RUNS, PACKED], ids=["listed", "packed"])
def test_a_folder_of_coco_has_splits_classes_and_masks(tmp_path: Path, second: Any) -> None:
    for split in ("train2017", "val2017"):
        outlined(tmp_path, split, second)
    opened = open_dataset(f"boxes:{tmp_path}", DatasetOptions())
    card = opened.card
    assert (card.target, card.class_names, card.lengths, card.test_split) == (
        "objects", ("bee", "ant"), {"train": 1, "val": 1}, "val",
    )  # fmt: skip
    split = opened.split("train")
    assert split.target is not None
    found = pickle.loads(pickle.dumps(split.target))(0)
    assert found.labels.tolist() == [1, 0]
    assert found.crowd.tolist() == [False, True]
    box = np.zeros((6, 8), bool)
    box[1:4, 1:5] = True
    np.testing.assert_array_equal(found.masks, np.stack([box, LEFT > 0]))


def test_a_folder_of_roboflow_is_one_of_coco(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        outlined(tmp_path, split, RUNS).rename(tmp_path / split / "_annotations.coco.json")
    assert open_dataset(f"boxes:{tmp_path}", DatasetOptions()).card.lengths == {"train": 1, "val": 1}


def test_classes_and_outlines_are_part_of_the_fingerprint(tmp_path: Path) -> None:
    table = outlined(tmp_path, "train", RUNS)

    def mark() -> str:
        return open_dataset(f"boxes:{tmp_path}", DatasetOptions()).split("train").fingerprint

    before, good = mark(), table.read_text()
    for old, new in (
        ('"category_id": 7', '"category_id": 30'),
        ("[0, 12, 36]", "[0, 13, 35]"),
        ('d": 1}]', 'd": 0}]'),
    ):
        table.write_text(good.replace(old, new))
        assert table.read_text() != good
        assert mark() != before


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"size": [8, 6], "counts": [0, 12, 36]}, "rows and columns"),
        ({"size": [6, 8], "counts": [0, 12, 30]}, "do not fill"),
        ({"size": [6, 8], "counts": [0, 60, -12]}, "do not fill"),
        ({"size": [6, 8], "counts": "03"}, "do not fill"),
        ({"size": [6, 8], "counts": "zzzz"}, "Invalid RLE"),
        ({"size": [6, 8], "counts": "\u00ff"}, "none of COCO's"),
        ({"size": [6, 8]}, "counts"),
        ([[1, 1, 5, 1]], "too few points"),
        ([[1, 1, 5, 1, 5, 1e9]], "far outside"),
        ([[1, 1, 5, 1, 5, "x"]], "none of COCO's"),
        (7, "none of COCO's"),
    ],
    ids=str,
)
def test_outlines_that_do_not_fit_are_refused(tmp_path: Path, second: Any, message: str) -> None:
    outlined(tmp_path, "train", second)
    split = open_dataset(f"boxes:{tmp_path}", DatasetOptions()).split("train")
    assert split.target is not None
    with pytest.raises(DataError, match=message):
        split.target(0)


def test_folders_of_coco_that_are_not_whole_are_refused(tmp_path: Path) -> None:
    outlined(tmp_path, "train", RUNS)
    table = outlined(tmp_path, "val", RUNS, categories=[{"id": 30, "name": "ant"}, {"id": 7, "name": "cow"}])
    where = f"boxes:{tmp_path}"
    with pytest.raises(DataError, match="train and val have different categories"):
        open_dataset(where, DatasetOptions())
    table.write_text(table.read_text().replace("cow", "ant"))
    with pytest.raises(DataError, match="two categories have one name"):
        open_dataset(where, DatasetOptions())
    table.rename(tmp_path / "annotations" / "instances_train2017.json")
    (tmp_path / "train2017").mkdir()
    with pytest.raises(DataError, match="are one split"):
        open_dataset(where, DatasetOptions())
    (tmp_path / "annotations" / "instances_train2017.json").rename(table)
    (tmp_path / "val").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="no folder val or images/val"):
        open_dataset(where, DatasetOptions())


def test_a_box_beyond_its_image_is_refused(tmp_path: Path) -> None:
    base = voc(tmp_path)
    Image.new("RGB", (30, 40)).save(base / "JPEGImages" / "000002.jpg")  # turned since
    split = open_dataset(f"boxes:{base}", DatasetOptions()).split("trainval")
    assert split.target is not None
    with pytest.raises(DataError, match="leaves the image of 30x40"):
        split.target(0)


def test_what_is_no_annotation_is_refused(tmp_path: Path) -> None:
    base = voc(tmp_path)
    path = base / "Annotations" / "000001.xml"
    good = path.read_text()
    for content, message in (
        ("<!DOCTYPE x []>" + good, "declarations"),
        (good[:-20], "no annotation of VOC"),
        (good.replace("<xmax>30", "<xmax>thirty"), "no annotation of VOC"),
        (good.replace("<xmax>30", "<xmax>nan"), "ends before it begins"),
        (good.replace("<xmin>1<", "<xmin>39<"), "ends before it begins"),
        (" " * (1 << 20) + good, "too long"),
        (good.replace("<name>dog</name>", ""), "an object without a name"),
        (good.replace("<name>dog<", "<name> <"), "an object without a name"),
    ):
        path.write_text(content)
        with pytest.raises(DataError, match=message):
            open_dataset(f"boxes:{base}", DatasetOptions()).split("test")
    path.unlink()
    with pytest.raises(DataError, match="every image needs an annotation"):
        open_dataset(f"boxes:{base}", DatasetOptions()).split("test")
    (base / "JPEGImages" / "000001.jpg").unlink()
    with pytest.raises(DataError, match="no image 000001"):
        open_dataset(f"boxes:{base}", DatasetOptions())
    with pytest.raises(ConfigError, match="write boxes:FOLDER"):
        open_dataset(f"boxes:{tmp_path / 'nowhere'}", DatasetOptions())
    with pytest.raises(DataError, match="no annotations of COCO"):
        open_dataset(coco(tmp_path, annotations=[{"image_id": 7, "bbox": [1, 2]}]), DatasetOptions())
    with pytest.raises(DataError, match="image 3, which is not listed"):
        open_dataset(coco(tmp_path, annotations=[{"image_id": 3, "bbox": [1, 2, 3, 4]}]), DatasetOptions())
    twice = [{"id": 7, "file_name": "b.png"}, {"id": 7, "file_name": "a.png"}]
    for images, message in (
        (twice, "two images have one id or one file_name"),
        ([{"id": 9, "file_name": "a.png"}, {"id": 7, "file_name": "./a.png"}], "one id or one file_name"),
        ([{"id": 7, "file_name": "../a.png"}], r"\.\./a.png leads out of the folder"),
        ([{"id": 7, "file_name": str(tmp_path / "a.png")}], "leads out of the folder"),
    ):
        with pytest.raises(DataError, match=message):
            open_dataset(coco(tmp_path, images=images, annotations=[]), DatasetOptions())


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_entities_are_refused_in_every_encoding(tmp_path: Path, encoding: str) -> None:
    name = OBJECT.format("&b;", 1, 1, 3, 3, 0)
    entities = '<!DOCTYPE a [<!ENTITY a "dog"><!ENTITY b "&a;&a;">]>'
    text = f'<?xml version="1.0" encoding="utf-16"?>{entities}<annotation>{name}</annotation>'
    path = tmp_path / "a.xml"
    path.write_bytes(text.encode(encoding))
    with pytest.raises(DataError, match="declarations, or not in UTF-8"):
        objects.read_voc(path)


def test_of_a_long_annotation_little_is_read(tmp_path: Path) -> None:
    with (tmp_path / "a.xml").open("wb") as file:
        file.truncate(1 << 24)
    tracemalloc.start()
    with pytest.raises(DataError, match="too long"):
        objects.read_voc(tmp_path / "a.xml")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 22


def test_an_object_of_no_class_of_the_set_is_refused(tmp_path: Path) -> None:
    base = voc(tmp_path)
    read = [objects.read_voc(base / "Annotations" / "000002.xml")]
    with pytest.raises(DataError, match=r"000002.jpg: an object of class 'cat'; the set has no such"):
        objects.object_split(base / "JPEGImages", ["000002.jpg"], read, ["dog"], full_hash=False)


def test_masks_are_bounded_before_they_are_there() -> None:
    with pytest.raises(DataError, match=r"masks of 9,000,000 objects in 2000x1000 exceed"):
        objects._masks([None] * 9_000_000, (1000, 2000), "x.jpg")
