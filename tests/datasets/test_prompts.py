from importlib.resources import files
from pathlib import Path

import pytest
from open_clip import zero_shot_metadata

from ssleval.core import DatasetCard
from ssleval.datasets.prompts import class_prompts, imagenet_names, template_sets, templates_for
from ssleval.errors import ConfigError, UnknownNameError


def card(name: str = "mine", *names: str) -> DatasetCard:
    return DatasetCard(name, class_names=names)


def test_imagenet_has_the_published_templates_and_names_in_label_order() -> None:
    expected = [template("{}") for template in zero_shot_metadata.OPENAI_IMAGENET_TEMPLATES]
    assert list(template_sets()["imagenet"]) == expected
    assert len(expected) == 80
    seven = [template("{}") for template in zero_shot_metadata.SIMPLE_IMAGENET_TEMPLATES]
    assert list(template_sets()["imagenet_seven"]) == seven
    assert tuple(imagenet_names().values()) == zero_shot_metadata.IMAGENET_CLASSNAMES
    wnids = files("timm.data").joinpath("_info", "imagenet_synsets.txt").read_text().split()
    assert list(imagenet_names()) == wnids


def test_every_template_has_one_place_for_the_name() -> None:
    for name, lines in template_sets().items():
        assert lines, name
        assert all(line.count("{}") == 1 for line in lines), name
        assert len(set(lines)) == len(lines), name


@pytest.mark.parametrize(
    ("name", "templates"),
    [
        ("imagenet_r", "imagenet"),
        ("cifar100", "cifar"),
        ("pets", "pets"),
        ("scenes", "scenes"),
        ("scenes:material", "simple"),
        ("folder:x", "simple"),
    ],
)
def test_every_dataset_has_templates(name: str, templates: str) -> None:
    assert templates_for(card(name)) == templates


def test_a_class_name_goes_into_every_template() -> None:
    found = class_prompts(card("pets", "Abyssinian", "american_bulldog"), "pets")
    assert found == (
        ("a photo of a Abyssinian, a type of pet.",),
        ("a photo of a american bulldog, a type of pet.",),
    )


def test_imagenet_classes_are_called_by_their_names_whatever_the_folders() -> None:
    by_id = class_prompts(card("imagenet_r", "n01443537", "n01484850"), "simple")
    assert by_id == (("a photo of a goldfish.",), ("a photo of a great white shark.",))
    assert class_prompts(card("imagenet_v2", "1", "2"), "simple") == by_id
    with pytest.raises(ConfigError, match="n00000001 is none of the 1,000 classes"):
        class_prompts(card("imagenet_r", "n00000001"), "simple")


def test_scenes_has_its_own_prompts() -> None:
    scenes = card("scenes", "ball", "block")
    assert class_prompts(scenes, "scenes")[1][0] == "a photo of a rectangular block."
    with pytest.raises(ConfigError, match="for its own categories"):
        class_prompts(card("mine", "ball"), "scenes")


@pytest.mark.parametrize("name", ["17", "n01440764", "/a/abbey"])
def test_names_that_are_no_words_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="is no word to show"):
        class_prompts(card("mine", "cat", name), "simple")
    assert class_prompts(card("digits", "0"), "digits") == (('a photo of the number: "0".',),)


def test_files_of_templates_and_of_names(tmp_path: Path) -> None:
    templates, names = tmp_path / "templates.txt", tmp_path / "names.txt"
    templates.write_text("my {}, really.\n\na {}\n")
    names.write_text("house cat\ndog\n")
    found = class_prompts(card("mine", "0", "1"), str(templates), str(names))
    assert found == (("my house cat, really.", "a house cat"), ("my dog, really.", "a dog"))
    with pytest.raises(ConfigError, match="2 class names, mine has 3 classes"):
        class_prompts(card("mine", "0", "1", "2"), "simple", str(names))
    templates.write_text("no place\n")
    with pytest.raises(ConfigError, match="'no place' needs "):
        class_prompts(card("mine", "a"), str(templates))
    templates.write_text("\n")
    with pytest.raises(ConfigError, match="empty"):
        class_prompts(card("mine", "a"), str(templates))
    with pytest.raises(UnknownNameError, match="did you mean imagenet"):
        class_prompts(card("mine", "a"), "imagenets")


def test_caltech101_has_clips_names_by_folder() -> None:
    folders = ("BACKGROUND_Google", "Faces", "airplanes", "ant", "ceiling_fan", "cougar_face", "yin_yang")
    names = ["background", "off-center face", "airplane", "ant", "ceiling fan", "face of a cougar cat",
             "yin and yang symbol"]  # fmt: skip
    prompts = class_prompts(card("caltech101", *folders), "caltech101")
    assert [texts[0] for texts in prompts] == [f"a photo of a {name}." for name in names]
    # The same folders under another name are somebody's own classes.
    assert class_prompts(card("mine", "Faces"), "simple") == (("a photo of a Faces.",),)


def test_variants_of_aircraft_may_be_numbers() -> None:
    prompts = class_prompts(card("aircraft", "707-320", "A300B4", "F/A-18"), "aircraft")
    expected = ["707-320", "A300B4", "F/A-18"]
    assert [texts[0] for texts in prompts] == [
        f"a photo of a {name}, a type of aircraft." for name in expected
    ]
    with pytest.raises(ConfigError, match="'707-320' is no word"):
        class_prompts(card("mine", "707-320", "A300B4"), "simple")


def test_a_mark_at_the_start_of_a_file_is_no_part_of_a_text(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes(b"\xef\xbb\xbfcat\r\ndog\r\n")
    prompts = class_prompts(card("mine", "0", "1"), "simple", str(tmp_path / "names.txt"))
    assert prompts == (("a photo of a cat.",), ("a photo of a dog.",))
