"""ObjectNet, ImageNet-9 and Dollar Street: whose classes they are, and what is refused in their files."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssleval.core import Dataset, DatasetCard, DatasetOptions, datasets
from ssleval.datasets.catalog import list_datasets
from ssleval.datasets.prompts import class_prompts, imagenet_names, templates_for
from ssleval.datasets.published import Published
from ssleval.errors import DataError
from tests.datasets.sets.archives import ARCHIVES, IDS, OUTPUTS, Archive, label

OpenReduced = Callable[..., Dataset]
Opened = Callable[..., Dataset]
SIZES: dict[str, tuple[int, dict[str, int]]] = {
    "objectnet": (2, {"test": 2}),
    "imagenet9": (9, dict.fromkeys(("original", "mixed_rand"), 9)),
    "dollar_street": (1000, {"test": 4}),
}
NAMES = tuple(SIZES)
FOLDERS, CLASSES, NUMBERS = (
    f"objectnet-1.0/mappings/{name}.json"
    for name in ("folder_to_objectnet_label", "objectnet_to_imagenet_1k", "pytorch_to_imagenet_2012_id")
)
LABELS = "objectnet-1.0/mappings/imagenet_to_label_2012_v2"
TABLE = "dataset_dollarstreet/images_v2_imagenet_test.csv"


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_reduced: OpenReduced) -> Opened:
    """Open a miniature after ``edit`` has changed the file ``path``."""

    def of(name: str, path: str = "", edit: Callable[[str], str] | None = None) -> Dataset:
        to = Archive(tmp_path / name, monkeypatch)
        ARCHIVES[name](to)
        if edit is not None:
            place = to.root / path
            place.write_text(edit(place.read_text(encoding="utf-8")), encoding="utf-8")
        return open_reduced(name, *SIZES[name])

    return of


def test_labels_of_objectnet_are_looked_up_in_the_order_of_imagenet(opened: Opened) -> None:
    card = opened("objectnet").card
    assert card.class_names == ("alarm clock", "mug / cup")
    assert card.outputs == ((IDS[409],), (IDS[504], IDS[968]))
    # By name, without the numbers of the files.
    named = [[imagenet_names()[wnid] for wnid in group] for group in card.outputs]
    assert named == [["analog clock"], ["coffee mug", "tea cup"]]
    assert templates_for(card) == "imagenet"
    assert class_prompts(card, "simple") == (("a photo of a alarm clock.",), ("a photo of a mug / cup.",))


def test_the_border_of_objectnet_is_cut_and_no_file_stands_for_an_image(
    opened: Opened,
) -> None:
    split = opened("objectnet").split("test")
    assert [np.unique(np.asarray(split.image(row))).tolist() for row in range(2)] == [[0], [20]]
    assert split.image(0).size == (6, 5)
    assert split.encoded is None
    assert split.file is None


def test_an_image_of_nothing_but_border_is_one_line(opened: Opened, tmp_path: Path) -> None:
    split = opened("objectnet").split("test")
    Image.new("RGB", (4, 9)).save(tmp_path / "objectnet/objectnet-1.0/images/alarm_clock/00a.png")
    with pytest.raises(DataError, match="image 0 is nothing but border"):
        split.image(0)


def test_imagenet9_takes_its_classes_from_the_numbers_of_folders(opened: Opened) -> None:
    card = opened("imagenet9").card
    assert card.class_names[:3] == ("dog", "bird", "wheeled vehicle")
    assert [len(group) for group in card.outputs] == [116, 52, 42, 36, 35, 27, 26, 20, 16]
    # The miniature gives the last 116 to dogs, in the order of ImageNet here.
    assert card.outputs[0] == IDS[884:]
    assert card.outputs[8] == IDS[630:646]
    assert class_prompts(card, "simple")[2] == ("a photo of a wheeled vehicle.",)


def test_images_of_dollar_street_are_called_by_region_and_income(opened: Opened) -> None:
    dataset = opened("dollar_street")
    groups = [one.split("/")[:2] for one in dataset.split("test").ids]
    assert groups == [
        ["africa", "low_income"],
        ["americas", "medium_income"],
        ["asia", "medium_income"],
        ["europe", "high_income"],
    ]
    assert dataset.card.class_names == IDS
    assert class_prompts(dataset.card, "simple")[409] == ("a photo of a analog clock.",)


@pytest.mark.parametrize(
    ("name", "path", "before", "after"),
    [
        ("objectnet", CLASSES, label(409), label(410)),
        ("imagenet9", "in_to_in9.json", '"999": 0', '"999": 0 '),
        ("dollar_street", TABLE, ",26.99,", ",99.0,"),
        ("dollar_street", TABLE, "[804]", "[805]"),
    ],
)
def test_what_decides_a_score_decides_the_fingerprint(
    opened: Opened, name: str, path: str, before: str, after: str
) -> None:
    split = next(iter(SIZES[name][1]))
    first = opened(name).split(split).fingerprint
    second = opened(name, path, swapped(before, after)).split(split).fingerprint
    assert (first == second) == (name == "imagenet9")


def shifted(text: str) -> str:
    """Number classes from 1, as a file of another origin may."""
    return json.dumps({output: number + 1 for output, number in json.loads(text).items()})


def turned(text: str) -> str:
    """Number classes by another order."""
    return json.dumps({str(output): number for output, number in enumerate(OUTPUTS)})


def swapped(before: str, after: str) -> Callable[[str], str]:
    return lambda text: text.replace(before, after)


def remapped(**changes: Any) -> Callable[[str], str]:
    return lambda text: json.dumps({**json.loads(text), **changes})


OTHERWISE: list[tuple[str, str, Callable[[str], str], str]] = [
    ("objectnet", CLASSES, remapped(Kite="kite"), "labelled Kite"),
    ("objectnet", CLASSES, remapped(**{"Alarm clock": "clock"}),
     "clock: none of ImageNet's classes"),
    ("objectnet", CLASSES, remapped(**{"Alarm clock": label(504)}),
     f"{IDS[504]} stands for two classes"),
    ("objectnet", CLASSES, remapped(**{"Alarm clock": 3}),
     "not as published"),
    ("objectnet", CLASSES, lambda _: "[]", "expected a table"),
    ("objectnet", FOLDERS, lambda _: "{", "not a whole JSON file"),
    ("objectnet", FOLDERS, remapped(**{"../alarm_clock": "Alarm clock"}), "is no name of a folder"),
    ("objectnet", FOLDERS, remapped(**{".": "Alarm clock"}), "is no name of a folder"),
    ("objectnet", NUMBERS, shifted, "do not number 1,000 classes from 0"),
    ("objectnet", NUMBERS, turned, "its numbers are not those of"),
    ("objectnet", NUMBERS, remapped(**{"1000": 3}), "do not number"),
    ("objectnet", LABELS, lambda text: text.partition("\n")[2],
     "do not number 1,000 classes"),
    ("objectnet", LABELS, swapped(label(3), label(409)),
     "or several"),
    ("imagenet9", "in_to_in9.json", remapped(**{"999": 1}), "other numbers of classes than published"),
    ("imagenet9", "in_to_in9.json", remapped(**{"1000": -1}), "other numbers of classes than published"),
    ("imagenet9", "in_to_in9.json", remapped(**{"999": "0"}), "other numbers of classes than published"),
    ("imagenet9", "in_to_in9.json", swapped('"7":', '"07":'), "not as published"),
    ("dollar_street", TABLE, swapped("[861]", "[1000]"), "line 3: imagenet_sysnet_id"),
    ("dollar_street", TABLE, swapped("[861]", "[]"), "expected numbers below 1,000"),
    ("dollar_street", TABLE, swapped("[861]", "[-1]"), "expected numbers below 1,000"),
    ("dollar_street", TABLE, swapped("[861]", "['toilet']"), "expected numbers below"),
    ("dollar_street", TABLE, swapped("[861]", "[true]"), "expected numbers below"),
    ("dollar_street", TABLE, swapped("[861]", "861"), "expected numbers below"),
    ("dollar_street", TABLE, swapped(",am,", ",oc,"), "region.id 'oc'; expected"),
    ("dollar_street", TABLE, swapped(",685.0,", ",nan,"), "income 'nan'; expected"),
    ("dollar_street", TABLE, swapped(",685.0,", ",0,"), "income '0'; expected dollars"),
    ("dollar_street", TABLE, swapped("5d4be2.j", "5d4be9.j"), "5d4be9.jpg: No such"),
    ("dollar_street", TABLE, swapped("5d4be2/5d4be2", "5d4be1/5d4be1"), "listed twice"),
    ("dollar_street", TABLE, swapped("assets/5d4be2/", "assets/5d4be1//"), "no plain path below it"),
    ("dollar_street", TABLE, swapped("assets/5d4be2/", "../assets/"), "no plain path below it"),
    ("dollar_street", TABLE, swapped("assets/5d4be2/", "/assets/"), "no plain path below it"),
    ("dollar_street", TABLE, swapped("region.id", "region"), "no column region.id"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "path", "edit", "message"), OTHERWISE)
def test_files_of_another_content_are_one_line(
    opened: Opened, name: str, path: str, edit: Callable[[str], str], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        opened(name, path, edit).split(next(iter(SIZES[name][1])))
    assert "\n" not in str(caught.value)
    assert f"expected in {name}/: " in str(caught.value)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("objectnet", FOLDERS),
        ("objectnet", LABELS),
        ("imagenet9", "in_to_in9.json"),
        ("dollar_street", TABLE),
    ],
)
def test_a_missing_or_huge_table_is_one_line(
    opened: Opened, open_reduced: OpenReduced, tmp_path: Path, name: str, path: str
) -> None:
    opened(name)
    with (tmp_path / name / path).open("r+b") as file:
        file.truncate(2**26 + 1)
    with pytest.raises(DataError, match="67,108,865 bytes, at most 67,108,864 are read"):
        open_reduced(name, *SIZES[name]).split(next(iter(SIZES[name][1])))
    (tmp_path / name / path).unlink()
    with pytest.raises(DataError, match=rf"no .*{Path(path).name}|{Path(path).name}.*no such file"):
        open_reduced(name, *SIZES[name]).split(next(iter(SIZES[name][1])))


def test_folders_of_imagenet9_that_are_other_classes_are_refused(
    opened: Opened, open_reduced: OpenReduced, tmp_path: Path
) -> None:
    opened("imagenet9")
    base = tmp_path / "imagenet9/bg_challenge"
    (base / "mixed_rand/val/08_fish").rename(base / "mixed_rand/val/08_fishes")
    with pytest.raises(DataError, match="mixed_rand/val: other class folders than those of original"):
        open_reduced("imagenet9", *SIZES["imagenet9"]).split("mixed_rand")
    (base / "original/val/03_reptile").rename(base / "original/val/09_reptile")
    with pytest.raises(DataError, match="expected 00_dog to 08_fish"):
        open_reduced("imagenet9", *SIZES["imagenet9"])


@pytest.mark.parametrize("name", NAMES)
def test_other_sizes_than_published_are_refused(opened: Opened, tmp_path: Path, name: str) -> None:
    opened(name)
    whole = datasets.get(name)
    assert isinstance(whole, Published)
    split, classes = next(iter(SIZES[name][1])), SIZES[name][0]
    loader = replace(whole, card=replace(whole.card, classes=classes))
    with pytest.raises(DataError, match=f"{name}/{split}: .* items, expected {whole.card.lengths[split]}"):
        loader("", DatasetOptions(tmp_path)).split(split)


@pytest.mark.parametrize("name", NAMES)
def test_heads_are_fitted_on_imagenet(name: str, opened: Opened) -> None:
    fitted = opened(name).fitted_on
    assert fitted is not None
    with pytest.raises(DataError, match="imagenet1k: no folder"):
        fitted()
    card = list_datasets()[name]
    assert isinstance(card, DatasetCard)
    assert "train" not in card.lengths
