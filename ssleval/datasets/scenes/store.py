"""Rendered splits on disk: each is rendered once, by all cores, and then memory-mapped.

A split is a folder of ``.npy`` arrays with one row per item. It is rendered under a lock into a folder beside
its own, which is renamed when complete. So no reader sees half a split and no two processes render the same
one.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ssleval.datasets.scenes.items import SPLITS, item
from ssleval.errors import DataError, UnknownNameError

VERSION = "scenes@1"
_CHUNK = 125
"""Images that one process renders."""
_DONE = "manifest.json"


def open_split(cache: Path, split: str) -> Path:
    """Return the folder of a split inside ``cache``; render it if it is absent, and refuse other pixels."""
    if split not in SPLITS:
        raise UnknownNameError(f"{VERSION}: no split {split!r}; known: {', '.join(SPLITS)}")
    folder = cache / VERSION / split
    if (folder / _DONE).exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not (folder / _DONE).exists():
            unfinished = folder.with_suffix(".partial")
            shutil.rmtree(unfinished, ignore_errors=True)
            sha256, expected = render_split(unfinished, split, SPLITS[split].length), golden()[split]
            if sha256 != expected:
                raise DataError(
                    f"{VERSION}/{split}: rendered {sha256[:12]}, expected {expected[:12]}; the NumPy of this "
                    "machine computes other pixels: scores would not compare, please report its build"
                )
            (unfinished / _DONE).write_text(json.dumps({"version": VERSION, "sha256": sha256}) + "\n")
            unfinished.rename(folder)
    return folder


@lru_cache(maxsize=64)
def array(folder: Path, name: str) -> np.ndarray:
    """Return one array of a rendered split, memory-mapped, read-only."""
    return np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)


def render_split(folder: Path, split: str, length: int, jobs: int | None = None) -> str:
    """Render the first ``length`` items of a split into ``folder`` and return their `digest_of`.

    Chunks go to processes of their own: a pool would run the caller's main module again.
    """
    folder.mkdir(parents=True)
    for name, value in item(split, 0).items():
        np.lib.format.open_memmap(folder / f"{name}.npy", "w+", value.dtype, (length, *value.shape)).flush()
    starts = range(0, length, _CHUNK)
    with ThreadPoolExecutor(jobs or os.cpu_count()) as threads, _bar() as bar:
        task = bar.add_task(f"rendering {VERSION}/{split}", total=length)
        for count in threads.map(partial(_spawn, folder, split, length), starts):
            bar.advance(task, count)
    return digest_of(folder)


def fill(folder: Path, split: str, first: int, last: int) -> None:
    """Render items ``first`` to ``last - 1`` into their rows of the arrays in ``folder``."""
    arrays = {path.stem: np.load(path, mmap_mode="r+", allow_pickle=False) for path in folder.glob("*.npy")}
    for index in range(first, last):
        for name, value in item(split, index).items():
            arrays[name][index] = value


def digest_of(folder: Path) -> str:
    """Return the sha256 over the arrays of a split: names, types, shapes and content."""
    total = hashlib.sha256()
    for path in sorted(folder.glob("*.npy")):
        values = np.load(path, mmap_mode="r", allow_pickle=False)
        total.update(f"{path.stem}:{values.dtype.str}:{values.shape}".encode())
        for start in range(0, len(values), _CHUNK):
            total.update(np.ascontiguousarray(values[start : start + _CHUNK]).tobytes())
    return total.hexdigest()


@lru_cache(maxsize=1)
def golden() -> Mapping[str, str]:
    """Return the sha256 of every split of this version, which is the same on every machine."""
    return json.loads((Path(__file__).parent / "golden.json").read_text(encoding="utf-8"))[VERSION]


def _spawn(folder: Path, split: str, length: int, first: int) -> int:
    last = min(first + _CHUNK, length)
    paths = [str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-m", "ssleval.datasets.scenes", str(folder), split, str(first), str(last)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise DataError(
            f"{VERSION}/{split}: rendering items {first} to {last - 1} stopped with exit status "
            f"{done.returncode}: {done.stderr.strip()[-300:] or 'killed, perhaps for lack of memory'}"
        )
    return last - first


def _bar() -> Progress:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)
