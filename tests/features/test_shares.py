"""How a pass is shared out: large files, such as shards, are read from front to back by one process each."""

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssleval.core import Dataset, DatasetOptions
from ssleval.datasets.catalog import open_dataset
from ssleval.features import FeatureSource
from ssleval.features.decode import in_lanes
from ssleval.features.shard import Shard
from tests.datasets.sets.test_wds import labelled, shard
from tests.features.feature_fakes import (
    MEAN,
    PATCHES,
    Noise,
    Tiny,
    context_of,
    dataset_of,
    request_of,
    split_of,
)
from tests.features.rank_threads import in_ranks

SHARDS, EACH = 6, 5


@pytest.fixture
def shards(tmp_path: Path) -> Dataset:
    for number in range(SHARDS):
        items = {
            name: content
            for item in range(EACH)
            for name, content in labelled(f"{item}", 8 * (EACH * number + item), 0).items()
        }
        shard(tmp_path / f"shards/test/{number}.tar", items)
    return open_dataset(f"wds:{tmp_path / 'shards'}", DatasetOptions(cache=tmp_path / "listings"))


def nothing(*_: Any, **__: Any) -> None:
    """Stand for what compares features afterwards, which decodes images as well."""


def stored(cache: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in cache.glob("features/*/*.npy")}


@pytest.mark.parametrize(
    ("world", "expected"),
    [
        (2, [[0, 1, 2], [2, 3, 4, 5]]),
        (3, [[0, 1], [2, 3], [4, 5]]),
        # Batches of two, so that one border of shares is within a shard.
        (4, [[0, 1], [1, 2], [2, 3, 4], [4, 5]]),
    ],
)
def test_each_rank_reads_shards_of_its_own_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards: Dataset, world: int, expected: list[list[int]]
) -> None:
    request = request_of(shards, MEAN, PATCHES, split="test")
    FeatureSource(Tiny(), context_of(tmp_path / "alone", batch_size=2)).prepare([request])
    opens: dict[int, list[int]] = {}
    start = os.open

    def counted(path: Path, flags: int, *more: int) -> int:
        if Path(path).suffix == ".tar":
            opens.setdefault(threading.get_ident(), []).append(int(Path(path).stem))
        return start(path, flags, *more)

    monkeypatch.setattr(os, "open", counted)
    monkeypatch.setattr("ssleval.features.source.probe", nothing)

    models = [Tiny() for _ in range(world)]

    def work(mine: Shard) -> list[int]:
        FeatureSource(models[mine.rank], context_of(tmp_path / "shared", batch_size=2)).prepare([request])
        return opens[threading.get_ident()]

    assert in_ranks(world, work) == expected
    assert stored(tmp_path / "shared") == stored(tmp_path / "alone")


@pytest.mark.parametrize("count", [0, 1, 2, 11])
@pytest.mark.parametrize("world", [1, 2, 3, 12])
def test_shares_follow_each_other_and_differ_by_one_at_most(count: int, world: int) -> None:
    shares = [Shard(rank, world).part_of(range(count)) for rank in range(world)]
    assert [item for share in shares for item in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(
    ("batches", "workers", "expected"),
    [
        (range(5), 0, [0, 1, 2, 3, 4]),
        (range(5), 1, [0, 1, 2, 3, 4]),
        ([1, 2, 5, 6, 7], 2, [1, 6, 2, 7, 5]),
        (range(7), 3, [0, 3, 5, 1, 4, 6, 2]),
        (range(2), 4, [0, 1]),
        ((), 4, []),
    ],
)
def test_lanes(batches: Sequence[int], workers: int, expected: list[int]) -> None:
    assert in_lanes(batches, workers) == expected


@dataclass(frozen=True)
class Logged(Noise):
    """Notes which process decodes which row."""

    log: str = ""

    def __call__(self, index: int) -> Image.Image:
        with Path(self.log).open("a") as file:
            file.write(f"{os.getpid()} {index}\n")
        return super().__call__(index)


def test_each_decoding_process_reads_rows_that_follow_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssleval.features.source.probe", nothing)
    log = tmp_path / "log"
    request = request_of(dataset_of(split_of(22, Logged(log=str(log)))), MEAN)
    FeatureSource(Tiny(), context_of(tmp_path, batch_size=2, num_workers=2)).prepare([request])
    read: dict[str, list[int]] = {}
    for line in log.read_text().splitlines():
        process, row = line.split()
        read.setdefault(process, []).append(int(row))
    assert sorted(read.values()) == [list(range(12)), list(range(12, 22))]
    assert np.concatenate(list(read.values())).size == 22
