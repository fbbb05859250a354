"""Layouts that archives, mirrors and scripts leave behind, and copies that are not the published ones."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssleval.core import Dataset, DatasetCard, DatasetOptions
from ssleval.datasets.catalog import expected_files, list_datasets, open_dataset
from ssleval.errors import DataError
from tests.datasets.sets.archives import (
    A,
    Archive,
    copydays,
    dtd,
    imagenet_c,
    imagenet_v2,
    spair71k,
    voc2012_aug,
)

OpenReduced = Callable[..., Dataset]


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Archive]:
    return lambda name: Archive(tmp_path / name, monkeypatch)


def levels(dataset: Dataset, split: str) -> list[int]:
    found = dataset.split(split)
    return [round(np.asarray(found[row].image)[0, 0, 0] / 10) * 10 for row in range(len(found))]


@pytest.mark.parametrize(
    "name", sorted(name for name, card in list_datasets().items() if isinstance(card, DatasetCard))
)
def test_every_published_set_says_which_files_it_has_and_where_from(name: str, tmp_path: Path) -> None:
    if name == "digits":
        assert not expected_files(name)
        return
    card = list_datasets()[name]
    assert isinstance(card, DatasetCard)
    assert expected_files(name)
    assert "http" in card.source or "doi" in card.source
    assert any(size in card.source for size in (" GB", " MB", "size not stated"))
    (tmp_path / name).mkdir()
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError) as caught:
            open_dataset(name, DatasetOptions(data_root=root)).split(card.test_split)
        assert all(path in str(caught.value) for path in (*expected_files(name), card.source))
        assert "\n" not in str(caught.value)


NAMES = ["2007_000032", "2008_000002"]
PAIRS = [f"/JPEGImages/{name}.jpg /SegmentationClassAug/{name}.png" for name in NAMES]


@pytest.mark.parametrize(
    ("listed", "lines"), [("trainaug.txt", NAMES), ("trainaug.txt", PAIRS), ("train_aug.txt", PAIRS)]
)
@pytest.mark.parametrize("whole", [True, False])
def test_augmented_voc_by_names_or_pairs(
    archive: Callable[[str], Archive], open_reduced: OpenReduced, listed: str, lines: list[str], whole: bool
) -> None:
    to = archive("voc2012_aug")
    voc2012_aug(to)
    base = "VOCdevkit/VOC2012"
    to.text(f"{base}/ImageSets/Segmentation/{listed}", *lines)
    if whole:
        to.mask(f"{base}/SegmentationClassAug/2007_000032.png", 2)
    split = open_reduced("voc2012_aug", 21, {"trainaug": 2}).split("trainaug")
    # Masks of SBD first; those of the challenge where its archive alone has them.
    assert [split[row].target.max() for row in range(2)] == [2 if whole else 1, 15]


def test_a_missing_mask_of_sbd_is_not_replaced(
    archive: Callable[[str], Archive], open_reduced: OpenReduced
) -> None:
    to = archive("voc2012_aug")
    voc2012_aug(to)
    to.text("VOCdevkit/VOC2012/ImageSets/Segmentation/trainaug.txt", "2007_000032", "2007_000033")
    # The second is a validation image, whose own mask is there.
    with pytest.raises(DataError, match=r"SegmentationClassAug/2007_000033\.png"):
        open_reduced("voc2012_aug", 21, {"trainaug": 2}).split("trainaug")


V2 = {
    "threshold-0.7": "0af3f1b5 58fbc3e7 64f661b9 66123ec1 83f4031f "
    "8e1374a4 a31041fd b29121a2 bcf8a532 f65e9778",
    "top-images": "0af3f1b5 58fbc3e7 83f4031f 8e1374a4 b29121a2 bcf8a532 c0c1167c cc19eded e5cdec32 efae46d9",
}


@pytest.mark.parametrize("variant", sorted(V2))
def test_other_variants_of_imagenet_v2_are_refused_by_content(
    archive: Callable[[str], Archive], open_reduced: OpenReduced, variant: str
) -> None:
    to = archive("imagenet_v2")
    imagenet_v2(to)
    folder = to.root / "imagenetv2-matched-frequency-format-val/0"
    shutil.rmtree(folder)
    for name in V2[variant].split():
        to.image(f"{folder.relative_to(to.root)}/{name}{'0' * 32}.jpeg")
    # The folder still has the name of the right one.
    with pytest.raises(DataError, match=f"the variant {variant}; expected matched-frequency"):
        open_reduced("imagenet_v2", 3, {"test": 12})


def test_renamed_files_of_imagenet_v2_are_said(
    archive: Callable[[str], Archive], open_reduced: OpenReduced, capsys: pytest.CaptureFixture[str]
) -> None:
    to = archive("imagenet_v2")
    imagenet_v2(to)
    open_reduced("imagenet_v2", 3, {"test": 12})
    assert not capsys.readouterr().err
    for number, path in enumerate(sorted((to.root / "imagenetv2-matched-frequency-format-val/0").iterdir())):
        path.rename(path.with_name(f"{number}.jpeg"))
    assert len(open_reduced("imagenet_v2", 3, {"test": 12}).split("test")) == 12
    assert "are of no variant" in capsys.readouterr().err


def test_an_absent_corruption_names_those_that_are_there(
    archive: Callable[[str], Archive], open_reduced: OpenReduced
) -> None:
    imagenet_c(archive("imagenet_c"))
    dataset = open_reduced("imagenet_c", 2, {"defocus_blur-1": 2, "fog-3": 2})
    assert levels(dataset, "defocus_blur-1") == [0, 10]
    with pytest.raises(DataError, match="no folder fog/3; there are defocus_blur, zoom_blur"):
        dataset.split("fog-3")


def test_an_image_outside_every_list_of_imagenet_is_refused(
    archive: Callable[[str], Archive], open_reduced: OpenReduced
) -> None:
    to = archive("imagenet1k")
    to.image("val/ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(DataError, match=r"neither LOC_val_solution\.csv nor ILSVRC2012_devkit_t12/data/"):
        open_reduced("imagenet1k", 1, {"val": 1})
    to.text("LOC_val_solution.csv", "ImageId,PredictionString", f"ILSVRC2012_val_00000002,{A} 1 2 3 4")
    with pytest.raises(DataError, match=r"00000001\.JPEG: in no list of classes"):
        open_reduced("imagenet1k", 1, {"val": 1})


def test_copydays_in_folders_is_read_as_the_loose_archives(
    archive: Callable[[str], Archive], open_reduced: OpenReduced
) -> None:
    to, lengths = archive("copydays"), {"original": 2, "strong": 2, "database": 2}
    copydays(to)
    loose = open_reduced("copydays", 0, lengths)
    for path in list(to.root.glob("*.jpg")):
        path.rename(to.place(f"{'original' if path.stem.endswith('00') else 'strong'}/{path.name}"))
    folders = open_reduced("copydays", 0, lengths)
    for split in lengths:
        assert levels(loose, split) == levels(folders, split)
        if split != "database":
            answers = [
                [one.split(split)[row].target.easy.tolist() for row in range(2)] for one in (loose, folders)
            ]
            assert answers[0] == answers[1]


def test_two_images_of_one_name_are_refused(
    archive: Callable[[str], Archive], open_reduced: OpenReduced
) -> None:
    from tests.datasets.sets.archives import rparis6k

    to = archive("rparis6k")
    rparis6k(to)
    to.image("again/paris_eiffel_000128.jpg", 90)
    with pytest.raises(DataError, match="have one name; keep one of them"):
        open_reduced("rparis6k", 0, {"gallery": 2}).split("gallery")


def test_the_layout_of_torchvision_comes_first(
    archive: Callable[[str], Archive], open_reduced: OpenReduced
) -> None:
    to = archive("dtd")
    dtd(to)
    for path in list((to.root / "dtd").iterdir()):
        shutil.copytree(path, to.place(f"dtd/dtd/{path.name}"))
    split = open_reduced("dtd", 2, {"train": 2, "val": 2, "test": 2, "trainval": 4}).split("train")
    assert list(split.ids) == [
        "dtd/dtd/images/zigzagged/zigzagged_0010.jpg",
        "dtd/dtd/images/banded/banded_0020.jpg",
    ]


@pytest.mark.parametrize("content", ["null", "3", '"text"', "[1, 2]", "[[]]"])
def test_a_pair_that_is_no_table_is_one_line(
    archive: Callable[[str], Archive], open_reduced: OpenReduced, content: str
) -> None:
    to = archive("spair71k")
    spair71k(to)
    next((to.root / "SPair-71k/PairAnnotation/test").glob("*.json")).write_text(content)
    with pytest.raises(DataError, match="expected the annotation of a pair"):
        open_reduced("spair71k", 18, {"test": 1}).split("test")


@pytest.mark.parametrize(
    ("name", "path", "content"),
    [
        ("cub200", "CUB_200_2011/images.txt", "1\n2\n"),
        ("inat2021", "val.json", "[]"),
        ("inat2021", "val.json", '{"categories": [{"id": 0}]}'),
        ("voc2007", "VOCdevkit/VOC2007/ImageSets/Main/car_test.txt", "000001\n"),
        ("voc2007", "VOCdevkit/VOC2007/ImageSets/Main/car_test.txt", "000001 2\n"),
        ("kitti", "eigen_test_files_with_gt.txt", "one\n"),
        ("nyuv2", "nyudepthv2_test_files_with_gt.txt", ""),
        ("pets", "annotations/test.txt", "a b c d\n"),
        ("tiny_imagenet", "tiny-imagenet-200/val/val_annotations.txt", "val_0.JPEG\n"),
        ("imagenet_real", "real.json", '{"a": 1}'),
        ("ade20k", "ADEChallengeData2016/objectInfo150.txt", ""),
        ("ade20k", "ADEChallengeData2016/objectInfo150.txt", "Idx Name\n2 wall\n"),
        ("food101", "food-101/meta/test.json", "[]"),
        ("aircraft", "fgvc-aircraft-2013b/data/images_variant_test.txt", "2001511 unknown\n"),
        ("cars", "stanford_cars/cars_test_annos_withlabels.mat", "no matrix"),
        ("imagenet1k", "ILSVRC2012_devkit_t12/data/meta.mat", "no matrix"),
        ("kitti", "eigen_test_files_with_gt.txt", "2011_09_26/x.png None 721.5377\n"),
        ("roxford5k", "gnd_roxford5k.pkl", "cos\nsystem\n(S'true'\ntR."),
        ("spair71k", "SPair-71k/PairAnnotation/test/000009-a-b:cat.json", "\ufeff"),
        ("imagenet1k", "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", "1\n9\n1\n"),
    ],
)
def test_a_list_of_another_form_is_one_line_with_the_published_one(
    archive: Callable[[str], Archive], open_reduced: OpenReduced, name: str, path: str, content: str
) -> None:
    from tests.datasets.sets.archives import ARCHIVES

    to = archive(name)
    expected = ARCHIVES[name](to)
    to.place(path).write_text(content)
    card = list_datasets()[name]
    assert isinstance(card, DatasetCard)
    with pytest.raises(DataError, match=f"expected in {name}/: ") as caught:
        open_reduced(name, 2, {split: len(rows) for split, rows in expected.items()}).split(card.test_split)
    assert "\n" not in str(caught.value)
    assert "/tmp/tmp" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_names_that_are_not_ascii_in_lists_with_a_mark(
    archive: Callable[[str], Archive], open_reduced: OpenReduced, encoding: str
) -> None:
    to = archive("tiny_imagenet")
    to.image(f"tiny-imagenet-200/train/{A}/images/a.JPEG")
    to.image("tiny-imagenet-200/val/images/b\u00e9.JPEG", 10)
    to.place("tiny-imagenet-200/val/val_annotations.txt").write_text(
        f"b\u00e9.JPEG\t{A}\t0\t0\t1\t1\r\n", encoding=encoding
    )
    assert levels(open_reduced("tiny_imagenet", 1, {"val": 1}), "val") == [10]


def test_other_encodings_are_refused(archive: Callable[[str], Archive], open_reduced: OpenReduced) -> None:
    to = archive("tiny_imagenet")
    to.image(f"tiny-imagenet-200/train/{A}/images/a.JPEG")
    to.place("tiny-imagenet-200/val/val_annotations.txt").write_bytes(b"b\xe9.JPEG\tn01440764")
    with pytest.raises(DataError, match=r"val_annotations\.txt: not a text in UTF-8"):
        open_reduced("tiny_imagenet", 1, {"val": 1}).split("val")


def test_spaces_for_tabs_in_the_table_of_ade20k(
    archive: Callable[[str], Archive], open_reduced: OpenReduced
) -> None:
    to = archive("ade20k")
    rows = [
        "1    0.1576   11664   1172   1   wall",
        "2 0.1072 6046 612 1 building, edifice",
        "3 0.1 1 1 0 pool table",
    ]
    to.text("ADEChallengeData2016/objectInfo150.txt", "Idx  Ratio  Train  Val  Stuff  Name", *rows)
    to.image("ADEChallengeData2016/images/training/1.jpg")
    to.mask("ADEChallengeData2016/annotations/training/1.png", 3)
    dataset = open_reduced("ade20k", 3, {"training": 1})
    assert dataset.card.class_names == ("wall", "building", "pool table")
    assert dataset.split("training")[0].target.max() == 2


def test_frames_of_macos_do_not_move_the_cut_of_a_sequence(tmp_path: Path) -> None:
    for number in range(10):
        Image.new("RGB", (6, 5), (number, 0, 0)).save(tmp_path / f"{number}.color.png")
        Image.fromarray(np.full((5, 6), 1000, np.uint16)).save(tmp_path / f"{number}.depth.png")
    before = open_dataset(f"rgbd:{tmp_path}", DatasetOptions())
    for path in list(tmp_path.iterdir()):
        (tmp_path / f"._{path.name}").write_bytes(b"\0\5\26\7")
    after = open_dataset(f"rgbd:{tmp_path}", DatasetOptions())
    assert after.card.lengths == before.card.lengths == {"train": 8, "test": 2}
    assert after.split("test").fingerprint == before.split("test").fingerprint


def test_json_of_windows_is_read(archive: Callable[[str], Archive], open_reduced: OpenReduced) -> None:
    to = archive("met")
    from tests.datasets.sets.archives import ARCHIVES

    ARCHIVES["met"](to)
    table = to.root / "ground_truth/testset.json"
    table.write_bytes(b"\xef\xbb\xbf" + json.dumps(json.loads(table.read_text()), indent=1).encode())
    assert len(open_reduced("met", 0, {"test": 3}).split("test")) == 3
