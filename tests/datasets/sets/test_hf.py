import io
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssleval.core import Dataset, DatasetOptions, Split
from ssleval.core.task import Needs, refuse_dataset
from ssleval.datasets.catalog import open_dataset
from ssleval.datasets.files import index, streams
from ssleval.datasets.files.streams import Stream, stream_split
from ssleval.errors import ConfigError, DataError, NotApplicableError, SslevalError

hub = pytest.importorskip("datasets", reason="needs the optional datasets library")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(hub.config, "HF_HUB_OFFLINE", True)


def png(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (level, level, level)).save(buffer, "PNG")
    return buffer.getvalue()


def rows(levels: list[int], names: tuple[str, ...] = ("ant", "bee"), **columns: Any) -> Any:
    features = hub.Features(
        {"picture": hub.Image(), "kind": hub.ClassLabel(names=list(names)), "page": hub.Value("int64")}
    )
    data = {
        "picture": [{"bytes": png(level), "path": None} for level in levels],
        "kind": [level % 2 for level in levels],
        "page": levels,
    }
    made = hub.Dataset.from_dict(data, features=features)
    for name, kind in columns.items():
        made = made.add_column(name, [0] * len(levels)).cast_column(name, kind)
    return made


def saved(tmp_path: Path, **splits: Any) -> Path:
    hub.DatasetDict(splits).save_to_disk(str(tmp_path / "set"))
    return tmp_path / "set"


def opened(location: object, *, full_hash: bool = False) -> Dataset:
    return open_dataset(f"hf:{location}", DatasetOptions(full_hash=full_hash))


def as_parquet(tmp_path: Path) -> Path:
    folder = tmp_path / "parquet" / "data"
    folder.mkdir(parents=True)
    rows([5, 4, 7]).to_parquet(str(folder / "train-00000-of-00001.parquet"))
    rows([8, 9]).to_parquet(str(folder / "validation-00000-of-00001.parquet"))
    return folder.parent


def as_saved(tmp_path: Path) -> Path:
    return saved(tmp_path, train=rows([5, 4, 7]), validation=rows([8, 9]))


def as_files(tmp_path: Path) -> Path:
    for split, level in (("train", 4), ("train", 5), ("train", 7), ("validation", 8), ("validation", 9)):
        path = tmp_path / "files" / split / ("ant", "bee")[level % 2] / f"{level}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(level))
    return tmp_path / "files"


@pytest.mark.parametrize("layout", [as_parquet, as_saved, as_files])
def test_columns_are_found_by_type(tmp_path: Path, layout: Any) -> None:
    dataset = opened(layout(tmp_path))
    train, val = dataset.split("train"), dataset.split("val")
    assert dataset.card.class_names == ("ant", "bee")
    assert dataset.card.lengths == {"train": 3, "val": 2}
    assert dataset.card.test_split == "val"
    levels = [4, 5, 7] if layout is as_files else [5, 4, 7]
    image = pickle.loads(pickle.dumps(train.image))
    assert [image(i).getpixel((0, 0))[0] for i in range(3)] == levels
    assert np.asarray(train.targets).tolist() == [level % 2 for level in levels]
    assert np.asarray(val.targets).tolist() == [0, 1]


def test_layouts_of_the_same_rows_have_one_fingerprint(tmp_path: Path) -> None:
    prints = {opened(layout(tmp_path)).split("train").fingerprint for layout in (as_parquet, as_saved)}
    assert len(prints) == 1


def test_the_fingerprint_sees_labels_and_on_request_content(tmp_path: Path) -> None:
    def prints(levels: list[int], name: str) -> tuple[str, ...]:
        folder = saved(tmp_path / name, train=rows(levels), test=rows([1]))
        return tuple(opened(folder, full_hash=full).split("train").fingerprint for full in (False, True))

    reference, same_sizes, other_labels = prints([4, 6], "a"), prints([8, 6], "b"), prints([4, 7], "c")
    assert same_sizes[0] == reference[0]
    assert same_sizes[1] != reference[1]
    assert other_labels[0] != reference[0]


def cut_short(row: dict[str, Any]) -> dict[str, Any]:
    return {"picture": {"bytes": row["picture"]["bytes"][:40], "path": None}}


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    broken = rows([1, 2]).cast_column("picture", hub.Image(decode=False))
    broken = broken.map(cut_short)
    folder = saved(tmp_path, train=broken.cast_column("picture", hub.Image()), test=rows([1]))
    with pytest.raises(DataError, match=r"set/train\[1\]: cannot be decoded"):
        opened(folder).split("train")[1]


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"train": rows([1])}, "needs a train split and a test or validation one, found train"),
        ({"train": rows([1]), "test": rows([2], ("bee", "ant"))}, "other columns in test"),
        (
            {name: rows([1], coarse=hub.ClassLabel(names=["x"])) for name in ("train", "test")},
            "exactly one ClassLabel column, found kind, coarse",
        ),
        (
            {name: rows([1]).remove_columns("picture") for name in ("train", "test")},
            "exactly one Image column, found none among kind, page",
        ),
    ],
)
def test_what_is_ambiguous_is_refused(tmp_path: Path, splits: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        opened(saved(tmp_path, **splits))


def test_a_set_without_a_label_column_is_images_alone(tmp_path: Path, capsys: Any) -> None:
    bare = rows([3, 4]).remove_columns(["kind"])
    dataset = opened(saved(tmp_path, train=bare))
    assert dataset.card.target == "none"
    assert dataset.card.lengths == {"train": 2}
    split = dataset.split("train")
    assert [split[row].image.getpixel((0, 0)) for row in range(2)] == [(3, 3, 3), (4, 4, 4)]
    assert split.targets is None
    assert "no ClassLabel column among picture, page; images without labels" in capsys.readouterr().err
    with pytest.raises(NotApplicableError, match="knn needs one label"):
        refuse_dataset("knn", Needs(targets=("label",)), dataset.card)


def test_the_hub_needs_a_revision() -> None:
    with pytest.raises(ConfigError, match="no revision of the hub; write hf:org/name@COMMIT"):
        opened("org/name")


def test_a_name_is_needed() -> None:
    with pytest.raises(ConfigError, match="hf: needs a name"):
        opened("")


def test_out_of_reach_is_one_line() -> None:
    with pytest.raises(DataError, match="hf:org/name@main: cannot be loaded") as caught:
        opened("org/name@main")
    assert "\n" not in str(caught.value)


def test_revision_and_configuration_reach_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def load_dataset(*arguments: object, **options: object) -> Any:
        asked.append((arguments, options))
        return hub.DatasetDict(train=rows([1]), test=rows([2]))

    monkeypatch.setattr(hub, "load_dataset", load_dataset)
    card = opened("org/name/fine@abc123").card
    assert asked == [(("org/name", "fine"), {"revision": "abc123"})]
    assert card.source.endswith("org/name/fine@abc123")


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"pip install 'ssleval\[hf\]'"):
        opened("org/name@main")


def test_a_class_that_is_only_tested_is_refused(tmp_path: Path) -> None:
    dataset = opened(saved(tmp_path, train=rows([4, 6]), test=rows([8, 9])))
    with pytest.raises(DataError, match="classes of test absent from train: 1"):
        dataset.split("test")


def labelled(levels: list[int], labels: list[int | None]) -> Any:
    made = rows(levels)
    return made.remove_columns("kind").add_column("kind", labels).cast_column("kind", made.features["kind"])


@pytest.mark.parametrize("hidden", [[-1, -1, -1], [None, None, None]])
def test_a_test_split_without_labels_gives_way_to_validation(
    tmp_path: Path, hidden: list[int | None], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = saved(tmp_path, train=rows([4, 5]), validation=rows([7, 8]), test=labelled([1, 2, 3], hidden))
    dataset = opened(folder)
    assert (dataset.card.test_split, dataset.card.lengths) == ("val", {"train": 2, "val": 2})
    assert np.asarray(dataset.split("val").targets).tolist() == [1, 0]
    assert "its test split has no labels; val is scored in its place" in capsys.readouterr().err


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("hidden", [-1, None])
def test_rows_without_a_label_are_refused(tmp_path: Path, split: str, hidden: int | None) -> None:
    splits = {"train": rows([4, 5]), "validation": rows([7, 8]), "test": rows([1, 2])}
    splits[split] = labelled([4, 5], [0, hidden])
    dataset = opened(saved(tmp_path, **splits))
    with pytest.raises(DataError, match=f"{split}: 1 of 2 rows have no label, such as row 1"):
        dataset.split("test")


def test_a_test_split_without_labels_alone_is_refused(tmp_path: Path) -> None:
    dataset = opened(saved(tmp_path, train=rows([4, 5]), test=labelled([1, 2], [-1, -1])))
    with pytest.raises(DataError, match="2 of 2 rows have no label"):
        dataset.split("test")


@pytest.fixture
def stream(tmp_path: Path) -> Path:
    """A folder of three parquet files of a validation split, and one to train on."""
    folder = tmp_path / "parquet" / "data"
    folder.mkdir(parents=True)
    for number in range(3):
        levels = list(range(20 * number, 20 * number + 20))
        rows(levels).to_parquet(str(folder / f"validation-{number:05d}-of-00003.parquet"))
    rows([0, 1]).to_parquet(str(folder / "train-00000-of-00001.parquet"))
    return folder.parent


def level_of(split: Split, row: int) -> object:
    return split.image(row).getpixel((0, 0))


@pytest.mark.parametrize("full_hash", [False, True])
def test_a_split_that_is_named_is_streamed_and_equals_the_copy(stream: Path, full_hash: bool) -> None:
    copy = opened(stream, full_hash=full_hash).split("val")
    before = set(stream.parent.rglob("*"))
    dataset = opened(f"{stream}:validation", full_hash=full_hash)
    assert dataset.card.lengths == {"val": 60}
    assert (dataset.card.test_split, dataset.card.class_names) == ("val", ("ant", "bee"))
    split = dataset.split("val")
    assert (split.fingerprint, list(split.ids)) == (copy.fingerprint, list(copy.ids))
    assert np.asarray(split.targets).tolist() == np.asarray(copy.targets).tolist()
    for row in (0, 1, 7, 8, 9, 59, 3, 3, 40, 39):
        assert level_of(split, row) == level_of(copy, row) == (row,) * 3
    assert not {path for path in set(stream.parent.rglob("*")) - before if path.suffix == ".arrow"}
    with pytest.raises(NotApplicableError):
        refuse_dataset("knn", Needs(training_split=True), dataset.card)


def test_a_streamed_pass_reads_every_file_once(stream: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = opened(f"{stream}:validation").split("val")
    numbers: list[int] = []
    file = Stream.file

    def counted(self: Stream, number: int) -> object:
        numbers.append(number)
        return file(self, number)

    monkeypatch.setattr(Stream, "file", counted)
    assert [level_of(split, row) for row in range(60)] == [(row,) * 3 for row in range(60)]
    assert numbers == [0, 1, 2]


def test_a_worker_of_torch_reads_all_that_it_is_asked_for(
    stream: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    split = pickle.loads(pickle.dumps(opened(f"{stream}:validation").split("val")))
    # The library would give the second of two workers nothing of a file.
    worker = SimpleNamespace(id=1, num_workers=2, seed=0)
    monkeypatch.setattr(torch.utils.data, "get_worker_info", lambda: worker)
    assert [level_of(split, row) for row in (2, 30, 59)] == [(2,) * 3, (30,) * 3, (59,) * 3]


def test_what_cannot_be_streamed_is_one_line(stream: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be loaded: Bad split: nosuch"):
        opened(f"{stream}:nosuch")
    (stream / "data" / "validation-00001-of-00003.parquet").write_bytes(b"PAR1 cut")
    with pytest.raises(SslevalError, match="parquet"):
        opened(f"{stream}:validation")
    unlabelled = tmp_path / "unlabelled" / "data"
    unlabelled.mkdir(parents=True)
    made = rows([1, 2])
    kind = made.features["kind"]
    made = made.remove_columns("kind").add_column("kind", [-1, -1]).cast_column("kind", kind)
    made.to_parquet(str(unlabelled / "test-00000-of-00001.parquet"))
    with pytest.raises(DataError, match=r"\[0\]: has no label"):
        opened(f"{unlabelled.parent}:test")


def test_rows_that_change_under_a_stream_are_refused(stream: Path) -> None:
    split = opened(f"{stream}:validation").split("val")
    path = stream / "data" / "validation-00000-of-00003.parquet"
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40)).save(buffer, "PNG")
    other = rows([3] * 3).remove_columns("picture")
    other = other.add_column("picture", [{"bytes": buffer.getvalue(), "path": None}] * 3)
    other.cast_column("picture", hub.Image()).to_parquet(str(path))
    with pytest.raises(DataError, match=r"\[1\]: changed since it was listed"):
        split.image(1)
    with pytest.raises(DataError, match=r"\[3\]: no such row any more"):
        split.image(7)


def test_a_listing_of_a_commit_is_kept_and_checked(
    stream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "LEAST", 1)
    options, subject = DatasetOptions(cache=tmp_path / "kept"), ("hf", "a/b@c", "validation")
    loaded = hub.load_dataset(str(stream), split="validation", streaming=True)
    undecoded = loaded.select_columns(["picture", "kind"]).cast_column("picture", hub.Image(decode=False))
    first = stream_split(Stream("hf:a", undecoded, "picture"), "kind", subject, options)
    monkeypatch.setattr(streams, "_listed", None)
    second = stream_split(Stream("hf:a", undecoded, "picture"), "kind", subject, options)
    assert second.fingerprint == first.fingerprint
    assert np.array_equal(np.asarray(second.targets), np.asarray(first.targets))
    assert [level_of(second, row) for row in (50, 2)] == [(50,) * 3, (2,) * 3]
    two = hub.load_dataset(str(stream), split="train", streaming=True)
    with pytest.raises(TypeError):
        stream_split(Stream("hf:a", two, "picture"), "kind", subject, options)
    assert streams.commit_of("0" * 40) == "0" * 40
    assert streams.commit_of("main") is None
