from collections.abc import Callable
from pathlib import Path

import pytest

from ssleval.core import DatasetOptions
from ssleval.datasets.catalog import open_dataset
from ssleval.errors import DataError

Paint = Callable[[Path, int], None]


def written(folder: Path, text: str) -> str:
    (folder / "table.csv").write_text(text, encoding="utf-8")
    return f"captions:{folder}/table.csv"


def test_an_image_has_all_its_captions_in_order(tmp_path: Path, paint: Paint) -> None:
    paint(tmp_path / "b.png", 20)
    paint(tmp_path / "a.png", 10)
    name = written(tmp_path, 'caption,path\nsecond of all,b.png\n"a, quoted",a.png\nagain,b.png\n')
    dataset = open_dataset(name, DatasetOptions())
    split = dataset.split("test")
    assert dataset.card.target == "captions"
    assert list(split.ids) == ["b.png", "a.png"]
    assert [sample.target for sample in split] == [("second of all", "again"), ("a, quoted",)]
    assert split.targets is None
    assert split[1].image.getpixel((0, 0)) == (10, 10, 10)


def test_a_table_may_be_json_lines(tmp_path: Path, paint: Paint) -> None:
    paint(tmp_path / "a.png", 10)
    (tmp_path / "table.jsonl").write_text('{"path": "a.png", "caption": "one, quoted"}\n', encoding="utf-8")
    split = open_dataset(f"captions:{tmp_path}/table.jsonl", DatasetOptions()).split("test")
    assert [sample.target for sample in split] == [("one, quoted",)]
    same = open_dataset(written(tmp_path, 'path,caption\na.png,"one, quoted"\n'), DatasetOptions())
    assert split.fingerprint == same.split("test").fingerprint


def test_a_caption_is_part_of_the_fingerprint(tmp_path: Path, paint: Paint) -> None:
    paint(tmp_path / "a.png", 10)
    found: set[str] = set()
    for text in ("one", "two", "one"):
        name = written(tmp_path, f"path,caption\na.png,{text}\n")
        found.add(open_dataset(name, DatasetOptions()).split("test").fingerprint)
    assert len(found) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,text\na.png,one\n", "no column caption"),
        ("path,caption\n", "no row"),
        ("path,caption\na.png,\n", "line 2: path and caption must not be empty"),
    ],
)
def test_tables_that_are_not_whole_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_dataset(written(tmp_path, text), DatasetOptions())


def test_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        open_dataset(f"captions:{tmp_path}/none.csv", DatasetOptions())
    dataset = open_dataset(written(tmp_path, "path,caption\na.png,one\n"), DatasetOptions())
    with pytest.raises(DataError, match=r"a\.png: No such file"):
        dataset.split("test")


def test_spellings_of_one_path_are_one_image(tmp_path: Path, paint: Paint) -> None:
    paint(tmp_path / "a.png", 10)
    name = written(tmp_path, "path,caption\na.png,one\n./a.png,two\n")
    split = open_dataset(name, DatasetOptions()).split("test")
    assert list(split.ids) == ["a.png"]
    assert split[0].target == ("one", "two")
