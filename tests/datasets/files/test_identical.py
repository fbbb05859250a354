"""Files that two splits share byte for byte."""

from pathlib import Path

import numpy as np
import pytest

from ssleval.core import Split
from ssleval.datasets.files import identical
from ssleval.datasets.files.identical import identical_files, identical_note
from ssleval.datasets.files.images import file_split


def split(root: Path, files: dict[str, bytes]) -> Split:
    root.mkdir(exist_ok=True)
    for name, content in files.items():
        (root / name).write_bytes(content)
    return file_split(root, sorted(files))


LONG = bytes(range(256)) * 40


def test_equal_bytes_are_found_and_equal_sizes_or_ends_alone_are_not(tmp_path: Path) -> None:
    first = split(tmp_path / "a", {"1.png": LONG, "2.png": b"x" * 9, "3.png": b"other", "4.png": b"y" * 9})
    changed = b"!" + LONG[1:]
    second = split(tmp_path / "b", {"p.png": changed, "q.png": b"z" * 9, "r.png": b"y" * 9, "s.png": LONG})
    assert identical_files(first, second, tmp_path / "cache") == [(0, 3), (3, 2)]


def test_of_equal_files_one_partner_is_named(tmp_path: Path) -> None:
    """All pairs of placeholders would be their number squared."""
    first = split(tmp_path / "a", {"1.png": b"same", "2.png": b"else", "3.png": b"same"})
    second = split(tmp_path / "b", {"o.png": b"other", "p.png": b"same", "q.png": b"same"})
    assert identical_files(first, second, tmp_path / "cache") == [(0, 1), (2, 1)]


def test_what_was_compared_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (split(tmp_path / name, {"1.png": b"same"}) for name in "ab")
    before = identical_files(first, second, tmp_path / "cache")

    def read(*_: object) -> None:
        pytest.fail("files were read again")

    monkeypatch.setattr(identical, "_compared", read)
    assert identical_files(first, second, tmp_path / "cache") == before == [(0, 0)]
    with pytest.raises(pytest.fail.Exception, match="read again"):
        identical_files(first, split(tmp_path / "c", {"1.png": b"others"}), tmp_path / "cache")


@pytest.mark.parametrize("content", ["", "[[0]]", "[[0, 7]]", "nonsense"])
def test_a_damaged_record_is_made_anew(tmp_path: Path, content: str) -> None:
    first, second = (split(tmp_path / name, {"1.png": b"same"}) for name in "ab")
    identical_files(first, second, tmp_path / "cache")
    (place,) = (tmp_path / "cache" / "identical").iterdir()
    place.write_text(content)
    assert identical_files(first, second, tmp_path / "cache") == [(0, 0)]


def test_rows_of_a_part_of_a_split_are_its_own(tmp_path: Path) -> None:
    first = split(tmp_path / "a", {"1.png": b"one", "2.png": b"two"}).subset(np.array([1]))
    second = split(tmp_path / "b", {"p.png": b"one", "q.png": b"two"})
    assert identical_files(first, second, tmp_path / "cache") == [(0, 1)]


def test_the_note_counts_images_and_names_them(tmp_path: Path) -> None:
    test = split(tmp_path / "a", {"1.png": b"same", "2.png": b"else"})
    train = split(tmp_path / "b", {"p.png": b"same", "q.png": b"same"})
    line = identical_note("set", ("train", train), ("test", test), tmp_path)
    assert line.startswith("identical files: 1 image of set/test")
    assert "1.png = " in line
    assert not identical_note("set", ("train", train), ("test", test.subset(np.array([1]))), tmp_path)
