import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ssleval.core import Dataset, DatasetOptions
from ssleval.datasets.catalog import open_dataset
from ssleval.errors import ConfigError, DataError

OPTIONS = DatasetOptions()
NAMES = ("b/1.png", "b/2.png", "a/1.png", "a/2.png", "a/3.png", "distractors/x.png")


@pytest.fixture
def pictures(tmp_path: Path, paint: Callable[[Path, int], None]) -> Path:
    for level, name in enumerate(NAMES):
        paint(tmp_path / "set" / name, level)
    return tmp_path / "set"


def answers(dataset: Dataset) -> dict[str, list[str]]:
    split = dataset.split("images")
    assert split.target is not None
    return {
        name: [str(split.ids[int(row)]) for row in split[i].target.easy] for i, name in enumerate(split.ids)
    }


def listed(folder: Path, content: object) -> str:
    (folder / "groups.json").write_text(json.dumps(content))
    return f"groups:{folder / 'groups.json'}"


def test_folder_and_list_say_the_same(pictures: Path) -> None:
    folder = open_dataset(f"groups:{pictures}", OPTIONS)
    groups = {"b": list(NAMES[:2]), "a": list(NAMES[2:5])}
    table = open_dataset(listed(pictures, {"groups": groups, "distractors": [NAMES[5]]}), OPTIONS)
    assert answers(folder) == answers(table)
    assert answers(folder)["a/2.png"] == ["a/1.png", "a/3.png"]
    assert answers(folder)["distractors/x.png"] == []
    assert folder.split("images").fingerprint == table.split("images").fingerprint
    assert folder.split("images")[0].image.getpixel((0, 0)) == (2, 2, 2)
    own = folder.split("images")[3].target
    assert (own.junk.tolist(), own.hard.tolist(), own.group) == ([3], [], 1)


def test_another_grouping_is_another_fingerprint(pictures: Path) -> None:
    one, two = (
        open_dataset(listed(pictures, {"groups": {"a": [*NAMES[:count]], "b": [*NAMES[count:]]}}), OPTIONS)
        .split("images")
        .fingerprint
        for count in (2, 3)
    )
    assert one != two


def test_what_is_no_grouping_is_refused(pictures: Path) -> None:
    with pytest.raises(ConfigError, match="groups: needs a path"):
        open_dataset("groups:", OPTIONS)
    for wrong in ([], {"groups": []}, {"groups": {"a": "x"}}, {"groups": {"a": [1]}}, {"images": {}}):
        with pytest.raises(DataError, match="expected"):
            open_dataset(listed(pictures, wrong), OPTIONS)
    with pytest.raises(DataError, match=r"b/1\.png is listed twice"):
        open_dataset(listed(pictures, {"groups": {"a": ["b/1.png"], "b": ["b/1.png"]}}), OPTIONS)
    with pytest.raises(DataError, match="names it"):
        open_dataset(listed(pictures, {"groups": {"a": ["b/9.png"]}}), OPTIONS).split("images")


def test_a_limit_is_for_queries(tmp_path: Path) -> None:
    dataset = open_dataset("scenes:retrieval", DatasetOptions(data_root=tmp_path))
    assert dataset.card.graded
    assert dataset.limited(7).card.lengths == {"queries": 7, "gallery": 2000}


def test_a_limit_would_take_the_answers(pictures: Path) -> None:
    with pytest.raises(ConfigError, match="run it without a limit"):
        open_dataset(f"groups:{pictures}", OPTIONS).limited(2)


def test_one_image_by_two_spellings_is_in_two_groups(pictures: Path) -> None:
    groups = {"a": [*NAMES[2:5]], "b": ["b/1.png", "a/../b/../a/1.png"]}
    with pytest.raises(DataError, match="is listed twice"):
        open_dataset(listed(pictures, {"groups": groups}), OPTIONS)


@pytest.mark.parametrize("path", ["a/\0.png", "a/\ud800.png"])
def test_paths_that_no_file_can_have_are_one_line(pictures: Path, path: str) -> None:
    with pytest.raises(DataError, match=r"null byte|no UTF-8"):
        open_dataset(listed(pictures, {"groups": {"a": [*NAMES[2:5], path]}}), OPTIONS).split("images")


def test_json_that_nests_too_deeply_or_is_no_text_is_one_line(pictures: Path) -> None:
    table = pictures / "groups.json"
    for content in (b'{"groups": ' + b"[" * 200_000, b"\xff\xfe", b'{"groups": ' + b"9" * 5000 + b"}"):
        table.write_bytes(content)
        with pytest.raises(DataError, match=r"groups\.json"):
            open_dataset(f"groups:{table}", OPTIONS)
