"""Stored listings of class folders: used where nothing changed, and never after that."""

import hashlib
import json
import os
import pickle
import shutil
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssleval.core import DatasetOptions, Split
from ssleval.datasets.catalog import open_dataset
from ssleval.datasets.files import images, index, listing
from ssleval.errors import DataError


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DatasetOptions:
    """A cache for sets of any size, long after they were made."""
    monkeypatch.setattr(index, "LEAST", 1)
    monkeypatch.setattr(index, "now", lambda: time.time_ns() + 10**10)
    return DatasetOptions(cache=tmp_path / "cache")


def opened(folders: Path, options: DatasetOptions, name: str = "train") -> Split:
    return open_dataset(f"folder:{folders}", options).split(name)


def fresh(folders: Path) -> Split:
    return opened(folders, DatasetOptions(cache=folders / "nowhere"))


def content(split: Split) -> tuple[object, ...]:
    assert split.targets is not None
    pixels = [split.image(row).getpixel((0, 0)) for row in range(len(split))]
    return list(split.ids), split.targets.tolist(), split.fingerprint, pixels


def stored(options: DatasetOptions) -> list[Path]:
    return sorted((options.cache / "listings").glob("*"))


def test_the_images_of_a_stored_listing_offer_their_files_too(folders: Path, options: DatasetOptions) -> None:
    # Else a second start would decode fast pixels otherwise than the first.
    first, second = opened(folders, options).encoded, opened(folders, options).encoded
    assert first is not None
    assert second is not None
    assert second(1) == first(1) == (folders / "train/a/2.PNG").read_bytes()
    rewritten = folders / "train/a/2.PNG"
    rewritten.write_bytes(rewritten.read_bytes() + b"0")
    with pytest.raises(DataError, match=r"2\.PNG"):
        second(1)


def test_a_stored_listing_is_the_same_split_and_reads_no_class_folder(
    folders: Path, options: DatasetOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = content(opened(folders, options))
    rows = [
        [name, (folders / "train" / name).stat().st_size, label]
        for name, label in [("a/10.png", 0), ("a/2.PNG", 0), ("b/1.png", 1)]
    ]
    assert first[2] == hashlib.sha256("".join(f"{json.dumps(row)}\n" for row in rows).encode()).hexdigest()
    read: list[str] = []
    scandir = os.scandir

    def counted(path: str | Path) -> object:
        read.append(Path(path).name)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", counted)
    second = opened(folders, options)
    assert content(second) == first
    # The test split was not opened before, and is listed.
    assert sorted(read) == ["a", "b", "test", "train"]
    assert second.refuse_changed is not None
    pickle.loads(pickle.dumps(second)).refuse_changed()
    assert pickle.loads(pickle.dumps(second)).image(2).getpixel((0, 0)) == (1, 1, 1)
    assert second.subset(np.array([1])).refuse_changed is not None


def repainted(path: Path) -> None:
    Image.new("RGB", (60, 50), (9, 9, 9)).save(path.with_name("new.bmp"))
    path.with_name("new.bmp").replace(path)


CHANGES: dict[str, Callable[[Path], object]] = {
    "added": lambda top: shutil.copy(top / "b" / "1.png", top / "b" / "0.png"),
    "removed": lambda top: (top / "a" / "10.png").unlink(),
    "renamed": lambda top: (top / "a" / "10.png").rename(top / "a" / "30.png"),
    "replaced": lambda top: repainted(top / "a" / "10.png"),
    "moved between classes": lambda top: (top / "a" / "10.png").rename(top / "b" / "10.png"),
    "added below": lambda top: shutil.copy(top / "b" / "1.png", top / "b" / "more" / "0.png"),
    "another class": lambda top: shutil.copytree(top / "b", top / "c"),
    "other folder": lambda top: [shutil.move(top / "b", top / "was"), shutil.copytree(top / "was", top / "b"),
                                 shutil.rmtree(top / "was"), repainted(top / "b" / "1.png")],
    "linked elsewhere": lambda top: [(top / "l").unlink(), (top / "l").symlink_to(top.parent / "second")],
    "link of a link": lambda top: [(top.parent / "via").unlink(), (top.parent / "via").symlink_to("second")],
    "rewritten in place": lambda top: Image.new("RGB", (60, 50)).save(top / "a" / "10.png"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_a_listing_changes_a_stored_one(
    folders: Path, options: DatasetOptions, paint: Callable[[Path, int], None], change: str
) -> None:
    top = folders / "train"
    paint(top / "b" / "more" / "2.png", 7)
    paint(folders / "first" / "1.png", 8)
    paint(folders / "second" / "2.png", 9)
    (folders / "via").symlink_to("first")
    (top / "l").symlink_to(folders / ("via" if change == "link of a link" else "first"))
    shutil.copytree(top / "l", folders / "test" / "l")
    assert content(opened(folders, options)) == content(fresh(folders))
    before = opened(folders, options)
    assert before.refuse_changed is not None
    CHANGES[change](top)
    if change == "another class":
        shutil.copytree(top / "c", folders / "test" / "c")
    after = opened(folders, options)
    assert content(after) == content(fresh(folders))
    assert after.fingerprint != before.fingerprint


def test_setting_a_time_back_hides_nothing(folders: Path, options: DatasetOptions) -> None:
    opened(folders, options)
    status = (folders / "train" / "a").stat()
    (folders / "train" / "a" / "2.PNG").rename(folders / "train" / "a" / "3.png")
    os.utime(folders / "train" / "a", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert "a/3.png" in opened(folders, options).ids


@pytest.mark.parametrize("how", ["rewritten", "gone", "a folder"])
def test_a_file_changed_in_place_is_refused_before_it_counts(
    folders: Path, options: DatasetOptions, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    opened(folders, options)
    # Sets of any size are looked at as a whole otherwise.
    monkeypatch.setattr(listing, "_LOOKED_AT", 1)
    first, second = opened(folders, options), opened(folders, options)
    path = folders / "train" / "a" / "2.PNG"
    if how == "rewritten":
        Image.new("RGB", (60, 50)).save(path)
    else:
        path.unlink()
        if how == "a folder":
            path.mkdir()
    if how == "rewritten":
        assert opened(folders, options).fingerprint == first.fingerprint
    assert first.refuse_changed is not None
    for refused in (first.refuse_changed, lambda: second.image(1)):
        with pytest.raises(DataError, match=r"a/2\.PNG: changed in place since it was listed; run again"):
            refused()
        second.image(0)
    if how == "rewritten":
        assert content(opened(folders, options)) == content(fresh(folders))
        assert opened(folders, options).fingerprint != first.fingerprint


def test_reading_a_file_changed_in_place_forgets_the_listing(
    folders: Path, options: DatasetOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(folders, options)
    monkeypatch.setattr(listing, "_LOOKED_AT", 1)
    split = opened(folders, options)
    Image.new("RGB", (60, 50)).save(folders / "train" / "a" / "2.PNG")
    with pytest.raises(DataError, match="run again"):
        pickle.loads(pickle.dumps(split)).image(1)
    assert content(opened(folders, options)) == content(fresh(folders))


def test_what_changed_just_now_or_is_small_is_not_stored(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = DatasetOptions(cache=tmp_path / "cache")
    monkeypatch.setattr(index, "now", lambda: time.time_ns() + 10**10)
    opened(folders, options)
    monkeypatch.setattr(index, "LEAST", 1)
    changed = max((folders / "train" / name).stat().st_ctime_ns for name in "ab")
    for begun, count in ((changed - 1, 0), (changed + index.RECENT - 1, 0), (changed + index.RECENT, 1)):
        monkeypatch.setattr(index, "now", lambda begun=begun: begun)
        opened(folders, options)
        assert len(stored(options)) == count


def rewrite(path: Path, **changes: object) -> None:
    """Store a listing with other columns and the right checksum."""
    import msgspec

    kept = msgspec.msgpack.decode(path.read_bytes()[4:])
    packed = msgspec.msgpack.encode({**kept, **changes})
    path.write_bytes(zlib.crc32(packed).to_bytes(4, "little") + packed)


def words(*numbers: int) -> bytes:
    return np.array(numbers, np.int64).tobytes()


BLOCK = b"a/10.pnga/2.PNGb/1.png"
DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-3]),
    "a bit": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"!"),
    "no listing": lambda path: path.write_bytes((0x9A11FF76).to_bytes(4, "little") + b"\x81\xa1a\x01"),
    "types": lambda path: rewrite(path, numbers=7),
    "columns": lambda path: rewrite(path, texts=[]),
    "sizes": lambda path: rewrite(path, numbers=[words(1, 2), words(2, 1)]),
    "huge counts": lambda path: rewrite(path, numbers=[words(1, 2, 3), words(2**62, 2**62)]),
    "counts": lambda path: rewrite(path, numbers=[words(1, 2, 3), words(4, -1)]),
    "parts of numbers": lambda path: rewrite(path, numbers=[b"1234567", words(2, 1)]),
    "ends": lambda path: rewrite(path, texts=[(BLOCK, words(0, 30, 15, 22))]),
    "ends beyond": lambda path: rewrite(path, texts=[(BLOCK, words(0, 8, 15, 2**60))]),
    "no UTF-8": lambda path: rewrite(path, texts=[(b"\xff" * 22, words(0, 8, 15, 22))]),
    "within a letter": lambda path: rewrite(path, texts=[("é".encode() * 11, words(0, 7, 15, 22))]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_listing_is_said_and_made_anew(
    folders: Path, options: DatasetOptions, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    first = content(opened(folders, options))
    (path,) = stored(options)
    whole = path.read_bytes()
    DAMAGES[damage](path)
    capsys.readouterr()
    assert content(opened(folders, options)) == first
    assert f"{path}: damaged" in capsys.readouterr().err
    assert path.read_bytes() == whole
    assert content(opened(folders, options)) == first
    assert not capsys.readouterr().err


def test_a_cache_that_cannot_be_used_stops_nothing(folders: Path, options: DatasetOptions) -> None:
    first = content(opened(folders, options))
    options.cache.rename(folders / "aside")
    options.cache.touch()
    assert content(opened(folders, options)) == first
    options.cache.unlink()
    (options.cache / "listings" / stored_name(folders)).mkdir(parents=True)
    assert content(opened(folders, options)) == first


def stored_name(folders: Path) -> str:
    (path,) = (folders / "aside" / "listings").iterdir()
    return path.name


def test_full_hash_trusts_no_listing_and_removes_it(folders: Path, options: DatasetOptions) -> None:
    plain = opened(folders, options).fingerprint
    full = opened(folders, DatasetOptions(cache=options.cache, full_hash=True))
    assert full.fingerprint != plain
    assert full.refuse_changed is None
    assert stored(options) == []


def test_listings_unused_for_longest_are_removed(
    folders: Path, options: DatasetOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        moved = shutil.copytree(folders, folders.with_name(f"copy{number}"))
        opened(moved, options)
        for path in stored(options):
            os.utime(path, (number - 10, path.stat().st_mtime - 100))
    oldest, newest = sorted(stored(options), key=lambda path: path.stat().st_mtime)[
        :: len(stored(options)) - 1
    ]
    opened(folders.with_name("copy0"), options)  # used, so that the second is now the oldest
    monkeypatch.setattr(index, "LARGEST_IN_ALL", 4 * newest.stat().st_size + 4)
    opened(folders, options)
    assert len(stored(options)) == 4
    assert {oldest, newest} < set(stored(options))


def test_rules_of_listing_are_part_of_the_place(
    folders: Path, options: DatasetOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(folders, options)
    monkeypatch.setattr(index, "VERSION", index.VERSION + 1)
    opened(folders, options)
    assert len(stored(options)) == 2
    assert images.EXTENSIONS == listing.EXTENSIONS
