"""Devices and decoding processes that choose themselves; accelerators are stand-ins."""

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ssleval.core import Context
from ssleval.core import devices as module
from ssleval.core.devices import place, suitable_workers, usable_cores, usable_device
from ssleval.errors import ConfigError


def pretend(monkeypatch: pytest.MonkeyPatch, **counts: int) -> None:
    for kind in ("cuda", "mps"):
        count = counts.get(kind, 0)
        library = SimpleNamespace(
            is_available=lambda count=count: count > 0, device_count=lambda count=count: count
        )
        monkeypatch.setattr(torch, kind, library)


def four(process: int) -> set[int]:
    assert process == 0
    return {0, 1, 2, 3}


def unlimited(groups: Path) -> float:
    assert groups == Path("/sys/fs/cgroup")
    return float("inf")


def replaced(read: Callable[[Path], float], groups: Path, usual: Path) -> float:
    assert usual == Path("/sys/fs/cgroup")
    return read(groups)


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", four, raising=False)
    monkeypatch.setattr(module, "_quota", unlimited)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)


@pytest.mark.parametrize(
    ("here", "chosen"), [({"cuda": 2, "mps": 1}, "cuda"), ({"mps": 1}, "mps"), ({}, "cpu")], ids=str
)
def test_auto_is_the_best_device_that_is_here(
    monkeypatch: pytest.MonkeyPatch, here: dict[str, int], chosen: str
) -> None:
    pretend(monkeypatch, **here)
    assert usable_device("auto") == Context().device == Context(device="auto").device == chosen
    assert Context(device="cpu").device == "cpu"


@pytest.mark.usefixtures("four_cores")
def test_all_cores_decode_beside_an_accelerator_and_none_beside_a_model_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(monkeypatch, cuda=1)
    assert Context().num_workers == 4
    assert Context(device="cpu").num_workers == 0
    assert Context(num_workers=3).num_workers == 3
    assert suitable_workers("cuda:1") == suitable_workers("mps") == 4


@pytest.mark.usefixtures("four_cores")
@pytest.mark.parametrize(("ranks", "cores"), [("1", 4), ("2", 2), ("3", 1), ("8", 1), ("", 4), ("0", 4)])
def test_processes_of_one_machine_share_its_cores(
    monkeypatch: pytest.MonkeyPatch, ranks: str, cores: int
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
    assert usable_cores() == cores


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "250000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, 4),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ({"cpu.max": "nonsense\n"}, 4),
        ({}, 4),
    ],
    ids=str,
)
@pytest.mark.usefixtures("four_cores")
def test_a_container_gets_no_more_than_its_quota(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: dict[str, str], cores: int
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(os, "sched_getaffinity", four, raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(module, "_quota", partial(replaced, module._quota, tmp_path))
    assert usable_cores() == cores


def test_what_is_here_is_said_and_what_is_not_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, cuda=2)
    assert place("cuda:1", 16) == "running on cuda:1, 16 processes decode images"
    assert place("cpu") == ""
    with pytest.raises(ConfigError, match="there is 2 cuda devices here; use cuda:1"):
        usable_device("cuda:2")
    with pytest.raises(ConfigError, match="finds no mps device here; use cpu"):
        usable_device("mps")
    with pytest.raises(ConfigError, match="did you mean auto"):
        Context(device=usable_device("aut"))


def test_results_and_keys_do_not_name_the_workers() -> None:
    assert Context(device="cpu", num_workers=2).recorded() == Context(device="cpu", num_workers=0).recorded()
    assert Context(pixels="fast").recorded() == {**Context().recorded(), "pixels": "fast"}
    assert "pixels" not in Context().recorded()


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, sys.maxsize),
        ({"memory.max": "max\n", "memory.current": "7\n", "memory.stat": "inactive_file 3\n"}, sys.maxsize),
        (
            {"memory.max": "1000\n", "memory.current": "700\n", "memory.stat": "anon 1\ninactive_file 30\n"},
            330,
        ),
        ({"memory.max": "1000\n", "memory.current": "1700\n", "memory.stat": "anon 1\n"}, 0),
        (
            {
                "memory/memory.limit_in_bytes": "1000\n",
                "memory/memory.usage_in_bytes": "900\n",
                "memory/memory.stat": "inactive_file 1\ntotal_inactive_file 50\n",
            },
            150,
        ),
    ],
)
def test_a_container_takes_no_more_memory_than_its_limit(
    files: dict[str, str], expected: int, tmp_path: Path
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert module._memory_left(tmp_path) == expected
