"""Files are data: an index of shards, what trainings store beside tensors, and archives that swell."""

import argparse
import collections
import json
import os
import pathlib
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ssleval.backbones.weights.checkpoints import read_checkpoint
from ssleval.backbones.weights.reading import read_content
from ssleval.errors import WeightsError

STATE = {f"layer.{index}": torch.full((2,), float(index)) for index in range(4)}


def test_what_trainings_store_beside_tensors_is_passed_over(tmp_path: Path) -> None:
    lists = collections.defaultdict(list, {"loss": [1.0]})
    options = argparse.Namespace(out=pathlib.PosixPath("/out"), rate=np.float32(0.1), shape=np.arange(3))
    beside = {"best": np.float64(0.7), "step": np.int64(3), "lists": lists, "args": options}
    beside |= {"more": types.SimpleNamespace(a=1), "where": pathlib.PurePosixPath("x")}
    torch.save({"model": STATE, **beside}, tmp_path / "w.pth")
    assert read_checkpoint(tmp_path / "w.pth").keys() == STATE.keys()
    torch.save({"model": collections.defaultdict(int, STATE)}, tmp_path / "w.pth")
    assert torch.equal(read_checkpoint(tmp_path / "w.pth")["layer.3"], STATE["layer.3"])


class _Runs:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    ("function", "argument", "named"),
    [
        (os.remove, "w.pth", r"posix\.remove"),
        (eval, "open('touched', 'w')", r"eval"),
        (os.path.join, "touched", r"posixpath\.join"),
        (np.save, "touched.npy", r"numpy.*save"),
        (pathlib.Path.touch, pathlib.Path("touched"), r"getattr"),
    ],
)
def test_other_classes_and_functions_are_refused_by_name(
    function: Any, argument: Any, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": STATE, "x": _Runs(function, argument)}, "w.pth")
    with pytest.raises(WeightsError, match=rf"more than tensors.*{named}"):
        read_content(Path("w.pth"))
    assert [file.name for file in tmp_path.iterdir()] == ["w.pth"]


def sharded(folder: Path, suffix: str = ".safetensors") -> Path:
    names = list(STATE)
    for index, half in enumerate((names[:2], names[2:]), 1):
        part = {name: STATE[name] for name in half}
        file = folder / f"model-0000{index}-of-00002{suffix}"
        save_file(part, file) if suffix == ".safetensors" else torch.save(part, file)
    shards = {name: f"model-0000{1 + index // 2}-of-00002{suffix}" for index, name in enumerate(names)}
    index = folder / f"model{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 32}, "weight_map": shards}))
    return index


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_an_index_of_shards_is_read_as_one_file(suffix: str, tmp_path: Path) -> None:
    state = read_checkpoint(sharded(tmp_path, suffix))
    assert {name: tensor.tolist() for name, tensor in state.items()} == {
        n: t.tolist() for n, t in STATE.items()
    }


@pytest.mark.parametrize(
    ("shards", "message"),
    [
        ({"layer.0": "../model-00001-of-00002.safetensors"}, "must name files of the same folder"),
        ({"layer.0": "/etc/passwd"}, "must name files of the same folder"),
        ({"layer.0": "model.safetensors.index.json"}, "must name files of the same folder"),
        ({"layer.0": "absent.safetensors"}, "there is no such file"),
        ({"layer.0": "model-00001-of-00002.safetensors"}, "does not hold what the index promises"),
        ({"layer.9": "model-00001-of-00002.safetensors"}, "does not hold what the index promises"),
        ({}, "must name files of the same folder"),
        ({"layer.0": 3}, "no index of shards"),
        ([], "no index of shards"),
        ("x" * 9, "no index of shards"),
    ],
)
def test_an_index_that_promises_other_shards_is_refused(shards: Any, message: str, tmp_path: Path) -> None:
    index = sharded(tmp_path)
    index.write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(WeightsError, match=message):
        read_checkpoint(index)


@pytest.mark.parametrize("text", ["", "{", "[1]", "[" * 100_000, "{}"])
def test_a_damaged_index_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "m.index.json").write_text(text)
    with pytest.raises(WeightsError, match="no index of shards"):
        read_checkpoint(tmp_path / "m.index.json")


def test_compressed_and_overlapping_archives_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1000)}, tmp_path / "w.pth")
    with (
        zipfile.ZipFile(tmp_path / "w.pth") as whole,
        zipfile.ZipFile(tmp_path / "z.pth", "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for name in whole.namelist():
            small.writestr(name, whole.read(name))
    with pytest.raises(WeightsError, match="compressed"):
        read_content(tmp_path / "z.pth")


@pytest.mark.parametrize("name", ["fifo.pth", "fifo.safetensors", "fifo.index.json"])
def test_a_fifo_is_no_file(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(WeightsError, match="no regular file"):
        read_content(tmp_path / name)


def test_a_newer_protocol_of_pickle_says_what_to_do(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "w.pth", pickle_protocol=4)
    with pytest.raises(WeightsError, match=r"save its state_dict with torch\.save"):
        read_content(tmp_path / "w.pth")
