import os
import pickle
import tracemalloc
from pathlib import Path

import pytest

from ssleval.core.files import file_sha256
from ssleval.datasets.files.names import Names

TEXTS = ["a/1.png", "", "é/ü.jpg", os.fsdecode(b"\xff.png"), "a/1.png"]


def test_names_are_a_sequence_of_the_texts() -> None:
    names = Names(iter(TEXTS))
    assert list(names) == TEXTS
    assert (len(names), names[-2], names[1:4]) == (5, TEXTS[3], TEXTS[1:4])
    assert "é/ü.jpg" in names
    assert names.index("") == 1
    assert list(pickle.loads(pickle.dumps(names))) == TEXTS
    with pytest.raises(IndexError):
        names[5]


def test_names_hold_little_more_than_their_letters() -> None:
    tracemalloc.start()
    names = Names(f"n01440764/n01440764_{number:05d}.JPEG" for number in range(20_000))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 50 * len(names)  # a list of str holds 88 bytes each


def test_a_file_is_hashed_whole(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert file_sha256(tmp_path / "a").startswith("ba7816bf8f01cfea")
