import hashlib
import os
import pickle
import resource
import stat
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from safetensors.torch import save_file

from ssleval.core import Samples
from ssleval.core.files import DAMAGED_PICKLE, file_sha256, write_atomically, write_text_atomically
from ssleval.results import samplefiles


def test_a_file_is_written_with_its_folders_and_readable_by_everyone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "größe.txt"
    write_text_atomically(path, "ü\n")
    assert path.read_bytes() == "ü\n".encode()
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_keeps_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_text_atomically(path, "old")

    def fails(draft: Path) -> None:
        draft.write_text("half of the n")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fails)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_temporary_file_is_hidden_and_has_another_suffix(tmp_path: Path) -> None:
    path, names = tmp_path / "a.json", list[str]()

    def save(draft: Path) -> None:
        names.append(draft.name)
        assert not path.exists()

    write_atomically(path, save)
    assert names[0].startswith(".a.json.")
    assert not names[0].endswith(".json")


def test_a_hard_link_to_the_old_file_leaves_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    write_text_atomically(path, "same")

    def link(draft: Path) -> None:
        draft.unlink()
        draft.hardlink_to(path)

    write_atomically(path, link)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "same"


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 5000)
    assert file_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(FileNotFoundError):
        file_sha256(tmp_path / "absent")


@pytest.mark.parametrize("length", range(40))
def test_reading_a_truncated_pickle_raises_an_error_of_the_list(length: int) -> None:
    content = pickle.dumps({"name": [1.5, (2, "text"), b"bytes"], "other": {3: None}})
    with pytest.raises(DAMAGED_PICKLE):
        pickle.loads(content[:length])


@contextmanager
def full_disk(most: int) -> Generator[None]:
    """Let files have at most ``most`` bytes: writing more fails as on a full disk, with another number."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _arrow(draft: Path) -> None:
    rows = np.random.default_rng(0).random(9000)
    samplefiles.save(draft, Samples([str(row) for row in rows], {"x": rows}))


WRITERS: dict[str, Callable[[Path], Any]] = {
    "text": lambda draft: draft.write_text("x" * 50_000),
    "arrow": _arrow,
    "torch": lambda draft: torch.save(torch.zeros(20_000), draft),
    "safetensors": lambda draft: save_file({"x": torch.zeros(20_000)}, draft),
    "picture": lambda draft: Image.effect_noise((300, 300), 90).save(draft, format="PNG"),
    "figure": lambda draft: Figure(figsize=(9, 9)).savefig(draft, format="png", dpi=300),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_said_with_the_name_of_the_file_whatever_writes(writer: str, tmp_path: Path) -> None:
    path = tmp_path / "kept.bin"
    path.write_text("old")
    with full_disk(10_000), pytest.raises(OSError, match=r"not written: .*kept\.bin'$") as error:
        write_atomically(path, WRITERS[writer])
    assert error.value.filename == str(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_of_the_writer_itself_stays_what_it_is(tmp_path: Path) -> None:
    def fails(draft: Path) -> None:
        raise KeyError(draft)

    with pytest.raises(KeyError):
        write_atomically(tmp_path / "a", fails)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["folder", "fifo", "device", "link to a folder", "link to itself"])
def test_what_is_no_regular_file_is_never_replaced(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "out.html"
    make: dict[str, Callable[[], Any]] = {
        "folder": path.mkdir,
        "fifo": lambda: os.mkfifo(path),
        "device": lambda: path.symlink_to("/dev/null"),
        "link to a folder": lambda: path.symlink_to(tmp_path),
        "link to itself": lambda: path.symlink_to(path),
    }
    make[kind]()
    before = path.lstat()
    with pytest.raises(OSError, match=r"not written: it is .*out\.html'$"):
        write_text_atomically(path, "new")
    assert (path.lstat().st_ino, path.lstat().st_mode) == (before.st_ino, before.st_mode)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_its_file_is_written(there: bool, tmp_path: Path) -> None:
    target, link = tmp_path / "disk" / "out.html", tmp_path / "out.html"
    target.parent.mkdir()
    if there:
        target.write_text("old")
    link.symlink_to(target)
    write_text_atomically(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert list(target.parent.iterdir()) == [target]


def test_a_file_in_place_of_a_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    for path in (tmp_path / "a" / "b.txt", tmp_path / "a" / "b" / "c.txt"):
        with pytest.raises(OSError, match="a folder of its path is a file"):
            write_text_atomically(path, "new")


def test_a_name_as_long_as_the_file_system_takes_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    write_text_atomically(path, "new")
    assert path.read_text() == "new"
    with pytest.raises(OSError, match="File name too long"):
        write_text_atomically(tmp_path / ("n" * 256), "new")
