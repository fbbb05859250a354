"""Several processes that extract one pass, on machines that share no more than a network file system."""

import errno
import json
import os
import signal
import struct
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest

from ssleval.core import FeatureRequest
from ssleval.errors import ContractError, DataError
from ssleval.features import FeatureSource, cache, parts, source
from ssleval.features.shard import Shard
from ssleval.features.store import Column, StoredPass
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
from tests.features.feature_processes import meeting, start
from tests.features.page_caches import Cluster, Killed, Machine

IMAGES = 32
COLUMN = Column("mean", (8,), "float32")
ROWS = np.random.default_rng(0).random((22, 8), dtype=np.float32)


def asked(*corrupt: int, images: int = IMAGES) -> FeatureRequest:
    return request_of(dataset_of(split_of(images, Noise(corrupt=corrupt))), MEAN, PATCHES)


def features(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("features/*/*.npy"))}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of one process that nobody disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    FeatureSource(Tiny(), context_of(folder, batch_size=2)).prepare([asked()])
    return features(folder)


def cluster_of(folder: Path, patch: pytest.MonkeyPatch, machines: int, seed: int) -> Cluster:
    cluster = Cluster(folder, machines, seed)
    cluster.install(patch)
    patch.setattr(
        source, "current_shard", lambda: Shard(cluster.rank or 0, len(cluster.turn), cluster.gather)
    )
    return cluster


def extract(cluster: Cluster, ranks: list[Machine]) -> tuple[list[BaseException | None], int]:
    """Extract with one process on each of these machines; return how they ended, and batches extracted."""
    models = [Tiny() for _ in ranks]

    def process(model: Tiny, machine: Machine) -> Callable[[], None]:
        return lambda: FeatureSource(model, context_of(machine.root, batch_size=2)).prepare([asked()])

    ends = cluster.run([process(*both) for both in zip(models, ranks, strict=True)])
    return ends, sum(len(model.calls) for model in models)


@pytest.mark.parametrize("seed", range(4))
def test_two_page_caches_lose_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, bytes], seed: int
):
    cluster = cluster_of(tmp_path, monkeypatch, 3, seed)
    ends, batches = extract(cluster, cluster.machines[:2])
    assert ends == [None, None]
    assert batches == IMAGES // 2
    assert features(cluster.server.root) == whole
    assert not list(cluster.server.root.rglob("*.part"))
    ends, batches = extract(cluster, cluster.machines[2:])
    assert (ends, batches) == ([None], 0)


def test_two_page_caches_would_lose_rows_of_files_that_both_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cluster = cluster_of(tmp_path, monkeypatch, 2, 0)
    StoredPass.begin(cluster.machines[0].root / "pass", {"images": 22, "batch_size": 2}).allocate([COLUMN])

    def write(rank: int) -> None:
        stored = opened(cluster.machines[rank].root / "pass")
        with stored.writer([COLUMN]) as writer:
            for batch in range(rank, 11, 2):
                writer.write(COLUMN, batch, ROWS[2 * batch :][:2])

    assert cluster.run([lambda: write(0), lambda: write(1)]) == [None, None]
    kept = np.load(cluster.server.root / "pass" / "mean.npy")
    assert 0 < (kept == ROWS).all(1).sum() < 22


@pytest.mark.parametrize("seed", range(6))
def test_killed_at_random_and_resumed_by_others_equals_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, bytes], seed: int
):
    cluster = cluster_of(tmp_path, monkeypatch, 4, seed)
    draw, deaths = cluster.draw, 0
    for _ in range(3):
        ranks = draw.sample(cluster.machines, draw.choice((1, 2, 3)))
        cluster.deaths = {draw.randrange(len(ranks)): cluster.steps + draw.randrange(20, 400)}
        ends, _ = extract(cluster, ranks)
        for machine, end in zip(ranks, ends, strict=True):
            assert end is None or isinstance(end, Killed | ConnectionError)
            if isinstance(end, Killed):
                deaths += 1
                # The machine as well, or it sends what its process had written.
                cluster.lose_power(machine) if draw.random() < 0.5 else cluster.send_all(machine)
    cluster.deaths = {}
    ranks = draw.sample(cluster.machines, draw.choice((1, 2, 3, 4)))
    ends, _ = extract(cluster, ranks)
    assert ends == [None] * len(ranks)
    assert features(cluster.server.root) == whole
    assert not list(cluster.server.root.rglob("*.part"))
    assert extract(cluster, cluster.machines[:1]) == ([None], 0)


def test_a_killed_process_of_three_costs_what_it_was_at(tmp_path: Path):
    processes = [start(meeting, tmp_path, rank, 3) for rank in range(3)]
    log = tmp_path / "forwards"
    while not log.exists() or len(log.read_text().splitlines()) < 20:
        assert all(process.is_alive() for process in processes)
        time.sleep(0.002)
    processes[1].kill()
    for process in processes:
        process.join(60)
        assert process.exitcode != 0
    assert processes[1].exitcode == -signal.SIGKILL
    done = len(log.read_text().splitlines())
    backbone = Tiny()
    FeatureSource(backbone, context_of(tmp_path)).prepare([asked(images=240)])
    # What the other two have extracted, and all of the one that was killed but its last batch and the one
    # before it, which is being written meanwhile.
    assert 60 - done <= len(backbone.calls) <= 60 - done + 2
    FeatureSource(Tiny(), context_of(tmp_path / "whole")).prepare([asked(images=240)])
    assert features(tmp_path) == features(tmp_path / "whole")


def test_images_that_one_of_several_cannot_decode_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cluster = cluster_of(tmp_path, monkeypatch, 2, 0)
    request = asked(2, 5, 30)

    def process(machine: Machine) -> Callable[[], None]:
        context = context_of(machine.root, skip_corrupt=True)
        return lambda: FeatureSource(Tiny(), context).prepare([request])

    assert cluster.run([process(machine) for machine in cluster.machines]) == [None, None]
    context = context_of(tmp_path / "whole", skip_corrupt=True)
    monkeypatch.setattr(source, "current_shard", Shard)
    FeatureSource(Tiny(), context).prepare([request])
    assert features(cluster.server.root) == features(tmp_path / "whole")
    assert np.load(next(cluster.server.root.glob("features/*/valid.npy"))).sum() == IMAGES - 3


def test_machines_that_share_no_folder_are_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cluster = cluster_of(tmp_path, monkeypatch, 2, 0)
    cluster.machines[1] = cluster_of(tmp_path / "other", monkeypatch, 1, 0).machines[0]
    cluster.install(monkeypatch)
    monkeypatch.setattr(source, "current_shard", lambda: Shard(cluster.rank or 0, 2, cluster.gather))
    monkeypatch.setattr(parts, "SEEN_SECONDS", 0.1)
    monkeypatch.setattr("socket.gethostname", lambda: "node7")
    ends, batches = extract(cluster, cluster.machines)
    assert batches == 0
    (folder,) = cluster.machines[0].root.glob("features/*")
    elsewhere = cluster.machines[1].root / "features" / folder.name
    assert f"{elsewhere} on node7: what the leading process wrote there does not appear here" in str(ends[1])
    assert "\n" not in str(ends[1])
    assert isinstance(ends[0], Exception)


def test_a_process_waits_for_what_its_machine_does_not_show_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    token = parts.share_out(begun(tmp_path / "pass"), [COLUMN], 2)
    (tmp_path / "pass" / "parts").rename(tmp_path / "hidden")
    listed: list[str] = []

    def listing(folder: Path) -> list[str]:
        # As an NFS client, which takes a file for absent until the folder is read anew.
        listed.append(folder.name)
        if folder.name == "pass":
            (tmp_path / "hidden").rename(tmp_path / "pass" / "parts")
        return []

    monkeypatch.setattr(os, "listdir", listing)
    assert parts.join(tmp_path / "pass", token, 1).batch_size == 4
    assert listed[-3:] == ["pass", "parts", f"{token:016x}"]


def nothing(_: Path) -> list[Path]:
    return []


def test_what_does_not_arrive_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cluster = cluster_of(tmp_path, monkeypatch, 2, 0)
    monkeypatch.setattr(parts, "_files", nothing)
    ends, _ = extract(cluster, cluster.machines)
    assert "what another process wrote there does not appear here" in str(ends[0])
    assert isinstance(ends[1], Exception)


def opened(folder: Path) -> StoredPass:
    stored = StoredPass.open(folder)
    assert stored is not None
    return stored


def begun(folder: Path, created: str = "2026-01-01T00:00:00Z") -> StoredPass:
    names = {"model": "tiny", "dataset": "noise", "split": "train", "created": created}
    stored = StoredPass.begin(folder, {**names, "images": 22, "batch_size": 4})
    stored.allocate([COLUMN])
    return stored


def left_over(stored: StoredPass) -> Path:
    """Leave batches 1, 3 and 5 of a process that did not live to see them merged; return its file."""
    part = parts.join(stored.folder, parts.share_out(stored, [COLUMN], 2), 1)
    with part.writer([COLUMN]) as writer:
        for batch in (1, 3, 5):
            writer.write(COLUMN, batch, ROWS[4 * batch :][:4])
    return part.folder / "1-mean.part"


def test_merging_moves_rows_and_records(tmp_path: Path):
    stored = begun(tmp_path / "pass")
    left_over(stored)
    parts.merge(stored)
    assert stored.pending(COLUMN) == [0, 2, 4]
    rows = np.load(tmp_path / "pass" / "mean.npy")
    for batch in range(6):
        span = slice(4 * batch, 4 * batch + 4)
        np.testing.assert_array_equal(rows[span], ROWS[span] if batch % 2 else 0)
    assert not (tmp_path / "pass" / "parts").exists()


HEAD = 16
BATCH_BYTES = HEAD + 4 * 8 * 4


def cut(path: Path, size: int) -> None:
    os.truncate(path, path.read_bytes().index(b"\n") + 1 + size)


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(b"\n") + 1 + place] ^= 1
    path.write_bytes(content)


def claim(path: Path, **fields: object) -> None:
    line, _, rest = path.read_bytes().partition(b"\n")
    path.write_bytes(json.dumps(json.loads(line) | fields).encode() + b"\n" + rest)


def renumber(path: Path, batch: int) -> None:
    """Give the second batch another number, and a head that is right about it."""
    content = path.read_bytes()
    place = content.index(b"\n") + 1 + BATCH_BYTES
    head = struct.pack("<QL", batch, crc32(content[place + HEAD :][: 4 * 32]))
    path.write_bytes(content[:place] + head + struct.pack("<L", crc32(head)) + content[place + HEAD :])


def of_an_earlier_beginning(path: Path) -> None:
    """Put what another group extracted before the pass was begun anew in place of it."""
    before = begun(path.parents[3] / "before" / "pass", created="2025-01-01T00:00:00Z")
    left_over(before).replace(path)


def link(path: Path) -> None:
    moved = path.parents[3] / "elsewhere"
    path.rename(moved)
    path.symlink_to(moved)


def link_folder(path: Path) -> None:
    moved = path.parents[3] / "elsewhere"
    path.parent.rename(moved)
    path.parent.symlink_to(moved)


def link_all(path: Path) -> None:
    moved = path.parents[3] / "elsewhere"
    path.parents[1].rename(moved)
    path.parents[1].symlink_to(moved)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("harm", "left"),
    [
        (partial(cut, size=3 * BATCH_BYTES - 2 * 32), [0, 2, 4]),
        (partial(cut, size=3 * BATCH_BYTES - 2 * 32 - 1), [0, 2, 4, 5]),
        (partial(cut, size=BATCH_BYTES + 1), [0, 2, 3, 4, 5]),
        (partial(cut, size=0), [0, 1, 2, 3, 4, 5]),
        (partial(Path.write_bytes, data=b""), [0, 1, 2, 3, 4, 5]),
        (partial(Path.write_bytes, data=bytes(9000)), [0, 1, 2, 3, 4, 5]),
        # A wrong row costs its batch; after a wrong head nothing can be found.
        (partial(flip, place=BATCH_BYTES + HEAD), [0, 2, 3, 4]),
        (partial(flip, place=BATCH_BYTES), [0, 2, 3, 4, 5]),
        (partial(flip, place=BATCH_BYTES + 9), [0, 2, 3, 4, 5]),
        (partial(renumber, batch=6), [0, 2, 3, 4, 5]),
        (partial(renumber, batch=1 << 63), [0, 2, 3, 4, 5]),
        (partial(claim, **{"pass": "f" * 40}), [0, 1, 2, 3, 4, 5]),
        (of_an_earlier_beginning, [0, 1, 2, 3, 4, 5]),
        (partial(claim, batch_size=2), [0, 1, 2, 3, 4, 5]),
        (partial(claim, readout="gem"), [0, 1, 2, 3, 4, 5]),
        (partial(claim, row=[4]), [0, 1, 2, 3, 4, 5]),
        (link, [0, 1, 2, 3, 4, 5]),
        (link_folder, [0, 1, 2, 3, 4, 5]),
        (link_all, [0, 1, 2, 3, 4, 5]),
        (pipe, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_only_what_is_whole_and_of_this_pass_is_merged(
    tmp_path: Path, harm: Callable[[Path], object], left: list[int]
):
    stored = begun(tmp_path / "pass")
    path = left_over(stored)
    harm(path)
    parts.merge(stored)
    assert stored.pending(COLUMN) == left
    rows = np.load(tmp_path / "pass" / "mean.npy")
    for batch in {*range(6)} - {*left}:
        np.testing.assert_array_equal(rows[4 * batch :][:4], ROWS[4 * batch :][:4])
    assert not os.path.lexists(tmp_path / "pass" / "parts")
    # What a link leads to is not ours.
    if (tmp_path / "elsewhere").is_dir():
        assert list((tmp_path / "elsewhere").rglob("*.part"))


def test_a_process_killed_before_its_first_row_leaves_nothing(tmp_path: Path):
    wide = Column("wide", (1024,), "float32")
    stored = begun(tmp_path / "pass")
    stored.allocate([wide])
    part = parts.join(stored.folder, parts.share_out(stored, [wide], 2), 1)
    with part.writer([wide]) as writer:
        writer.write(wide, 1, np.ones((4, 1024), dtype=np.float32))
    cut(part.folder / "1-wide.part", HEAD)
    parts.merge(stored)
    assert stored.pending(wide) == [0, 1, 2, 3, 4, 5]


def test_what_is_done_is_not_overwritten(tmp_path: Path):
    stored = begun(tmp_path / "pass")
    left_over(stored)
    with stored.writer([COLUMN]) as writer:
        writer.write(COLUMN, 3, np.ones((4, 8), dtype=np.float32))
    parts.merge(stored)
    assert (np.load(tmp_path / "pass" / "mean.npy")[12:16] == 1).all()
    assert stored.pending(COLUMN) == [0, 2, 4]


def test_images_known_as_corrupt_are_left_out_by_all(tmp_path: Path):
    stored = begun(tmp_path / "pass")
    stored.mark(5, np.zeros(1, dtype=bool))
    token = parts.share_out(stored, [COLUMN], 2)
    # Another group, while processes of this one may still write.
    assert parts.share_out(stored, [COLUMN], 2) != token
    part = parts.join(tmp_path / "pass", token, 1)
    assert np.flatnonzero(~part.valid()).tolist() == [5]


def test_a_readout_that_the_leader_does_not_extract_is_refused(tmp_path: Path):
    part = parts.join(tmp_path / "pass", parts.share_out(begun(tmp_path / "pass"), [COLUMN], 2), 1)
    with pytest.raises(ContractError, match="gem: the leading process extracts mean only"):
        part.pending(Column("gem", (8,), "float32"))


def test_room_is_asked_for_what_is_there_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    stored = begun(tmp_path / "pass")
    needed: list[int] = []

    def fits(_: Path, size: int) -> None:
        needed.append(size)

    monkeypatch.setattr(parts, "fits", fits)
    parts.share_out(stored, [COLUMN], 3)
    assert needed == [22 * 32 + 22 * 32 // 3]


def full(*_: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_that_fills_leaves_the_rest_to_be_merged_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    stored = begun(tmp_path / "pass")
    path = left_over(stored)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(DataError, match="No space left on device"):
            parts.merge(stored)
    assert path.exists()
    parts.merge(opened(tmp_path / "pass"))
    assert stored.pending(COLUMN) == [0, 2, 4]


def test_maintenance_knows_what_is_not_merged_yet(tmp_path: Path):
    folder = cache.folder_of(tmp_path, "0" * 40)
    path = left_over(begun(folder))
    (entry,) = cache.info(tmp_path)
    assert entry.size == sum(one.stat().st_size for one in folder.rglob("*") if one.is_file())
    assert entry.readouts == {"mean": 0}
    assert cache.verify(tmp_path) == []
    assert not path.exists()
    assert cache.info(tmp_path)[0].readouts == {"mean": 0.5}
    left_over(opened(folder))
    assert cache.clear(tmp_path).passes == 1
    assert not folder.exists()
