import hashlib
import io
import json
import os
import pickle
import tarfile
import time
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import pytest
from PIL import Image

from ssleval.core import Dataset, DatasetOptions
from ssleval.core.task import Needs, refuse_dataset
from ssleval.datasets.catalog import open_dataset
from ssleval.datasets.files import index
from ssleval.datasets.files.shards import expand_braces
from ssleval.errors import DataError, NotApplicableError


def png(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (level, level, level)).save(buffer, "PNG")
    return buffer.getvalue()


def shard(path: Path, members: dict[str, bytes], mode: Literal["w", "w:gz"] = "w") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def labelled(key: str, level: int, label: int) -> dict[str, bytes]:
    return {f"{key}.png": png(level), f"{key}.cls": str(label).encode(), f"{key}.json": b"{}"}


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    shard(tmp_path / "train/2.tar", {**labelled("z", 1, 1), **labelled("a", 2, 0)})
    shard(tmp_path / "train/10.tar", labelled("z", 3, 1))
    shard(tmp_path / "test/0.tar", labelled("./deep/x", 4, 0))
    (tmp_path / "classnames.txt").write_text("cat\ndog\n")
    return tmp_path


def opened(name: object, *, full_hash: bool = False) -> Dataset:
    return open_dataset(f"wds:{name}", DatasetOptions(full_hash=full_hash))


def test_items_come_in_stored_order(shards: Path) -> None:
    dataset = opened(shards)
    train = dataset.split("train")
    assert dataset.card.class_names == ("cat", "dog")
    assert dataset.card.lengths == {"train": 3, "test": 1}
    assert list(train.ids) == ["2.tar/z", "2.tar/a", "10.tar/z"]
    assert np.asarray(train.targets).tolist() == [1, 0, 1]
    image = pickle.loads(pickle.dumps(train.image))
    assert [image(i).getpixel((0, 0))[0] for i in range(3)] == [1, 2, 3]


@pytest.mark.parametrize("pattern", ["{train,test}/{0,2,10}.tar", "t*/*.tar", "{train,test}/?*.tar", ""])
def test_every_way_to_name_the_shards(shards: Path, pattern: str) -> None:
    if pattern.startswith("{train,test}/{"):
        shard(shards / "train/0.tar", {})
        for name in ("2.tar", "10.tar"):
            shard(shards / "test" / name, {})
    assert opened(shards / pattern).split("train").fingerprint
    assert list(opened(shards / pattern).split("train").ids) == ["2.tar/z", "2.tar/a", "10.tar/z"]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.tar", ["a.tar"]),
        ("{08..11}.tar", ["08.tar", "09.tar", "10.tar", "11.tar"]),
        ("{a,b}/{0..1}", ["a/0", "a/1", "b/0", "b/1"]),
    ],
)
def test_braces(pattern: str, names: list[str]) -> None:
    assert expand_braces(pattern, "wds") == names


def test_without_names_classes_are_numbers(shards: Path) -> None:
    (shards / "classnames.txt").unlink()
    assert opened(shards).card.class_names == ("0", "1")


def test_a_label_beyond_the_names_is_refused(shards: Path) -> None:
    (shards / "classnames.txt").write_text("cat\n")
    with pytest.raises(DataError, match=r"labels 0\.\.1 for 1 classes"):
        opened(shards).split("train")


def test_the_fingerprint_sees_sizes_labels_and_on_request_content(shards: Path) -> None:
    def prints() -> tuple[str, ...]:
        return tuple(opened(shards, full_hash=full).split("test").fingerprint for full in (False, True))

    plain, full = prints()
    shard(shards / "test/0.tar", labelled("./deep/x", 5, 0))
    other_pixels = prints()
    assert other_pixels[0] == plain
    assert other_pixels[1] != full
    shard(shards / "test/0.tar", labelled("./deep/x", 4, 1))
    assert prints()[0] != plain


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.png": png(1)}, r"0\.tar/a: has no label"),
        ({"a.cls": b"1"}, r"0\.tar/a: has no image"),
        ({"a.png": png(1), "a.cls": b"dog"}, r"a\.cls holds 'dog'"),
        ({"a.png": png(1), "a.jpg": png(1), "a.cls": b"0"}, "two images"),
    ],
)
def test_incomplete_items_are_named(shards: Path, members: dict[str, bytes], message: str) -> None:
    shard(shards / "test/0.tar", members)
    with pytest.raises(DataError, match=message):
        opened(shards)


def test_a_damaged_image_names_shard_and_member(shards: Path) -> None:
    shard(shards / "test/0.tar", {"a.png": png(1)[:40], "a.cls": b"0"})
    with pytest.raises(DataError, match=r"test/0\.tar/a\.png: cannot be decoded"):
        opened(shards).split("test")[0]


def test_compressed_and_foreign_shards_are_refused(shards: Path) -> None:
    shard(shards / "test/0.tar", labelled("a", 1, 0), "w:gz")
    with pytest.raises(DataError, match=r"0\.tar: not a whole, uncompressed tar"):
        opened(shards)
    (shards / "test").rename(shards / "held_out")
    with pytest.raises(DataError, match="must name a split: train, val, test"):
        opened(shards)


def test_empty_and_cut_shards_are_refused(shards: Path) -> None:
    path = shards / "test/0.tar"
    content = path.read_bytes()
    for length in (300, 512 + 30):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match=r"0\.tar"):
            opened(shards).split("test")[0]
    shard(path, {})
    with pytest.raises(DataError, match="test: no items in 1 shards"):
        opened(shards)


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("https://example.org/{0..1}.tar", "read from local files"),
        ("train/{0..3}.tar", r"train/0\.tar: no such shard"),
        ("train/*.tar", "found train"),
        ("none/*.tar", "found none"),
    ],
)
def test_what_is_missing_is_said(
    shards: Path, monkeypatch: pytest.MonkeyPatch, location: str, message: str
) -> None:
    monkeypatch.chdir(shards)
    with pytest.raises(DataError, match=message):
        opened(location)


@pytest.mark.parametrize("stated", ["2", "0", "many", ""])
def test_other_shards_than_are_promised_are_refused(shards: Path, stated: str) -> None:
    promise = shards / "test/nshards.txt"
    promise.write_text("1\n")
    assert len(opened(shards).split("test")) == 1
    promise.write_text(stated)
    with pytest.raises(DataError, match=rf"nshards\.txt: promises {stated or 'nothing'}, 1 shards are there"):
        opened(shards)


def test_two_labels_of_one_key_are_refused(shards: Path) -> None:
    with tarfile.open(shards / "test/0.tar", "a") as archive:
        info = tarfile.TarInfo("./deep/x.cls")
        info.size = 1
        archive.addfile(info, io.BytesIO(b"1"))
    with pytest.raises(DataError, match=r"0\.tar/deep/x has two labels, of 0 and \./deep/x\.cls"):
        opened(shards)


@pytest.mark.parametrize("label", [b"1000000", b"9" * 5000, b"1" + b" " * 99 + b"2", "\u00b2".encode()])
def test_class_numbers_are_bounded_before_they_are_counted(shards: Path, label: bytes) -> None:
    shard(shards / "test/0.tar", {"a.png": png(1), "a.cls": label})
    with pytest.raises(DataError, match=r"a\.cls holds|absent from train"):
        opened(shards)


def test_a_class_that_is_only_tested_is_refused(shards: Path) -> None:
    shard(shards / "test/0.tar", labelled("x", 4, 7))
    with pytest.raises(DataError, match="classes of test absent from train: 7"):
        opened(shards)


@pytest.mark.parametrize(
    "pattern", ["{0..1000000000000}.tar", "{0..9}" * 8, "{" + ",".join("ab" * 9) + "}" * 1 + "{1..99999}"]
)
def test_patterns_that_stand_for_too_many_are_refused(pattern: str) -> None:
    with pytest.raises(DataError, match="more than 100,000 shards"):
        expand_braces(pattern, "wds")


def test_what_archivers_leave_in_shards_is_passed_over(shards: Path) -> None:
    before = opened(shards).split("test")
    shard(
        shards / "test/0.tar",
        {"._x.png": b"x", "__MACOSX/deep/._x.png": b"x", ".DS_Store": b"x", **labelled("./deep/x", 4, 0)},
    )
    (shards / "test/._0.tar").write_bytes(b"AppleDouble")
    assert list(opened(shards).split("test").ids) == list(before.ids)


def test_names_that_are_no_utf8_and_pipes_are_one_line(shards: Path) -> None:
    import os

    shard(shards / "test/0.tar", {"caf\udce9.png": png(1), "caf\udce9.cls": b"0"})
    with pytest.raises(DataError, match=r"0\.tar"):
        opened(shards)
    (shards / "test/0.tar").unlink()
    os.mkfifo(shards / "test/0.tar")
    with pytest.raises(DataError, match="found train"):
        opened(shards)


@pytest.mark.parametrize(
    ("content", "message"), [(b"cat\n\ndog\n", "an empty line"), (b"caf\xe9\n", "UTF-8")]
)
def test_class_names_that_would_shift_are_refused(shards: Path, content: bytes, message: str) -> None:
    (shards / "classnames.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        opened(shards)


def test_a_set_to_score_alone_has_no_training_split(shards: Path) -> None:
    for path in (shards / "train").iterdir():
        path.unlink()
    dataset = opened(shards)
    assert dataset.card.lengths == {"test": 1}
    assert dataset.card.class_names == ("cat", "dog")
    with pytest.raises(NotApplicableError, match="fits on a training split"):
        refuse_dataset("knn", Needs(training_split=True), dataset.card)
    refuse_dataset("zeroshot", Needs(("label",)), dataset.card)


@pytest.mark.parametrize("spelling", ["validation", "valid", "val"])
def test_validation_has_several_spellings(shards: Path, spelling: str) -> None:
    (shards / "test").rename(shards / spelling)
    dataset = opened(shards)
    assert (dataset.card.test_split, list(dataset.card.lengths)) == ("val", ["train", "val"])


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("imagenet1k-train-0000.tar", "imagenet1k-validation-00.tar"),
        ("cub_train_000.tar", "cub_val_000.tar"),
        ("train.000.tar", "test.000.tar"),
    ],
)
def test_names_of_shards_in_one_folder_tell_their_splits(tmp_path: Path, train: str, val: str) -> None:
    shard(tmp_path / "s" / train, {**labelled("a", 1, 1), **labelled("b", 1, 0)})
    shard(tmp_path / "s" / val, labelled("c", 1, 0))
    (tmp_path / "s" / "classnames.txt").write_text("cat\ndog\n")
    dataset = opened(tmp_path / "s")
    assert list(dataset.card.lengths.values()) == [2, 1]
    assert dataset.card.class_names == ("cat", "dog")
    assert list(dataset.split("train").ids) == [f"{train}/a", f"{train}/b"]


@pytest.mark.parametrize("name", ["a.tar", "train-test-00.tar", "trainval-00.tar"])
def test_a_shard_that_names_no_split_or_two_is_refused(tmp_path: Path, name: str) -> None:
    shard(tmp_path / "s" / name, labelled("a", 1, 0))
    with pytest.raises(DataError, match="its folder or its own name must name a split"):
        opened(tmp_path / "s")


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DatasetOptions:
    """A cache for sets of any size, long after they were made."""
    monkeypatch.setattr(index, "LEAST", 1)
    monkeypatch.setattr(index, "now", lambda: time.time_ns() + 10**10)
    return DatasetOptions(cache=tmp_path / "cache")


def content(shards: Path, options: DatasetOptions) -> tuple[object, ...]:
    dataset = open_dataset(f"wds:{shards}", options)
    split = dataset.split("train")
    pixels = [split.image(row).getpixel((0, 0)) for row in range(len(split))]
    return dataset.card, list(split.ids), np.asarray(split.targets).tolist(), split.fingerprint, pixels


def test_a_stored_listing_is_the_same_and_reads_no_header(
    shards: Path, options: DatasetOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = content(shards, options)
    assert content(shards, DatasetOptions(cache=shards / "nowhere")) == first
    sizes = [[name, (shards / "train" / name).stat().st_size] for name in ("2.tar", "10.tar")]
    items = [["2.tar/z", len(png(1)), 1], ["2.tar/a", len(png(2)), 0], ["10.tar/z", len(png(3)), 1]]
    lines = "".join(f"{json.dumps(row)}\n" for row in [*sizes, *items])
    assert first[3] == hashlib.sha256(lines.encode()).hexdigest()
    monkeypatch.setattr(tarfile, "open", None)
    assert content(shards, options) == first
    with pytest.raises(TypeError):
        content(shards, DatasetOptions(cache=options.cache, full_hash=True))
    with pytest.raises(TypeError):
        content(shards, options)


def in_place(path: Path, members: dict[str, bytes]) -> None:
    """Rewrite a shard of the same size, and set its time back."""
    before = path.stat()
    shard(path, members)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_ino) == (before.st_size, before.st_ino)


CHANGES: dict[str, Callable[[Path], object]] = {
    "a label, in place": lambda top: in_place(top / "10.tar", labelled("z", 3, 0)),
    "added": lambda top: shard(top / "11.tar", labelled("y", 7, 1)),
    "removed": lambda top: (top / "10.tar").unlink(),
    "replaced": lambda top: [shard(top / "new", labelled("q", 7, 1)), (top / "new").replace(top / "10.tar")],
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_shard_that_changed_is_listed_again(shards: Path, options: DatasetOptions, change: str) -> None:
    first = content(shards, options)
    CHANGES[change](shards / "train")
    second = content(shards, options)
    assert second == content(shards, DatasetOptions(cache=shards / "nowhere"))
    assert second[3] != first[3]


def test_a_shard_replaced_while_in_use_is_refused(shards: Path) -> None:
    split = opened(shards).split("train")
    split.image(0)
    shard(shards / "train/10.tar", labelled("other", 200, 1))
    with pytest.raises(DataError, match=r"10\.tar: changed since it was listed; run again"):
        split.image(2)


def rewrite(path: Path, column: int, values: list[int]) -> None:
    kept = msgspec.msgpack.decode(path.read_bytes()[4:])
    kept["numbers"][column] = np.array(values, np.int64).tobytes()
    packed = msgspec.msgpack.encode(kept)
    path.write_bytes(zlib.crc32(packed).to_bytes(4, "little") + packed)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        (0, [0, 512, 75, 0, 3072, 75]),
        (0, [0, 512, 75, 0, 3072, 75, 2, 512, 75]),
        (0, [0, 512, 75, 0, 3072, 75, -1, 512, 75]),
        (0, [0, 512, 75, 0, 3072, 75, 1, -1, 75]),
        (0, [0, 512, 75, 0, 3072, 75, 1, 512, 2**62]),
        (0, [0, 512, 75, 0, 3072, 75, 1, 2**62, 75]),
        (0, [0, 512, 75, 0, 3072, 75, 1, 512]),
        (1, [1, 0, -1]),
        (1, [1, 0, 10**9]),
    ],
)
def test_a_listing_with_impossible_numbers_is_made_anew(
    shards: Path, options: DatasetOptions, capsys: pytest.CaptureFixture[str], column: int, values: list[int]
) -> None:
    first = content(shards, options)
    for path in (options.cache / "listings").iterdir():
        rewrite(path, column, values)
    assert content(shards, options) == first
    assert capsys.readouterr().err.count("damaged") == 2


def test_a_pass_in_order_opens_every_shard_once_and_holds_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(9):
        items = {name: b for k in range(3) for name, b in labelled(f"{k}", number, 0).items()}
        shard(tmp_path / f"test/{number}.tar", items)
    split = opened(tmp_path).split("test")
    names: list[str] = []
    start = os.open

    def counted(path: Path, flags: int) -> int:
        names.append(path.name)
        return start(path, flags)

    monkeypatch.setattr(os, "open", counted)
    assert [split.image(row).getpixel((0, 0)) for row in range(27)] == [(row // 3,) * 3 for row in range(27)]
    assert names == [f"{number}.tar" for number in range(9)]
    held = [
        os.path.realpath(link) for link in Path("/proc/self/fd").glob("*")
    ]  # nothing elsewhere than on Linux
    assert len([path for path in held if path.startswith(str(tmp_path))]) <= 1


def test_listing_holds_the_headers_of_one_shard_at_most(tmp_path: Path) -> None:
    for number in range(12):
        items = {name: b for k in range(100) for name, b in labelled(f"{k}", 0, 0).items()}
        shard(tmp_path / f"test/{number}.tar", items)
    opened(tmp_path)
    tracemalloc.start()
    dataset = opened(tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert dataset.card.lengths == {"test": 1200}
    # Items of all shards held as objects took 460,000 bytes.
    assert peak < 300_000
