"""What the ranks of a group cost more than one process does: one of them merges the batches of the others.

The bound: a byte that another rank extracted is read, its crc32 is taken, it is written and flushed. A copy
reads, writes and flushes. Of a core's time, a GB took 0.06 s to read from the page cache, 0.24 s for a crc32,
0.2 s to write and 1.3 s to flush to a virtual disk: 1.6 s for a copy, 1.8 s to merge. Where a disk takes a
flush at once, half of the time goes to the crc32, and the ratio is 0.52; the bar is nine tenths of that. A
batch adds some 50 microseconds, for its record.
"""

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from ssleval.features import Shard, parts
from ssleval.features.store import Column, StoredPass

COLUMN = Column("patches-11", (16, 16, 384), "float16")
BATCH = 32
BATCHES = 80
REPEATS = 5
BAR = 0.47
"""Bytes per second, as a part of those that a copy with a flush moves."""


def shared_out(folder: Path) -> StoredPass:
    """Return a pass of which two processes have extracted half each, before merging."""
    rows = np.random.default_rng(0).integers(0, 1000, (BATCH, *COLUMN.row)).astype(COLUMN.dtype)
    stored = StoredPass.begin(folder, {"images": BATCH * BATCHES, "batch_size": BATCH})
    stored.allocate([COLUMN])
    part = parts.join(folder, parts.share_out(stored, [COLUMN], 2), 1)
    for rank, open_writer in enumerate((stored.writer, part.writer)):
        with open_writer([COLUMN]) as writer:
            for batch in Shard(rank, 2).part_of(range(BATCHES)):
                writer.write(COLUMN, batch, rows)
    return stored


def copied(source: Path, target: Path) -> float:
    """Return the seconds of a copy of a file, until it is on the disk."""
    memory = bytearray(BATCH * 16 * 16 * 384 * 2)
    started = time.perf_counter()
    with source.open("rb", buffering=0) as read, target.open("wb", buffering=0) as write:
        while count := read.readinto(memory):
            write.write(memoryview(memory)[:count])
        os.fsync(write.fileno())
    return time.perf_counter() - started


def main() -> int:
    """Print the comparison; return 1 where merging falls short of the bar."""
    ours: list[float] = []
    theirs: list[float] = []
    size = 0
    for _ in range(REPEATS):
        with tempfile.TemporaryDirectory() as folder:
            stored = shared_out(Path(folder) / "pass")
            (path,) = stored.folder.rglob("*.part")
            size = path.stat().st_size
            theirs.append(copied(path, Path(folder) / "copy"))
            started = time.perf_counter()
            parts.merge(stored)
            ours.append(time.perf_counter() - started)
    ratio = statistics.median(bound / own for own, bound in zip(ours, theirs, strict=True))
    speeds = [size / 1e9 / statistics.median(times) for times in (ours, theirs)]
    print(
        f"merge: {speeds[0]:.2f} GB/s, a copy {speeds[1]:.2f}: ratio {ratio:.2f}, bar {BAR:.2f} ({REPEATS} "
        f"interleaved repeats of {size / 1e6:.0f} MB in batches of {BATCH} patch grids)"
    )
    return int(ratio < BAR)


if __name__ == "__main__":
    sys.exit(main())
