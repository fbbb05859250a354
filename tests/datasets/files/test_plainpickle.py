import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssleval.datasets.files.plainpickle import read_plain_pickle
from ssleval.errors import DataError


def stored(folder: Path, content: Any, protocol: int = 4) -> Path:
    path = folder / "content.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_plain_values_and_arrays_come_back(tmp_path: Path, protocol: int) -> None:
    content = {
        "names": ["a", "b"],
        "gnd": [{"easy": np.array([1, 2]), "hard": [3], "bbx": (0.5, 1.0), "n": np.int64(7), "none": None}],
        "grid": np.arange(6, dtype=">i2").reshape(2, 3),
        "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "nothing": np.zeros(0, np.int64),
    }
    found = read_plain_pickle(stored(tmp_path, content, protocol))
    assert found["names"] == ["a", "b"]
    assert found["gnd"][0]["easy"].tolist() == [1, 2]
    assert (found["gnd"][0]["bbx"], found["gnd"][0]["n"]) == ([0.5, 1.0], 7)
    for name in ("grid", "columns", "nothing"):
        np.testing.assert_array_equal(found[name], content[name])


class Attack:
    def __reduce__(self) -> Any:
        return os.mkdir, ("attacked",)


def test_code_is_refused_and_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"asks for posix\.mkdir; only plain values"):
        read_plain_pickle(stored(tmp_path, {"gnd": [Attack()]}))
    assert not (tmp_path / "attacked").exists()
    pickle.loads((tmp_path / "content.pkl").read_bytes())
    assert (tmp_path / "attacked").exists()  # it would have


@pytest.mark.parametrize(
    "content",
    [np.array([{}, []], dtype=object), np.array(["a"]), {1, 2}, np.array(["2020"], "M8[s]")],
    ids=repr,
)
def test_what_is_neither_plain_nor_numbers_is_refused(tmp_path: Path, content: Any) -> None:
    with pytest.raises(DataError, match="not a whole pickle of plain values"):
        read_plain_pickle(stored(tmp_path, content))


def test_values_that_multiply_are_refused(tmp_path: Path) -> None:
    endless: list[Any] = []
    endless.append(endless)
    doubled: list[Any] = []
    for _ in range(60):
        doubled = [doubled, doubled]
    for content in (endless, doubled):
        with pytest.raises(DataError, match="not a whole pickle of plain values"):
            read_plain_pickle(stored(tmp_path, content))


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.pkl"
    with path.open("wb") as file:
        file.truncate((1 << 26) + 1)
    with pytest.raises(DataError, match=r"67,108,865 bytes, at most 67,108,864 are read"):
        read_plain_pickle(path)


def test_array_states_cannot_lie(tmp_path: Path) -> None:
    class Lie:
        def __init__(self, *parts: Any) -> None:
            self.parts = parts

        def __reduce__(self) -> Any:
            return self.parts

    number = Lie(np.dtype, ("i8",), (3, "<", None, ("x",), {"x": (np.dtype("f8"), 1 << 40)}, 8, 1, 0))
    for shape, kind, data in (((1 << 40,), np.dtype("i8"), b"1"), ((1,), number, b""), ((1,), None, b"1")):
        array = Lie(np.ndarray, ((0,), "b"), (1, shape, kind, False, data))
        with pytest.raises(DataError, match="not a whole pickle of plain values"):
            read_plain_pickle(stored(tmp_path, array))


def test_damaged_and_missing_files_are_refused(tmp_path: Path) -> None:
    path = stored(tmp_path, list(range(1000)))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="fetch it again"):
        read_plain_pickle(path)
    with pytest.raises(DataError, match="no such file"):
        read_plain_pickle(tmp_path / "other.pkl")
