import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

import ssleval
from ssleval.core import Context, Dataset, DatasetOptions
from ssleval.datasets.catalog import open_dataset
from ssleval.errors import DataError
from ssleval.results import read_samples

ROWS = ["img/1.png,zebra,train", "img/2.png,ant,train", "img/3.png,ant,test"]


def table(
    tmp_path: Path, rows: list[str], *, header: str = "path,label,split", encoding: str = "utf-8"
) -> str:
    path = tmp_path / "set.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding=encoding)
    return f"manifest:{path}"


@pytest.fixture(autouse=True)
def images(tmp_path: Path, paint: Callable[[Path, int], None]) -> None:
    for number in (1, 2, 3):
        paint(tmp_path / "img" / f"{number}.png", number)


def opened(name: str) -> Dataset:
    return open_dataset(name, DatasetOptions())


def test_rows_keep_their_order_and_labels_sort(tmp_path: Path) -> None:
    dataset = opened(table(tmp_path, ROWS))
    train = dataset.split("train")
    assert dataset.card.class_names == ("ant", "zebra")
    assert dataset.card.test_split == "test"
    assert list(train.ids) == ["img/1.png", "img/2.png"]
    assert np.asarray(train.targets).tolist() == [1, 0]
    assert dataset.split("test")[0].image.getpixel((0, 0)) == (3, 3, 3)


def test_columns_in_any_order_with_others_and_a_byte_order_mark(tmp_path: Path) -> None:
    rows = ["7,train,ant,img/1.png", "8,val,ant,img/2.png"]
    dataset = opened(table(tmp_path, rows, header="id,split,label,path", encoding="utf-8-sig"))
    assert dataset.card.lengths == {"train": 1, "val": 1}
    assert dataset.card.test_split == "val"
    rows = ["img/1.png,ant,train", "img/2.png,ant,val"]
    assert opened(table(tmp_path, rows, encoding="utf-8-sig")).card.lengths == {"train": 1, "val": 1}


def test_one_path_may_be_in_two_splits(tmp_path: Path) -> None:
    assert len(opened(table(tmp_path, [*ROWS, "img/1.png,zebra,test"])).split("test")) == 2


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (ROWS, "path,class,split", "no column label"),
        ([*ROWS, "img/1.png,zebra,train"], "path,label,split", r"line 5: img/1\.png is in train twice"),
        ([*ROWS, "img/4.png,lion,test"], "path,label,split", "absent from train: lion"),
        ([*ROWS, "img/1.png,ant,dev"], "path,label,split", "line 5: split 'dev'"),
        ([*ROWS, "img/1.png,,test"], "path,label,split", "line 5: .*must not be empty"),
        ([*ROWS, "img/1.png"], "path,label,split", "line 5: .*must not be empty"),
        (ROWS[:2], "path,label,split", "needs train rows and test or val rows, found train"),
        ([], "path,label,split", "found no row"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, rows: list[str], header: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        opened(table(tmp_path, rows, header=header))


def test_other_encodings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a CSV file in UTF-8"):
        opened(table(tmp_path, ["img/1.png,caf\u00e9,train"], encoding="latin-1"))


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.csv: no such file"):
        opened(f"manifest:{tmp_path / 'absent.csv'}")
    dataset = opened(table(tmp_path, [*ROWS, "img/9.png,ant,test"]))
    with pytest.raises(DataError, match=r"img/9\.png"):
        dataset.split("test")


@pytest.mark.parametrize("spelling", ["./img/1.png", "img//1.png", "img/../img/1.png", "link/1.png"])
def test_another_spelling_of_a_path_is_the_same_file(tmp_path: Path, spelling: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "img")
    with pytest.raises(DataError, match=r"line 5: .* is in train twice"):
        opened(table(tmp_path, [*ROWS, f"{spelling},zebra,train"]))
    for split in ("train", "test"):
        with pytest.raises(DataError, match=r"line 5: .* is ant, and zebra before; an image has one label"):
            opened(table(tmp_path, [*ROWS, f"{spelling},ant,{split}"]))


def test_files_in_two_splits_are_counted_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    opened(table(tmp_path, ROWS))
    assert capsys.readouterr().err == ""
    opened(table(tmp_path, [*ROWS, "img/1.png,zebra,val", "./img/1.png,zebra,test", "img/2.png,ant,test"]))
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("csv: ")[2].partition(";")[0] for line in lines] == [
        "1 file in both train and val", "2 files in both train and test", "1 file in both val and test",
    ]  # fmt: skip


def test_blanks_around_labels_and_splits_do_not_count(tmp_path: Path) -> None:
    dataset = opened(
        table(tmp_path, ["img/1.png, ant , train", "img/2.png,ant,train", "img/3.png,ant\t,test"])
    )
    assert dataset.card.class_names == ("ant",)


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (["img/1.png,train,big, black"], "path,split,label", "line 2: more values than columns"),
        (["img/1.png,ant,bee,train"], "path,label,label,split", "two columns label"),
        (["img/1.png,  ,train"], "path,label,split", "must not be empty"),
    ],
)
def test_rows_that_could_be_read_in_two_ways_are_refused(
    tmp_path: Path, rows: list[str], header: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        opened(table(tmp_path, rows, header=header))


def test_a_zero_byte_in_a_path_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"null byte|NUL"):
        opened(table(tmp_path, [*ROWS, "img/\0.png,ant,test"])).split("test")


MANY = ["img/1.png,dog; cat,train", "img/2.png,,train", "img/3.png,cat,test"]
LINES = [
    {"path": "img/1.png", "labels": ["dog", "cat"], "split": "train"},
    {"path": "img/2.png", "labels": [], "split": "train"},
    {"path": "img/3.png", "labels": ["cat"], "split": "test"},
]


def lines(folder: Path, rows: list[Any]) -> str:
    path = folder / "set.jsonl"
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return f"manifest:{path}"


def test_several_labels_an_image_from_both_kinds_of_table(tmp_path: Path) -> None:
    named = [table(tmp_path, MANY, header="path,labels,split"), lines(tmp_path, LINES)]
    for dataset in map(opened, named):
        card, train = dataset.card, dataset.split("train")
        assert (card.target, card.metric, card.class_names) == ("multilabel", "map", ("cat", "dog"))
        assert list(train.ids) == ["img/1.png", "img/2.png"]
        assert np.asarray(train.targets).dtype == np.bool_
        assert np.asarray(train.targets).tolist() == [[True, True], [False, False]]
        assert np.asarray(dataset.split("test").targets).tolist() == [[True, False]]
    prints = {opened(name).split("train").fingerprint for name in named}
    assert len(prints) == 1, "equal content, equal fingerprint"


def test_ignored_labels_count_neither_way(tmp_path: Path) -> None:
    rows = ["img/1.png,cat,dog,train", "img/2.png,dog,,train", "img/3.png,cat,dog,test"]
    dataset = opened(table(tmp_path, rows, header="path,labels,ignored,split"))
    targets = np.asarray(dataset.split("train").targets)
    assert (targets.dtype, targets.tolist()) == (np.int8, [[1, -1], [0, 1]])
    assert opened(lines(tmp_path, [{**LINES[0], "ignored": []}, *LINES[1:]])).split("train").fingerprint


def test_json_lines_may_hold_one_label(tmp_path: Path) -> None:
    rows = [{"path": f"img/{n}.png", "label": "ant", "split": s} for n, s in ((1, "train"), (3, "test"))]
    assert opened(lines(tmp_path, rows)).card.target == "label"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('img/3.png,"cat,dog",test', "line 4: labels 'cat,dog'; write semicolons"),
        ("img/3.png,cat|dog,test", "write semicolons between labels"),
        ("img/3.png,['cat'],test", "write semicolons between labels"),
        ("img/3.png,cat;;dog,test", "none of them empty"),
        ("img/3.png,cat; cat,test", "labels names cat twice"),
        ("img/3.png,lion,test", "labels absent from train: lion"),
        ("img/1.png,dog,test", "img/1.png is dog, and dog, cat before; an image has the same labels"),
    ],
)
def test_malformed_lists_of_labels_are_refused(tmp_path: Path, row: str, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        opened(table(tmp_path, [*MANY[:2], row], header="path,labels,split"))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"path": "img/3.png", "split": "test"}, "line 3: no labels; write []"),
        ({**LINES[2], "labels": "cat"}, "labels 'cat'; write a list of texts"),
        ({**LINES[2], "labels": [1]}, "labels '[1]'; write a list of texts"),
        ({**LINES[2], "labels": ["cat", "cat"]}, "labels names cat twice"),
        ({**LINES[2], "ignored": ["cat"]}, "cat in labels and in ignored"),
        ({**LINES[2], "ignored": ["lion"]}, "labels absent from train: lion"),
        ({**LINES[2], "path": 3}, "path must be a text"),
        ("[1]", "line 3: no JSON object"),
        ('{"path": ', "line 3: no JSON object"),
        ('{"path": "a", "path": "b"}', "a name is given twice"),
        ("[" * 100_000, "line 3: no JSON object"),
    ],
    ids=str,
)
def test_malformed_json_lines_are_refused(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        opened(lines(tmp_path, [*LINES[:2], row]))


def test_label_and_labels_are_refused_together(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="columns label and labels; keep the one"):
        opened(table(tmp_path, ["img/1.png,a,a,train"], header="path,label,labels,split"))


def test_a_set_of_ones_own_is_scored_by_the_mean_average_precision_of_scikit_learn(
    tmp_path: Path, paint: Callable[[Path, int], None]
) -> None:
    random, rows = np.random.default_rng(0), list[str]()
    for number in range(60):
        paint(tmp_path / "img" / f"{number}.png", 4 * number)
        names = [
            name
            for name, least in (("dark", 30), ("light", 0))
            if (number < least) != (random.random() < 0.3)
        ]
        rows.append(f"img/{number}.png,{';'.join(names)},{'test' if number % 3 == 0 else 'train'}")
    name = table(tmp_path, rows, header="path,labels,split")
    context, results = Context(cache=tmp_path / "cache", progress=False), tmp_path / "results"
    (result,) = ssleval.evaluate("pixels", "logreg", dataset=name, context=context, results=results)
    samples = read_samples(result)
    expected = average_precision_score(samples["targets"], samples["scores"], average="macro")
    assert result.metrics["map"].value == pytest.approx(expected)
    assert samples["targets"].tolist() == [
        [name in row.split(",")[1].split(";") for name in ("dark", "light")] for row in rows[::3]
    ]
