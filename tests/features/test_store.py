import errno
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from socket import gethostname

import numpy as np
import pytest

from ssleval.core import Readout
from ssleval.errors import ConfigError, DataError
from ssleval.features import FeatureSource, cache, store
from ssleval.features.arrays import RowFile
from ssleval.features.store import Column, StoredPass, Writer
from tests.features.feature_fakes import (
    CLS,
    GEM,
    MEAN,
    PATCHES,
    POOLED,
    Noise,
    Tiny,
    context_of,
    dataset_of,
    request_of,
    split_of,
)
from tests.features.feature_processes import finish, full, gated, memory, shard, slow, start

COLUMN = Column("mean", (8,), "float32")
ROWS = np.arange(64, dtype=np.float32).reshape(8, 8)


def features(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file of every pass but its description, which holds the time."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("features/*/*.npy"))}


def empty(path: Path) -> None:
    path.write_bytes(b"")


def lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def extracted(folder: Path, *readouts: Readout, n: int = 10, **changes: object) -> Tiny:
    backbone = Tiny()
    context = context_of(folder, **changes)
    FeatureSource(backbone, context).prepare([request_of(dataset_of(split_of(n)), *readouts)])
    return backbone


def stored(folder: Path) -> StoredPass:
    (path,) = folder.glob("features/*")
    found = StoredPass.open(path)
    assert found is not None
    return found


def test_killed_three_times_equals_uninterrupted_bit_for_bit(tmp_path: Path):
    log = tmp_path / "forwards"
    for kill in range(1, 4):
        process = start(slow, tmp_path)
        while lines(log) < 10 * kill:
            assert process.is_alive()
            time.sleep(0.002)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    finish(start(slow, tmp_path))
    extracted(tmp_path / "whole", MEAN, PATCHES, n=160)
    assert features(tmp_path) == features(tmp_path / "whole")
    # 40 batches, two of the probe, and for every kill at most the one it was at and the one being written.
    assert 42 <= lines(log) <= 42 + 2 * 3


def test_two_processes_share_one_cache(tmp_path: Path):
    first = start(gated, tmp_path, tmp_path / "first")
    while lines(tmp_path / "forwards") < 2:
        assert first.is_alive()
        time.sleep(0.002)
    second = start(gated, tmp_path, tmp_path / "second")
    while not lines(tmp_path / "second"):
        assert second.is_alive()
        time.sleep(0.002)
    waiting = "ssleval: waiting for another process that extracts tiny on noise/train (pass "
    assert (tmp_path / "second").read_text().startswith(waiting)
    (tmp_path / "go").touch()
    finish(first, second)
    assert lines(tmp_path / "first") == 0
    # Ten batches, and two that each process shows the model again.
    assert lines(tmp_path / "forwards") == 10 + 4


def test_two_ranks_equal_one_process_bit_for_bit(tmp_path: Path):
    finish(*[start(shard, tmp_path, rank) for rank in range(2)])
    # Three batches of six each, and two of the probe, once for each readout.
    assert [(tmp_path / f"rank{rank}").read_text() for rank in range(2)] == ["10 22", "10 0"]
    first, second = ((tmp_path / f"refusals{rank}").read_text().splitlines() for rank in range(2))
    refused = "tiny on noise/train: mean-2 of image_0.jpg differs by 50.0% from what is stored"
    assert first == second
    assert first[0].startswith(f"rank 1 on {gethostname()}: {refused}")
    assert "rank 1 on" in first[1]
    assert "has attributes_sha256" in first[1]
    extracted(tmp_path / "whole", MEAN, PATCHES, n=22)
    assert features(tmp_path) == features(tmp_path / "whole")


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path):
    for n in (500, 4000):
        finish(start(memory, tmp_path, n))
    few, many = (int((tmp_path / f"kib{n}").read_text()) for n in (500, 4000))
    assert many - few < 30_000  # KiB; the features of 3,500 images more are 112,000


def test_the_store_adds_next_to_nothing(tmp_path: Path):
    extracted(tmp_path, POOLED, PATCHES, n=400)
    size = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert size - 400 * (8 * 4 + 16 * 8 * 2) < 2048 * 400 / 50


def test_a_full_disk_is_one_line_and_can_be_resumed(tmp_path: Path):
    finish(start(full, tmp_path))
    message = (tmp_path / "error").read_text()
    assert "free space or choose another cache folder" in message
    assert "\n" not in message
    extracted(tmp_path, MEAN, PATCHES, n=160)
    extracted(tmp_path / "whole", MEAN, PATCHES, n=160)
    assert features(tmp_path) == features(tmp_path / "whole")


def begun(folder: Path, images: int = 8) -> StoredPass:
    one = StoredPass.begin(folder, {"images": images, "batch_size": 4})
    one.allocate([COLUMN])
    return one


def reopened(folder: Path) -> StoredPass:
    one = StoredPass.open(folder)
    assert one is not None
    one.allocate([COLUMN])
    return one


def test_a_disk_that_fills_midway_keeps_what_was_written(tmp_path: Path):
    one = begun(tmp_path / "pass")
    with one.writer([COLUMN]) as writer:
        writer.write(COLUMN, 0, ROWS[:4])
    full_disk = os.open("/dev/full", os.O_WRONLY)
    journal = os.open(one.journal(COLUMN).path, os.O_RDWR)
    writer = Writer(one, {one.data(COLUMN).path: full_disk, one.journal(COLUMN).path: journal})
    with pytest.raises(DataError, match=r"mean.npy: No space left on device; .*extracted so far are kept"):
        writer.write(COLUMN, 1, ROWS[4:])
    os.close(full_disk)
    os.close(journal)
    assert reopened(tmp_path / "pass").pending(COLUMN) == [1]


@pytest.mark.parametrize("lost", [False, True])
def test_unflushed_rows_count_only_where_they_are_whole(tmp_path: Path, lost: bool):
    one = begun(tmp_path / "pass")
    files = [one.data(COLUMN).path, one.journal(COLUMN).path]
    descriptors = {path: os.open(path, os.O_RDWR) for path in files}
    writer = Writer(one, descriptors)
    for batch in range(2):
        writer.write(COLUMN, batch, ROWS[4 * batch :][:4])
    assert one.pending(COLUMN) == [0, 1]
    if lost:
        one.data(COLUMN).write(descriptors[files[0]], 5, np.zeros((1, 8), dtype=np.float32))
    for descriptor in descriptors.values():
        os.close(descriptor)
    assert reopened(tmp_path / "pass").pending(COLUMN) == ([1] if lost else [])


@pytest.mark.parametrize(("seconds", "left"), [(0, []), (60, [0, 1])])
def test_the_disk_is_waited_for_from_time_to_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, left: list[int]
):
    monkeypatch.setattr("ssleval.features.store.SYNC_SECONDS", seconds)
    one = begun(tmp_path / "pass")
    with one.writer([COLUMN]) as writer:
        for batch in range(2):
            writer.write(COLUMN, batch, ROWS[4 * batch :][:4])
        assert one.pending(COLUMN) == left
    assert one.pending(COLUMN) == []


def test_too_little_room_is_said_before_anything_is_extracted(tmp_path: Path):
    one = begun(tmp_path / "pass")
    with pytest.raises(DataError, match=r"features need \d+\.\d\d GB"):
        one.allocate([Column("patches", (1 << 20, 1 << 20), "float16")])


@pytest.mark.parametrize("rows_left", [0, 3, 4, 9])
def test_a_truncated_file_is_noticed_at_once(tmp_path: Path, rows_left: int):
    extracted(tmp_path / "whole", MEAN, GEM)
    extracted(tmp_path, MEAN, GEM)
    (path,) = tmp_path.glob("features/*/mean-2.npy")
    os.truncate(path, 128 + rows_left * 32)
    backbone = extracted(tmp_path, MEAN, GEM)
    assert [size for size, _ in backbone.calls] == [4, 4, 2][rows_left // 4 :]
    assert features(tmp_path) == features(tmp_path / "whole")


@pytest.mark.parametrize("name", ["mean-2.npy", "mean-2.journal.npy", "pass.json"])
@pytest.mark.parametrize("harm", [Path.unlink, empty], ids=["gone", "empty"])
def test_a_lost_file_is_extracted_again_or_said(tmp_path: Path, name: str, harm: Callable[[Path], object]):
    extracted(tmp_path / "whole", MEAN)
    extracted(tmp_path, MEAN)
    (path,) = tmp_path.glob(f"features/*/{name}")
    harm(path)
    if path.exists() and name == "pass.json":
        with pytest.raises(DataError, match=r"pass.json: damaged"):
            extracted(tmp_path, MEAN)
        return
    assert len(extracted(tmp_path, MEAN).calls) == 3
    assert features(tmp_path) == features(tmp_path / "whole")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[128 + 32 * 5] ^= 1
    path.write_bytes(content)


def zero(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:128].ljust(path.stat().st_size, b"\0"))


def twos(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:128].ljust(path.stat().st_size, b"\2"))


@pytest.mark.parametrize(
    ("name", "harm", "message"),
    [
        ("mean-2.npy", flip, r"mean-2.npy: damaged: rows 4..7 differ from their checksum"),
        ("mean-2.npy", zero, r"mean-2.npy: damaged: rows 0..3 differ from their checksum"),
        ("valid.npy", zero, r"valid.npy: damaged: rows 0..3 mark other images than have features"),
        ("valid.npy", twos, r"valid.npy: damaged \(a mark that is neither 0 nor 1\)"),
        ("mean-2.journal.npy", twos, r"mean-2.npy: damaged: rows 0..3 differ from their checksum"),
    ],
)
def test_damaged_bytes_are_never_scored(
    tmp_path: Path, name: str, harm: Callable[[Path], object], message: str
):
    extracted(tmp_path / "whole", MEAN)
    extracted(tmp_path, MEAN)
    request = request_of(dataset_of(split_of(10)), MEAN)
    reading = FeatureSource(Tiny(), context_of(tmp_path, skip_corrupt=True))
    harm(stored(tmp_path).folder / name)
    store._CHECKED.clear()  # as in another process
    for use in (reading.load, reading.prepare):
        with pytest.raises(DataError, match=f"{message}.*cache verify"):
            use(request) if use == reading.load else use([request])  # pyright: ignore[reportArgumentType]
    assert cache.verify(tmp_path)
    extracted(tmp_path, MEAN)
    assert features(tmp_path) == features(tmp_path / "whole")


def test_wrong_marks_leave_out_no_image_of_another_readout(tmp_path: Path):
    extracted(tmp_path, MEAN)
    zero(stored(tmp_path).folder / "valid.npy")
    store._CHECKED.clear()
    with pytest.raises(DataError, match="mark other images than have features"):
        extracted(tmp_path, GEM, skip_corrupt=True)


def test_a_file_is_compared_with_its_checksums_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    extracted(tmp_path, MEAN)
    lengths: list[int] = []

    def counted(data: memoryview) -> int:
        lengths.append(len(data))
        return 0

    monkeypatch.setattr(store, "crc32", counted)
    one, (column,) = stored(tmp_path), stored(tmp_path).columns()
    one.check(column)
    assert lengths == []
    store._CHECKED.clear()
    with pytest.raises(DataError, match="damaged"):
        one.check(column)
    assert lengths == [4 * 32]


@pytest.mark.parametrize(
    "harm",
    [
        '{"images": 10}',
        "[]",
        "nul\0",
        '"\\u0000"',
        "[" * 100_000,
        {"images": -1},
        {"batch_size": 0},
        {"batch_size": "4"},
        {"columns": []},
        {"columns": {"../mean-2": {"row": [8], "dtype": "float32"}}},
        {"columns": {"mean-2\0": {"row": [8], "dtype": "float32"}}},
        {"columns": {"mean-2": {"row": [8], "dtype": "object"}}},
        {"columns": {"mean-2": {"row": [-8], "dtype": "float32"}}},
        {"columns": {"mean-2": {"dtype": "float32"}}},
        {"created": "yesterday"},
        {"identity": {"dataset": ["noise", "train", "f", 10]}},
        {"identity": "gone"},
        {"model": None},
    ],
    ids=str,
)
def test_a_damaged_description_is_one_line_everywhere(tmp_path: Path, harm: str | dict[str, object]):
    for n in (10, 11):
        extracted(tmp_path, MEAN, n=n)
    (path,) = (path for path in tmp_path.glob("features/*/pass.json") if '"images": 10' in path.read_text())
    path.write_text(harm if isinstance(harm, str) else json.dumps(json.loads(path.read_text()) | harm))
    with pytest.raises(DataError) as caught:
        extracted(tmp_path, MEAN)
    assert "damaged" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    entries, errors, found = cache.info(tmp_path), cache.damaged(tmp_path), cache.verify(tmp_path)
    assert [entry.images for entry in entries] == [11]
    assert [str(error)[: len(str(path))] for error in errors] == [str(path)]
    assert [(damage.column, list(damage.rows)) for damage in found] == [("pass.json", [])]
    assert len(extracted(tmp_path, MEAN).calls) == 3


def test_a_pass_without_marks_is_removed_by_verify_and_extracted_again(tmp_path: Path):
    extracted(tmp_path, MEAN)
    (stored(tmp_path).folder / "valid.npy").write_bytes(b"\x93NUMPY")
    assert [damage.column for damage in cache.verify(tmp_path)] == ["valid.npy"]
    assert cache.info(tmp_path) == []
    assert len(extracted(tmp_path, MEAN).calls) == 3


@pytest.mark.parametrize(
    ("place", "named"),
    [
        ("pathlib.Path.mkdir", ".lock"),
        ("os.pwrite", "valid.npy"),
        ("os.fsync", "valid.npy"),
        ("secrets.token_hex", "pass.json"),
        ("filelock.BaseFileLock.acquire", ".lock"),
    ],
)
def test_a_full_disk_names_the_file_wherever_it_strikes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, named: str
):
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "locks").mkdir()
    monkeypatch.setattr(place, fail)
    with pytest.raises(DataError, match=rf"{named}.*No space left on device"):
        extracted(tmp_path, MEAN)


def test_verify_finds_a_flipped_bit_and_only_that_batch_is_redone(tmp_path: Path):
    extracted(tmp_path, MEAN, PATCHES)
    whole = features(tmp_path)
    assert cache.verify(tmp_path) == []
    (path,) = tmp_path.glob("features/*/mean-2.npy")
    flip(path)
    (damage,) = cache.verify(tmp_path)
    assert (damage.column, damage.batch, damage.rows) == ("mean-2", 1, range(4, 8))
    assert cache.verify(tmp_path) == []
    assert [size for size, _ in extracted(tmp_path, MEAN, PATCHES).calls] == [4]
    assert features(tmp_path) == whole


def test_verify_finds_a_truncated_file_and_wrong_marks(tmp_path: Path):
    extracted(tmp_path, MEAN)
    one = stored(tmp_path)
    one.mark(2, np.zeros(1, dtype=bool))
    os.truncate(one.folder / "mean-2.npy", 128 + 9 * 32)
    assert [(found.column, found.batch) for found in cache.verify(tmp_path)] == [("valid", 0), ("mean-2", 2)]
    assert one.valid().all()
    assert one.pending(Column("mean-2", (8,), "float32")) == [2]


def test_verify_accepts_images_left_out(tmp_path: Path):
    source = FeatureSource(Tiny(), context_of(tmp_path, skip_corrupt=True))
    source.prepare([request_of(dataset_of(split_of(10, Noise(corrupt=(5,)))), MEAN, PATCHES)])
    assert cache.verify(tmp_path) == []
    assert stored(tmp_path).valid().tolist() == [row != 5 for row in range(10)]
    assert np.isnan(np.load(stored(tmp_path).folder / "mean-2.npy")[5]).all()


def test_info_lists_passes_and_how_much_of_them_is_done(tmp_path: Path):
    assert cache.info(tmp_path) == []
    extracted(tmp_path, MEAN, GEM)
    stored(tmp_path).forget(Column("gem-2", (8,), "float32"), 0)
    (entry,) = cache.info(tmp_path)
    assert (entry.model, entry.dataset, entry.split, entry.images) == ("tiny", "noise", "train", 10)
    assert entry.readouts == {"mean-2": 1, "gem-2": pytest.approx(2 / 3)}
    assert not entry.complete
    assert entry.size == sum(path.stat().st_size for path in tmp_path.glob("features/*/*"))
    extracted(tmp_path, GEM)
    assert cache.info(tmp_path)[0].complete


def test_clear_leaves_what_is_being_written(tmp_path: Path):
    for precision in ("fp32", "bf16"):
        extracted(tmp_path, MEAN, precision=precision)
    busy = cache.info(tmp_path)[0].key
    with cache.lock(tmp_path, busy):
        freed = cache.clear(tmp_path)
    assert (freed.passes, freed.busy) == (1, 1)
    assert [entry.key for entry in cache.info(tmp_path)] == [busy]
    assert cache.clear(tmp_path).passes == 1
    assert cache.info(tmp_path) == []
    assert cache.clear(tmp_path) == cache.Freed(0, 0, 0)


def test_prune_removes_what_was_unused_for_longest(tmp_path: Path):
    for n in (10, 11, 12):
        extracted(tmp_path, MEAN, n=n)
    entries = {entry.images: entry for entry in cache.info(tmp_path)}
    for age, n in enumerate((11, 12, 10)):
        os.utime(cache.folder_of(tmp_path, entries[n].key) / "pass.json", (1e9 - age, 1e9 - age))
    source = FeatureSource(Tiny(), context_of(tmp_path))
    source.load(request_of(dataset_of(split_of(12)), MEAN))
    assert [entry.images for entry in cache.info(tmp_path)] == [12, 11, 10]
    total = sum(entry.size for entry in entries.values())
    assert cache.prune(tmp_path, total).passes == 0
    freed = cache.prune(tmp_path, total - 1)
    assert (freed.passes, freed.size) == (1, entries[10].size)
    with cache.lock(tmp_path, entries[11].key):
        freed = cache.prune(tmp_path, entries[11].size)
    assert (freed.passes, freed.busy) == (1, 1)
    assert [entry.images for entry in cache.info(tmp_path)] == [11]
    assert cache.prune(tmp_path, 0).passes == 1
    with pytest.raises(ConfigError, match="must not be negative"):
        cache.prune(tmp_path, -1)


def test_maps_outlive_their_files(tmp_path: Path):
    source = FeatureSource(Tiny(), context_of(tmp_path))
    request = request_of(dataset_of(split_of(10)), CLS, POOLED)
    table = source.load(request)
    before = np.array(table[CLS])
    cache.clear(tmp_path)
    np.testing.assert_array_equal(table[CLS], before)
    np.testing.assert_array_equal(source.load(request)[CLS], before)


def test_files_are_those_of_numpy(tmp_path: Path):
    values = np.random.default_rng(0).random((5, 2, 3)).astype(np.float16)
    file = RowFile(tmp_path / "ours.npy", values.shape, "float16")
    file.allocate()
    with file.path.open("r+b") as opened:
        file.write(opened.fileno(), 2, values[2:])
        file.write(opened.fileno(), 0, values[:2])
    np.save(tmp_path / "theirs.npy", values)
    assert file.path.read_bytes() == (tmp_path / "theirs.npy").read_bytes()
    np.testing.assert_array_equal(file.read_rows(range(1, 4)), values[1:4])
