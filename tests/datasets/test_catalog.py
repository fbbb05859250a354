import subprocess
import sys
from pathlib import Path

import pytest

from ssleval.core import DatasetCard, DatasetOptions
from ssleval.datasets.catalog import list_datasets, open_dataset, split_names
from ssleval.errors import ConfigError, DataError, UnknownNameError


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digts", "no dataset 'digts'; did you mean digits"),
        ("foldr:/data/x", "no dataset 'foldr:/data/x'; did you mean folder"),
        ("imagenet-1k", "did you mean imagenet1k"),
        ("./photos/x", r"a folder of images is folder:\./photos/x"),
        (
            "zzz:x",
            "known: boxes, captions, clips, davis, domains, folder, groups, hf, images, list, manifest, "
            "masks and 10 more",
        ),
    ],
)
def test_unknown_names_get_a_hint(name: str, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        open_dataset(name, DatasetOptions())


@pytest.mark.parametrize(
    "source",
    [
        "captions", "clips", "davis", "domains", "folder", "groups", "manifest", "rgbd", "rgbd_normals",
        "rgbd_pairs",
    ],
)  # fmt: skip
def test_a_source_without_a_path_says_how_to_write_it(source: str) -> None:
    with pytest.raises(ConfigError, match=f"{source}: needs a path; write {source}:[A-Z]"):
        open_dataset(f"{source}:", DatasetOptions())


def test_listing_gives_cards_and_lines() -> None:
    listed = list_datasets()
    assert list(listed) == sorted(listed)
    for name in ("folder", "hf", "manifest", "torchvision", "wds"):
        line = listed[name]
        assert isinstance(line, str)
        assert line.startswith(f"{name}:")
    card = listed["imagenet1k"]
    assert isinstance(card, DatasetCard)
    assert card.num_classes == 1000


def test_options_of_another_type_are_refused(tmp_path: Path) -> None:
    wrong, text = DatasetOptions(), DatasetOptions()
    object.__setattr__(wrong, "full_hash", "yes")  # as in a program that is not type-checked
    object.__setattr__(text, "data_root", str(tmp_path))
    with pytest.raises(ConfigError, match=r"options\.full_hash=yes"):
        open_dataset("digits", wrong)
    with pytest.raises(DataError, match=f"pets: no folder {tmp_path}/pets"):
        open_dataset("pets", text)


def test_an_opened_card_is_complete(tmp_path: Path) -> None:
    card = open_dataset("digits", DatasetOptions(data_root=tmp_path / "absent")).card
    assert card.num_classes == len(card.class_names) == 10


def test_listing_and_opening_import_no_torch() -> None:
    code = (
        "import sys; from ssleval.datasets.catalog import *; from ssleval.core import DatasetOptions; "
        "list_datasets(); "
        "open_dataset('digits', DatasetOptions()).split('test')[0]; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("digits,scenes:mask", ["digits", "scenes:mask"]),
        (" digits , ,scenes ", ["digits", "scenes"]),
        ("masks:images,masks", ["masks:images,masks"]),
        ("masks:/a/images,/a/masks,digits", ["masks:/a/images,/a/masks", "digits"]),
        ("wds:{train,test}/{000..012}.tar,scenes", ["wds:{train,test}/{000..012}.tar", "scenes"]),
        ("digits,wds:/a/{train,digits}/0.tar", ["digits", "wds:/a/{train,digits}/0.tar"]),
        ("folder:/a,b/c,folder:d", ["folder:/a,b/c", "folder:d"]),
        ("digits,digts", ["digits", "digts"]),
        ("folder:a, digits", ["folder:a", "digits"]),
        ("hf:org/name@main,manifest:x.csv", ["hf:org/name@main", "manifest:x.csv"]),
        ("", []),
    ],
)
def test_commas_part_names_but_not_locations(text: str, names: list[str]) -> None:
    assert split_names(text) == names
