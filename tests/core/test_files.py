import hashlib
import pickle
import stat
from pathlib import Path

import pytest

from ssleval.core.files import DAMAGED_PICKLE, file_sha256, write_atomically, write_text_atomically


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
