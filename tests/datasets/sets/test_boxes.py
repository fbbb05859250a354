import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import VOCDetection

from ssleval.core import DatasetOptions
from ssleval.datasets.catalog import open_dataset
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
        assert (found + np.array([1, 1, 0, 0])).tolist() == expected
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


def test_coco_is_read_without_crowds_and_rounded(tmp_path: Path) -> None:
    split = open_dataset(coco(tmp_path), DatasetOptions()).split("all")
    assert list(split.ids) == ["b.png", "a.png"]
    assert split.target is not None
    assert split.target(0).tolist() == [[5, 5, 5, 7]]
    assert split.target(1).tolist() == [[1, 2, 5, 7]]
    assert split.target(1).dtype == np.float64


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
