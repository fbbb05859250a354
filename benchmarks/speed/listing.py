"""The second start on a large set against the first, of ``folder:`` and of ``wds:``, up to the fingerprints.

The bound of the first start: a call of the system for each folder and one for the size of each file (2 us
with Python's part), 70 bytes of JSON hashed for each image; of shards, 1,024 bytes of headers read for each
image and parsed by tarfile (50 us). The second start asks for the times of each folder or shard and reads
what was stored, 40 bytes an image. Folders do not tell of files rewritten in place: before stored features
count, the size of each file is asked for again, a quarter of the first start, which is printed beside it.
"""

import io
import shutil
import statistics
import sys
import tarfile
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from PIL import Image

from benchmarks.large_folder import make_folder
from ssleval.core import DatasetOptions, Split
from ssleval.datasets.catalog import open_dataset
from ssleval.datasets.files.index import RECENT

IMAGES, SHARDS, REPEATS = 100_000, 100, 3
BAR = 0.1
"""Of the first start, at most."""


class Starts(NamedTuple):
    """Seconds of one turn."""

    first: float
    second: float
    sizes: float
    """To compare the sizes of all files after the second."""
    same: bool
    """Whether both gave the same fingerprints, the second from what was stored."""


def make_shards(folder: Path) -> None:
    """Write as many images into shards to train on, and one shard to test on."""
    content = io.BytesIO()
    Image.new("RGB", (8, 8)).save(content, "JPEG")
    each = IMAGES // SHARDS
    for split, count in (("train", SHARDS), ("test", 1)):
        (folder / split).mkdir(parents=True)
        for number in range(count):
            with tarfile.open(folder / split / f"{number:05d}.tar", "w") as archive:
                for item in range(each):
                    for extension, part in (("jpg", content.getvalue()), ("cls", str(item % 1000).encode())):
                        member = tarfile.TarInfo(f"{number:05d}{item:05d}.{extension}")
                        member.size = len(part)
                        archive.addfile(member, io.BytesIO(part))


def opened(name: str, cache: Path) -> tuple[float, list[Split]]:
    """Return the seconds to open all splits, and the splits."""
    start = time.perf_counter()
    dataset = open_dataset(name, DatasetOptions(cache=cache))
    splits = [dataset.split(split) for split in dataset.card.lengths]
    return time.perf_counter() - start, splits


def starts(name: str, cache: Path) -> Starts:
    """Open a set with an empty cache, then again."""
    shutil.rmtree(cache, ignore_errors=True)
    first, listed = opened(name, cache)
    second, stored = opened(name, cache)
    start = time.perf_counter()
    for split in stored:
        if split.refuse_changed is not None:
            split.refuse_changed()
    same = [split.fingerprint for split in listed] == [split.fingerprint for split in stored]
    kept = len(list((cache / "listings").iterdir())) == len(stored)
    return Starts(first, second, time.perf_counter() - start, same and kept)


def main() -> int:
    """Print times and ratios with their bars; return 1 when one falls short."""
    with TemporaryDirectory() as folder:
        base = Path(folder)
        make_folder(base / "images", IMAGES)
        make_shards(base / "shards")
        # What changed just now is not stored.
        time.sleep(RECENT / 1e9 + 0.1)
        names = {"folder": f"folder:{base / 'images'}", "wds": f"wds:{base / 'shards'}"}
        turns = {kind: [starts(name, base / "cache") for _ in range(REPEATS)] for kind, name in names.items()}
    return max([report(kind, times) for kind, times in turns.items()])


def report(kind: str, times: list[Starts]) -> int:
    """Print one kind of set; return 1 where it falls short."""
    first, second, sizes = (statistics.median(one[part] for one in times) for part in range(3))
    ratio = statistics.median(one.second / one.first for one in times)
    print(f"listing: {kind:6} {IMAGES:,} images: first {first:.3f} s, second {second:.3f} s")
    print(f"listing: {kind:6} second / first: {ratio:.3f}, bar {BAR} at most")
    if kind == "folder":
        print(f"listing: {kind:6} sizes of all files: {sizes:.3f} s, {sizes / first:.2f} of the first")
    same = all(one.same for one in times)
    print(f"listing: {kind:6} the same fingerprints, from what was stored: {'yes' if same else 'no'}")
    return int(ratio > BAR or not same)


if __name__ == "__main__":
    sys.exit(main())
