"""A miniature of the official archive of every published set: its names, odd files and lists, tiny images.

An image is one grey level, which tells it from all others of its split. A builder writes the archive below a
folder and returns, for every split, the level and the target of each item in the order they must come in.
"""

import json
import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision.datasets as library
from PIL import Image
from scipy.io import savemat

from ssleval.datasets.prompts import imagenet_names

Expected = dict[str, list[tuple[int, Any]]]
A, B, C = "n01440764", "n01443537", "n15075141"
SIDE = (6, 5)


class Archive:
    """Writes files below one folder."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root, self.patch = root, patch

    def place(self, path: str) -> Path:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        return self.root / path

    def image(self, path: str, level: int = 0, size: tuple[int, int] = SIDE) -> None:
        Image.new("RGB", size, (level, level, level)).save(self.place(path))

    def mask(self, path: str, value: int, mode: str = "L", size: tuple[int, int] = SIDE) -> None:
        picture = Image.new("L", size, value)
        if mode == "P":
            picture.putpalette([channel for one in range(256) for channel in (one, 0, 255 - one)])
        picture.save(self.place(path))

    def depth(self, path: str, stored: int, size: tuple[int, int] = SIDE) -> None:
        Image.fromarray(np.full(size[::-1], stored, np.uint16)).save(self.place(path))

    def text(self, path: str, *lines: str) -> None:
        self.place(path).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def json(self, path: str, content: Any) -> None:
        self.place(path).write_text(json.dumps(content), encoding="utf-8")

    def mat(self, path: str, **content: Any) -> None:
        savemat(str(self.place(path)), content)


def ade20k(to: Archive) -> Expected:
    base = "ADEChallengeData2016"
    to.text(f"{base}/objectInfo150.txt", "Idx\tRatio\tTrain\tVal\tName", *(
        f"{row}\t0.1\t1\t1\t{name}" for row, name in enumerate(("wall", "building, edifice", "sky"), 1)
    ))  # fmt: skip
    to.text(f"{base}/sceneCategories.txt", "ADE_train_00000001 airport_terminal")
    for split, short in (("training", "train"), ("validation", "val")):
        for number in (1, 2):
            to.image(f"{base}/images/{split}/ADE_{short}_{number:08d}.jpg", 10 * number)
            to.mask(f"{base}/annotations/{split}/ADE_{short}_{number:08d}.png", number)
    return {split: [(10, 0), (20, 1)] for split in ("training", "validation")}


def aircraft(to: Archive) -> Expected:
    base = "fgvc-aircraft-2013b/data"
    to.text(f"{base}/variants.txt", "707-320", "A300B4", "F/A-18")
    to.text(f"{base}/families.txt", "Boeing 707", "A300", "F/A-18")
    images = {"train": "0034309", "val": "1025794", "test": "2001511"}
    for level, (split, image) in enumerate(images.items()):
        to.text(f"{base}/images_variant_{split}.txt", f"{image} {('707-320', 'F/A-18', 'A300B4')[level]}")
        to.image(f"{base}/images/{image}.jpg", level * 10)
    to.text(f"{base}/images_variant_trainval.txt", "1025794 F/A-18", "0034309 707-320")
    return {"train": [(0, 0)], "val": [(10, 2)], "trainval": [(10, 2), (0, 0)], "test": [(20, 1)]}


def amstertime(to: Archive) -> Expected:
    for number in (1, 2):
        to.image(f"old/{number}.jpg", number * 10)
        to.image(f"new/{number}.jpg", number * 10 + 100)
    old, new = [(10, [2]), (20, [3])], [(110, [0]), (120, [1])]
    return {"images": old + new, "old": old, "new": new}


def caltech101(to: Archive) -> Expected:
    base = "101_ObjectCategories"
    to.patch.setattr("ssleval.datasets.sets.caltech101.TRAIN_PER_CLASS", 2)
    for label, name in enumerate(("BACKGROUND_Google", "Faces", "Faces_easy", "yin_yang")):
        for number in (1, 2, 3):
            to.image(f"{base}/{name}/image_{number:04d}.jpg", label * 10)
    to.place(f"{base}/BACKGROUND_Google/tmp").write_bytes(b"")
    to.mat("Annotations/Faces_2/annotation_0001.mat", box_coord=np.zeros((1, 4)))
    return {
        "train": [(10 * label, label) for label in range(4) for _ in range(2)],
        "test": [(10 * label, label) for label in range(4)],
    }


def camvid(to: Archive) -> Expected:
    frames = {"train": "0001TP_006690", "val": "0016E5_07959", "test": "Seq05VD_f00000"}
    for level, (split, frame) in enumerate(frames.items(), 1):
        to.image(f"{split}/{frame}.png", level * 10)
        to.mask(f"{split}annot/{frame}.png", level)
        line = f"/SegNet/CamVid/{split}/{frame}.png /SegNet/CamVid/{split}annot/{frame}.png"
        to.text(f"{split}.txt", line)
    return {split: [(level * 10, level)] for level, split in enumerate(frames, 1)}


def cars(to: Archive) -> Expected:
    """A mirror that nests its folders, with the development kit in a folder of its own."""
    kinds: Any = [("fname", object), ("class", object)]
    places = {
        "train": ("stanford_cars/car_devkit/devkit/cars_train_annos", [("00001.jpg", 2), ("00002.jpg", 1)]),
        "test": ("stanford_cars/cars_test_annos_withlabels", [("00002.jpg", 2), ("00001.jpg", 2)]),
    }
    for split, (place, rows) in places.items():
        to.mat(f"{place}.mat", annotations=np.array(rows, dtype=kinds))
        for number in (1, 2):
            to.image(f"stanford_cars/cars_{split}/cars_{split}/0000{number}.jpg", 10 * number)
    names = np.array(["AM General Hummer SUV 2000", "Acura RL Sedan 2012"], dtype=object)
    to.mat("stanford_cars/car_devkit/devkit/cars_meta.mat", class_names=names)
    return {"train": [(10, 1), (20, 0)], "test": [(20, 1), (10, 1)]}


def _cifar(
    to: Archive, kind: str, files: Mapping[str, list[int]], meta: str, names: str, labels: str
) -> None:
    base, known = Path(library.__dict__[kind].base_folder), library.__dict__[kind]
    for file, targets in files.items():
        pixels = np.concatenate([np.full((1, 3072), target * 10, np.uint8) for target in targets])
        batch = {"data": pixels, labels: targets, "coarse_labels": targets, "batch_label": file}
        to.place(f"{base}/{file}").write_bytes(pickle.dumps(batch, protocol=2))
    to.place(f"{base}/{meta}").write_bytes(pickle.dumps({names: ["ant", "bee", "cow"]}, protocol=2))
    to.text(f"{base}/readme.html", "")
    lists = list(files)
    to.patch.setattr(known, "train_list", [[file, None] for file in lists[:-1]])
    to.patch.setattr(known, "test_list", [[lists[-1], None]])
    to.patch.setattr(known, "meta", {"filename": meta, "key": names, "md5": None})


def cifar10(to: Archive) -> Expected:
    files = {"data_batch_1": [2, 1], "data_batch_2": [0, 2], "test_batch": [1, 0]}
    _cifar(to, "CIFAR10", files, "batches.meta", "label_names", "labels")
    return {"train": [(20, 2), (10, 1), (0, 0), (20, 2)], "test": [(10, 1), (0, 0)]}


def cifar100(to: Archive) -> Expected:
    _cifar(to, "CIFAR100", {"train": [2, 0], "test": [1]}, "meta", "fine_label_names", "fine_labels")
    return {"train": [(20, 2), (0, 0)], "test": [(10, 1)]}


def cityscapes(to: Archive) -> Expected:
    for split, city, value in (("train", "aachen", 7), ("val", "frankfurt", 33)):
        frame = f"{split}/{city}/{city}_000000_000019"
        to.image(f"leftImg8bit/{frame}_leftImg8bit.png", value * 2)
        to.mask(f"gtFine/{frame}_gtFine_labelIds.png", value)
        to.mask(f"gtFine/{frame}_gtFine_instanceIds.png", 1)
        to.image(f"gtFine/{frame}_gtFine_color.png")
        to.json(f"gtFine/{frame}_gtFine_polygons.json", {})
    to.text("README", "")
    return {"train": [(10, 0)], "val": [(70, 18)]}


def copydays(to: Archive) -> Expected:
    """The archives of the originals and of strong hold no folder."""
    for level, name in enumerate(("200000", "200100")):
        to.image(f"{name}.jpg", level * 10)
        to.image(f"crops/10/{name}.jpg", level * 10 + 50)
        to.image(f"jpegqual/3/{name}.jpg", level * 10 + 100)
    to.image("200101.jpg", 200)
    to.image("200102.jpg", 210)
    to.text("README.txt", "")
    both = {"crops/10": [(50, [0]), (60, [1])], "jpegqual/3": [(100, [0]), (110, [1])]}
    queries = {"original": [(0, [0]), (10, [1])], "strong": [(200, [1]), (210, [1])]}
    return {**queries, **both, "database": [(0, None), (10, None)]}


def cub200(to: Archive) -> Expected:
    base, birds = "CUB_200_2011", ("001.Black_footed_Albatross", "002.Laysan_Albatross")
    images = [f"{birds[1]}/Laysan_Albatross_0002_1027.jpg", f"{birds[0]}/Black_Footed_0046_18.jpg"]
    for row, image in enumerate(images, 1):
        to.image(f"{base}/images/{image}", row * 10)
    to.text(f"{base}/images.txt", *(f"{row} {image}" for row, image in enumerate(images, 1)))
    to.text(f"{base}/image_class_labels.txt", "1 2", "2 1")
    to.text(f"{base}/train_test_split.txt", "1 1", "2 0")
    to.text(f"{base}/classes.txt", *(f"{row} {bird}" for row, bird in enumerate(birds, 1)))
    to.text("attributes.txt", "1 has_bill_shape::curved")
    return {"train": [(10, 1)], "test": [(20, 0)]}


def dtd(to: Archive) -> Expected:
    """Unpacked by hand: one folder dtd/, and not torchvision's two."""
    lists = {"train": (10, 20), "val": (30, 40), "test": (50, 60)}
    for split, levels in lists.items():
        names = [
            f"{name}/{name}_00{level}.jpg"
            for name, level in zip(("zigzagged", "banded"), levels, strict=True)
        ]
        to.text(f"dtd/labels/{split}1.txt", *names)
        to.text(f"dtd/labels/{split}2.txt", *reversed(names))
        for name, level in zip(names, levels, strict=True):
            to.image(f"dtd/images/{name}", level)
    to.text("dtd/labels/labels_joint_anno.txt", "banded/banded_0020.jpg banded")
    found: Expected = {split: [(first, 1), (second, 0)] for split, (first, second) in lists.items()}
    return {**found, "trainval": found["train"] + found["val"]}


def ecssd(to: Archive) -> Expected:
    for number in (1, 2):
        to.image(f"images/000{number}.jpg", number * 10)
        to.mask(f"ground_truth_mask/000{number}.png", 255 * (number - 1))
    return {"test": [(10, 0), (20, 1)]}


def flowers102(to: Archive) -> Expected:
    """Unpacked by hand: jpg/ and the two tables loose in the folder of the set."""
    to.mat("imagelabels.mat", labels=np.array([102, 1, 2, 3, 4, 5]))
    to.mat("setid.mat", trnid=np.array([2, 1]), valid=np.array([3, 4]), tstid=np.array([6, 5]))
    for number in range(1, 7):
        to.image(f"jpg/image_{number:05d}.jpg", number * 10)
    files = {name: (file, None) for name, file in (("label", "imagelabels.mat"), ("setid", "setid.mat"))}
    to.patch.setattr(library.Flowers102, "_file_dict", files)
    train, val = [(20, 0), (10, 101)], [(30, 1), (40, 2)]
    return {"train": train, "val": val, "test": [(60, 4), (50, 3)], "trainval": train + val}


def food101(to: Archive) -> Expected:
    listed = {"train": {"waffles": ["waffles/2", "waffles/1"], "apple_pie": ["apple_pie/5"]},
              "test": {"apple_pie": ["apple_pie/3"], "waffles": ["waffles/4"]}}  # fmt: skip
    for split, classes in listed.items():
        to.json(f"food-101/meta/{split}.json", classes)
        to.text(f"food-101/meta/{split}.txt", *(image for images in classes.values() for image in images))
        for image in (image for images in classes.values() for image in images):
            to.image(f"food-101/images/{image}.jpg", int(image[-1]) * 20)
    to.text("food-101/meta/classes.txt", "apple_pie", "waffles")
    to.text("food-101/license_agreement.txt", "")
    return {"train": [(40, 1), (20, 1), (100, 0)], "test": [(60, 0), (80, 1)]}


def imagenet1k(to: Archive) -> Expected:
    """The archives as they are: training folders, loose validation images and the development kit."""
    for level, wnid in enumerate((A, B)):
        to.image(f"train/{wnid}/{wnid}_18.JPEG", level * 10)
    to.image("val/ILSVRC2012_val_00000001.JPEG", 50)
    to.image("val/ILSVRC2012_val_00000002.JPEG", 60)
    to.image("val/ILSVRC2012_val_00000003.JPEG", 70)
    kit = "ILSVRC2012_devkit_t12/data"
    kinds: Any = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object), ("num_children", object)]
    synsets = [(1, B, "goldfish", 0), (2, A, "tench", 0), (3, "n00001740", "entity", 2)]
    to.mat(f"{kit}/meta.mat", synsets=np.array(synsets, dtype=kinds))
    to.text(f"{kit}/ILSVRC2012_validation_ground_truth.txt", "1", "2", "1")
    # Classes are in the order of WordNet ids, whatever their numbers; images class by class.
    return {"train": [(0, 0), (10, 1)], "val": [(60, 0), (50, 1), (70, 1)]}


def imagenet_real(to: Archive) -> Expected:
    """The images of Kaggle's archive beside it, whose classes are in a list."""
    to.json("real.json", [[1], [], [0, 1]])
    val = "../imagenet1k/ILSVRC/Data/CLS-LOC/val"
    for number in (1, 2, 3):
        to.image(f"{val}/ILSVRC2012_val_{number:08d}.JPEG", number * 10)
    rows = [f"ILSVRC2012_val_{number:08d},{wnid} 85 1 499 272" for number, wnid in ((3, A), (1, B), (2, A))]
    to.text("../imagenet1k/LOC_val_solution.csv", "ImageId,PredictionString", *rows)
    return {"test": [(10, [False, True]), (30, [True, True])]}


def _wordnet(to: Archive, folder: str, ending: str) -> Expected:
    for level, wnid in enumerate((C, A)):
        to.image(f"{folder}/{wnid}/{level}{ending}", level * 10)
    to.text(f"{folder}/README.txt", "")
    return {"test": [(10, 0), (0, 1)]}


def imagenet_v2(to: Archive) -> Expected:
    base = "imagenetv2-matched-frequency-format-val"
    names = "58fbc3e7 64f661b9 66123ec1 7e4a8987 8e1374a4 bcf8a532 c0c1167c cc19eded d337d803 efae46d9"
    for name in names.split():
        to.image(f"{base}/0/{name}{'0' * 32}.jpeg")
    to.image(f"{base}/10/{'a' * 40}.jpeg", 100)
    to.image(f"{base}/2/{'b' * 40}.jpeg", 20)
    return {"test": [(0, 0)] * 10 + [(20, 1), (100, 2)]}


def imagenet_c(to: Archive) -> Expected:
    """One of the five archives."""
    for level, (name, severity) in enumerate((("defocus_blur", 1), ("zoom_blur", 5))):
        for label, wnid in enumerate((A, B)):
            image = f"ILSVRC2012_val_0000000{label}.JPEG"
            to.image(f"blur/{name}/{severity}/{wnid}/{image}", level * 100 + label * 10)
    return {"defocus_blur-1": [(0, 0), (10, 1)], "zoom_blur-5": [(100, 0), (110, 1)]}


IDS = tuple(imagenet_names())
OUTPUTS = {number: (7 * number + 3) % 1000 for number in range(1000)}
"""Of a head in the order of WordNet ids, by the number that ObjectNet's files give a class."""


def label(place: int) -> str:
    """Return a label of a class of ImageNet as ObjectNet's files have them: synonyms, none of them twice."""
    return f"{imagenet_names()[IDS[place]]}, {IDS[place]}"


def objectnet(to: Archive, base: str = "objectnet-1.0") -> Expected:
    """Three of its folders, one without a counterpart, and one with two."""
    labels = {"alarm_clock": "Alarm clock", "air_freshener": "Air freshener", "mug": "Mug / cup"}
    to.json(f"{base}/mappings/folder_to_objectnet_label.json", labels)
    mapped = {"Mug / cup": f"{label(504)}; {label(968)}", "Alarm clock": label(409)}
    to.json(f"{base}/mappings/objectnet_to_imagenet_1k.json", mapped)
    places = {str(output): number for number, output in OUTPUTS.items()}
    to.json(f"{base}/mappings/pytorch_to_imagenet_2012_id.json", places)
    to.text(f"{base}/mappings/imagenet_to_label_2012_v2", *(label(OUTPUTS[number]) for number in range(1000)))
    for level, folder in enumerate(labels):
        inside = Image.new("RGB", SIDE, (level * 10,) * 3)
        image = Image.new("RGB", (SIDE[0] + 4, SIDE[1] + 4), (255, 0, 0))
        image.paste(inside, (2, 2))
        image.save(to.place(f"{base}/images/{folder}/{level:02d}a.png"))
    return {"test": [(0, 0), (20, 1)]}


MEMBERS = [*[0] * 116, *[1] * 52, *[2] * 42, *[3] * 36, *[4] * 35, *[5] * 27, *[6] * 26, *[7] * 20, *[8] * 16]
"""How many classes of ImageNet are of which of ImageNet-9."""


def imagenet9(to: Archive) -> Expected:
    """Numbers of its mapping come in no order, and the others of ImageNet's are of none."""
    of = dict(zip(range(999, -1, -1), [*MEMBERS, *[-1] * 630], strict=True))
    to.json("in_to_in9.json", {str(number): of[number] for number in (*range(500, 1000), *range(500))})
    names = [
        "dog",
        "bird",
        "wheeled+vehicle",
        "reptile",
        "carnivore",
        "insect",
        "musical+instrument",
        "primate",
        "fish",
    ]
    splits = [
        "original",
        "mixed_same",
        "mixed_rand",
        "mixed_next",
        "only_fg",
        "no_fg",
        "only_bg_b",
        "only_bg_t",
    ]
    found = Expected()
    for level, split in enumerate(splits):
        found[split] = [(level * 10 + number * 20, number) for number in range(9)]
        for number, name in enumerate(names):
            folder = f"bg_challenge/{split}/val/{number:02d}_{name.replace('+', ' ')}"
            to.image(f"{folder}/fg_{number}.JPEG", found[split][number][0])
    to.place("bg_challenge/fg_mask/val/00_dog/fg_0.npy").write_bytes(b"")
    return found


DOLLAR_COLUMNS = (
    "", "id", "country.name", "country.id", "region.id", "imageRelPath", "topics", "place", "income",
    "imagenet_synonyms", "imagenet_sysnet_id",
)  # fmt: skip


def dollar_street(to: Archive, base: str = "dataset_dollarstreet") -> Expected:
    """Four households; lists are written as Python writes them."""
    rows = [
        ("5d4be1", "Burundi", "bi", "af", "['beds']", 26.99, "[520, 831]"),
        ("5d4be2", "Brazil", "br", "am", "['toilets']", 685.0, "[861]"),
        ("5d4be3", "China", "cn", "as", "['soap']", 1808, "[804]"),
        ("5d4be4", "Italy", "it", "eu", "['sofas']", 1809.0, "[831]"),
    ]
    lines, expected = [",".join(DOLLAR_COLUMNS)], list[tuple[int, Any]]()
    for level, (one, country, code, region, topics, income, numbers) in enumerate(rows):
        path = f"assets/{one}/{one}.jpg"
        to.image(f"{base}/{path}", level * 10)
        lines.append(
            f'{level},{one},{country},{code},{region},{path},{topics},a,{income},"[\'x\']","{numbers}"'
        )
        expected.append((level * 10, [place in json.loads(numbers) for place in range(1000)]))
    to.text(f"{base}/images_v2_imagenet_test.csv", *lines)
    return {"test": expected}


def _inaturalist(to: Archive, folder: str, suffix: str) -> Expected:
    categories = [{"id": 1, "name": "Apis mellifera"}, {"id": 0, "name": "Quercus robur"}]
    rows = {"train": [(7, f"{folder}x.jpg", 1), (3, f"{folder}a.jpg", 0)], "val": [(4, f"{folder}b.jpg", 1)]}
    for split, listed in rows.items():
        images = [{"id": one, "file_name": path, "license": 0} for one, path, _ in listed]
        notes = [{"id": one, "image_id": one, "category_id": label} for one, _, label in reversed(listed)]
        to.json(f"{split}{suffix}.json", {"images": images, "annotations": notes, "categories": categories})
        for one, path, _ in listed:
            to.image(path, one * 10)
    return {"train": [(70, 1), (30, 0)], "val": [(40, 1)]}


def inat2018(to: Archive) -> Expected:
    return _inaturalist(to, "train_val2018/Actinopterygii/2229/", "2018")


def inat2021(to: Archive) -> Expected:
    return _inaturalist(to, "train/00000_Animalia_Annelida/", "")


def kitti(to: Archive) -> Expected:
    """BTS's lists, the raw data and the archive of the depth, which has train/ and val/."""
    size, found = (1242, 375), Expected()
    for split, part, drive, level in (("train", "val", "0057", 10), ("test", "train", "0002", 20)):
        image = f"2011_09_26/2011_09_26_drive_{drive}_sync/image_02/data/0000000069.png"
        depth = f"2011_09_26_drive_{drive}_sync/proj_depth/groundtruth/image_02/0000000069.png"
        to.image(f"raw/{image}", level, size)
        to.depth(f"data_depth_annotated/{part}/{depth}", 256 * level, size)
        to.text(f"eigen_{split}_files_with_gt.txt", f"{image} {depth} 721.5377", f"{image} None 721.5377")
        found[split] = [(level, float(level))]
    return found


def _met(to: Archive, listed: str) -> Expected:
    database = [{"id": 7, "path": "MET/7/0.jpg"}, {"id": 3, "path": "MET/3/1.jpg"}]
    test = [
        {"path": "test_met/a.jpg", "MET_id": 3},
        {"path": "test_other/b.jpg"},
        {"path": "test_noart/c.jpg"},
    ]
    for name, rows in ((listed, database), ("testset", test), ("valset", test[:1])):
        to.json(f"ground_truth/{name}.json", rows)
    for level, row in enumerate((*database, *test)):
        to.image(f"images/{row['path']}", level * 10)
    return {"database": [(0, 7), (10, 3)], "val": [(20, 3)], "test": [(20, 3), (30, -1), (40, -1)]}


def nyuv2(to: Archive) -> Expected:
    """BTS's lists: training paths begin with a slash, in sync/; test paths in official_splits/test/."""
    folders = {"train": ("sync", "/kitchen_0028b"), "test": ("official_splits/test", "bathroom")}
    for level, (split, (top, scene)) in enumerate(folders.items(), 1):
        image, depth = (f"{scene}/{name}" for name in ("rgb_00045.jpg", "sync_depth_00045.png"))
        to.image(f"{top}/{image.strip('/')}", level * 10, (640, 480))
        to.depth(f"{top}/{depth.strip('/')}", level * 1000, (640, 480))
        to.text(f"nyudepthv2_{split}_files_with_gt.txt", f"{image} {depth} 518.8579")
    return {"train": [(10, 1.0)], "test": [(20, 2.0)]}


def pets(to: Archive) -> Expected:
    """The two archives unpacked side by side."""
    for level, image in enumerate(("great_pyrenees_1", "Abyssinian_7", "great_pyrenees_2")):
        to.image(f"images/{image}.jpg", level * 10)
        to.mask(f"annotations/trimaps/{image}.png", 1)
    to.mat("images/Abyssinian_100.mat", box=np.zeros(1))
    to.text("annotations/list.txt", "#Image CLASS-ID SPECIES BREED ID", "Abyssinian_7 1 1 1")
    to.text("annotations/trainval.txt", "great_pyrenees_1 2 2 1", "Abyssinian_7 1 1 1")
    to.text("annotations/test.txt", "great_pyrenees_2 2 2 1")
    return {"trainval": [(0, 1), (10, 0)], "test": [(20, 1)]}


def places205(to: Archive) -> Expected:
    images = "data/vision/torralba/deeplearning/images256"
    rows = {
        "train": [("b/bar/g1.jpg", 1), ("a/abbey/g2.jpg", 0)],
        "val": [("a/abbey/g3.jpg", 0), ("b/bar/g4.jpg", 1)],
    }
    for split, listed in rows.items():
        to.text(
            f"trainvalsplit_places205/{split}_places205.csv", *(f"{path} {label}" for path, label in listed)
        )
        for path, _ in listed:
            to.image(f"{images}/{path}", int(path[-5]) * 10)
    return {"train": [(10, 1), (20, 0)], "val": [(30, 0), (40, 1)]}


def _revisited(to: Archive, name: str, images: Sequence[str]) -> Expected:
    listed = [Path(image).stem for image in images]
    gnd = [{"bbx": [0.0, 0.0, 6.0, 5.0], "easy": [1], "hard": [0], "junk": []}]
    content = {"imlist": listed[:2], "qimlist": listed[2:], "gnd": gnd}
    to.place(f"gnd_{name}.pkl").write_bytes(pickle.dumps(content, protocol=2))
    for level, image in enumerate(images):
        to.image(f"{image}.jpg", level * 10)
    return {"queries": [(20, [1])], "boxes": [(20, [1])], "gallery": [(0, None), (10, None)]}


def roxford5k(to: Archive) -> Expected:
    """An archive without a folder."""
    return _revisited(to, "roxford5k", ["magdalen_000058", "oxford_000317", "all_souls_000013"])


def rparis6k(to: Archive) -> Expected:
    """Two archives with a folder for every building."""
    images = ["defense/paris_defense_000605", "eiffel/paris_eiffel_000128", "general/paris_general_001017"]
    to.image("paris/louvre/paris_louvre_000136.jpg")  # Not in the annotation: a damaged file.
    return _revisited(to, "rparis6k", [f"paris/{image}" for image in images])


def spair71k(to: Archive) -> Expected:
    points = {"src_kps": [[1, 2], [3, 0]], "trg_kps": [[2, 2], [4, 1]], "trg_bndbox": [1, 0, 5, 3]}
    found = Expected()
    for level, split in enumerate(("trn", "val", "test")):
        first, second = f"2008_00000{level}.jpg", f"2010_00000{level}.jpg"
        said = {"category": "cat", "src_imname": first, "trg_imname": second, "mirror": 0, **points}
        to.json(f"SPair-71k/PairAnnotation/{split}/00000{level}-{first[:-4]}-{second[:-4]}:cat.json", said)
        to.text(f"SPair-71k/Layout/large/{split}.txt", f"00000{level}-{first[:-4]}-{second[:-4]}:cat")
        to.image(f"SPair-71k/JPEGImages/cat/{first}", level * 10)
        to.image(f"SPair-71k/JPEGImages/cat/{second}", level * 10 + 100)
        found[split] = [(level * 10, 7)]
    return found


def sun397(to: Archive) -> Expected:
    """SUN397/ with its own list of classes; Partitions.zip holds no folder."""
    images = ["/a/abbey/sun_a.jpg", "/b/barn/outdoor/sun_b.jpg", "/a/abbey/sun_c.jpg"]
    for level, image in enumerate(images):
        to.image(f"SUN397{image}", level * 10)
    to.text("SUN397/README.txt", "")
    for place in ("SUN397/ClassName.txt", "ClassName.txt"):
        to.text(place, "/a/abbey", "/b/barn/outdoor")
    to.text("Training_01.txt", images[1], images[0])
    to.text("Testing_01.txt", images[2])
    to.text("Training_02.txt", images[2])
    return {"train": [(10, 1), (0, 0)], "test": [(20, 0)]}


def tiny_imagenet(to: Archive) -> Expected:
    base = "tiny-imagenet-200"
    to.text(f"{base}/wnids.txt", B, A)
    to.text(f"{base}/words.txt", f"{A}\ttench, Tinca tinca")
    for level, wnid in enumerate((B, A)):
        to.image(f"{base}/train/{wnid}/images/{wnid}_0.JPEG", level * 10)
        to.text(f"{base}/train/{wnid}/{wnid}_boxes.txt", f"{wnid}_0.JPEG\t0\t10\t63\t58")
        to.image(f"{base}/val/images/val_{level}.JPEG", 50 + level * 10)
    to.image(f"{base}/test/images/test_0.JPEG", 0)
    to.text(
        f"{base}/val/val_annotations.txt", f"val_1.JPEG\t{A}\t0\t32\t44\t62", f"val_0.JPEG\t{B}\t1\t2\t3\t4"
    )
    return {"train": [(10, 0), (0, 1)], "val": [(60, 0), (50, 1)]}


def voc2007(to: Archive) -> Expected:
    base, found = "VOCdevkit/VOC2007", Expected()
    names = [
        "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
        "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
    ]  # fmt: skip
    images = {"train": ["000012"], "val": ["000005"], "trainval": ["000005", "000012"], "test": ["000001"]}
    stated = {
        ("car", "000012"): " 1",
        ("chair", "000005"): " 1",
        ("bottle", "000005"): " 0",
        ("dog", "000001"): " 1",
    }
    label_of = {" 1": 1, " 0": -1, "-1": 0}
    for split, listed in images.items():
        to.text(f"{base}/ImageSets/Main/{split}.txt", *listed)
        found[split] = []
        for image in listed:
            states = [stated.get((name, image), "-1") for name in names]
            found[split].append((int(image) * 10, [label_of[state] for state in states]))
            to.image(f"{base}/JPEGImages/{image}.jpg", int(image) * 10)
            to.text(f"{base}/Annotations/{image}.xml", "<annotation/>")
        for name in names:
            rows = [f"{image} {stated.get((name, image), '-1')}" for image in listed]
            to.text(f"{base}/ImageSets/Main/{name}_{split}.txt", *rows)
    return found


def _voc2012(to: Archive) -> str:
    base = "VOCdevkit/VOC2012"
    for level, name in enumerate(("2007_000032", "2007_000033", "2008_000002"), 1):
        to.image(f"{base}/JPEGImages/{name}.jpg", level * 10)
        to.mask(f"{base}/SegmentationObject/{name}.png", 1, "P")
        to.text(f"{base}/Annotations/{name}.xml", "<annotation/>")
    to.mask(f"{base}/SegmentationClass/2007_000032.png", 1, "P")
    to.mask(f"{base}/SegmentationClass/2007_000033.png", 20, "P")
    lists = {"train": ["2007_000032"], "val": ["2007_000033"], "trainval": ["2007_000032", "2007_000033"]}
    for split, names in lists.items():
        to.text(f"{base}/ImageSets/Segmentation/{split}.txt", *names)
    return base


def voc2012(to: Archive) -> Expected:
    _voc2012(to)
    return {"train": [(10, 1)], "val": [(20, 20)]}


def voc2012_detection(to: Archive) -> Expected:
    base = _voc2012(to)
    box = "<bndbox><xmax>4</xmax><xmin>2</xmin><ymax>5</ymax><ymin>1</ymin></bndbox>"
    for level, (split, name) in enumerate({"train": "2008_000002", "val": "2007_000033"}.items()):
        # A part of the object has a box of its own.
        head = f"<part><name>head</name>{box.replace('4', '3')}</part>"
        name_of = ("tvmonitor", "aeroplane")[level]
        thing = f"<object><name>{name_of}</name>{box}<difficult>{level}</difficult>{head}</object>"
        to.text(f"{base}/Annotations/{name}.xml", f"<annotation>{thing}</annotation>")
        to.text(f"{base}/ImageSets/Main/{split}.txt", name)
        to.text(f"{base}/ImageSets/Main/aeroplane_{split}.txt", f"{name} -1")
    box_of = [1.0, 0.0, 4.0, 5.0]
    return {"train": [(30, [[box_of], [19], [False]])], "val": [(20, [[box_of], [0], [True]])]}


def voc2012_instances(to: Archive) -> Expected:
    _voc2012(to)
    whole = [0.0, 0.0, 6.0, 5.0]
    return {"train": [(10, [[whole], [0], [False]])], "val": [(20, [[whole], [19], [False]])]}


def coco2017(to: Archive) -> Expected:
    categories = [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}]
    for split, number in {"train": 9, "val": 139}.items():
        name = f"{number:012d}.jpg"
        to.image(f"{split}2017/{name}", 10)
        outline = [[1.0, 1.0, 4.0, 1.0, 4.0, 3.0, 1.0, 3.0]]
        crowd = {"counts": [0, 30], "size": [5, 6]}
        things = [
            {
                "id": 1,
                "image_id": number,
                "category_id": 90,
                "bbox": [1, 1, 3, 2],
                "segmentation": outline,
                "iscrowd": 0,
            },
            {
                "id": 2,
                "image_id": number,
                "category_id": 1,
                "bbox": [0, 0, 6, 5],
                "segmentation": crowd,
                "iscrowd": 1,
            },
        ]
        image = {"id": number, "file_name": name, "height": 5, "width": 6}
        content = {"images": [image], "annotations": things, "categories": categories}
        to.json(f"annotations/instances_{split}2017.json", content)
    found = [[[1.0, 1.0, 4.0, 3.0], [0.0, 0.0, 6.0, 5.0]], [1, 0], [False, True]]
    return {split: [(10, found)] for split in ("train", "val")}


def voc2012_aug(to: Archive) -> Expected:
    """As mmsegmentation leaves it behind."""
    base = _voc2012(to)
    to.mask(f"{base}/SegmentationClassAug/2008_000002.png", 15)
    to.text(f"{base}/ImageSets/Segmentation/aug.txt", "2008_000002")
    return {"trainaug": [(10, 1), (30, 15)], "val": [(20, 20)]}


_SAME_FORM: Mapping[str, Callable[[Archive], Expected]] = {
    "imagenet_a": lambda to: _wordnet(to, "imagenet-a", "_0.jpg"),
    "imagenet_r": lambda to: _wordnet(to, "imagenet-r", "_art.jpg"),
    "imagenet_sketch": lambda to: _wordnet(to, "sketch", ".JPEG"),
    "met": lambda to: _met(to, "MET_database"),
    "met_mini": lambda to: _met(to, "mini_MET_database"),
}
_OWN_FORM: tuple[Callable[[Archive], Expected], ...] = (
    ade20k, aircraft, amstertime, caltech101, camvid, cars, cifar10, cifar100, cityscapes, copydays, cub200,
    dtd, ecssd, flowers102, food101, imagenet1k, imagenet_c, imagenet_real, imagenet_v2, inat2018, inat2021,
    kitti, nyuv2, pets, places205, roxford5k, rparis6k, spair71k, sun397, tiny_imagenet, voc2007, voc2012,
    voc2012_aug, voc2012_detection, voc2012_instances, coco2017, objectnet, imagenet9, dollar_street,
)  # fmt: skip
ARCHIVES = {**{one.__name__: one for one in _OWN_FORM}, **_SAME_FORM}
