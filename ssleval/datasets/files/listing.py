"""Images in class folders, listed once: a later start trusts folders that did not change.

A file rewritten in place changes no folder. Its size is therefore compared when it is read, and the sizes of
all files before stored features or results count (`Split.refuse_changed`).
"""

import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from stat import S_ISREG
from typing import Any

import numpy as np
from jaxtyping import Int64

from ssleval.core import DatasetOptions, Split
from ssleval.datasets.files import index
from ssleval.datasets.files.images import (
    EXTENSIONS,
    ImageFiles,
    class_files,
    file_rows,
    file_split,
    fingerprint,
)
from ssleval.datasets.files.names import Names
from ssleval.errors import DataError

_LOOKED_AT = 100
"""Files whose size is compared before a listing is used."""
_CALLS, _AT_ONCE = 16, 4096
"""Threads that ask for sizes, and files of one task."""


@dataclass(frozen=True, slots=True)
class ClassListing:
    """The images of one split."""

    paths: Names
    split: Callable[[], Split]


def list_classes(root: Path, names: Sequence[str], options: DatasetOptions) -> ClassListing:
    """Return the images in the class folders ``names`` as `class_files` does, from the cache where it can.

    With ``options.full_hash`` nothing that was stored is used, and it is removed.
    """
    kept = index.Kept(options, "class folders", EXTENSIONS, os.path.abspath(root), names)  # noqa: PTH100
    if options.full_hash:
        paths, labels = class_files(root, names)
        return ClassListing(paths, partial(file_split, root, paths, labels, full_hash=True))
    if (stored := kept.read(partial(_stored, root, len(names), kept.drop))) is not None:
        return stored
    marks = list[index.Mark]()
    paths, labels = class_files(root, names, lambda folder: marks.append(index.mark(folder)))
    return ClassListing(paths, partial(_measured, root, paths, labels, partial(kept.write, marks)))


def _measured(root: Path, paths: Names, labels: Int64[np.ndarray, " n"], store: Callable[..., None]) -> Split:
    sizes = array("q")

    def rows() -> Iterator[list[Any]]:
        for (path, size), label in zip(file_rows(root, paths, full_hash=False), labels.tolist(), strict=True):
            sizes.append(size)
            yield [path, size, label]

    split = Split(paths, ImageFiles(root, paths), labels, fingerprint(rows()))
    store([paths], [np.array(sizes, np.int64), np.bincount(labels).astype(np.int64)], split.fingerprint)
    return split


def _stored(
    root: Path, classes: int, forget: Callable[[], None], listing: index.Listing
) -> ClassListing | None:
    (paths,), (sizes, counts) = listing.read()
    unfit = (counts < 1) | (counts > len(paths))
    if len(counts) != classes or unfit.any() or not counts.sum() == len(sizes) == len(paths):
        raise ValueError("its columns do not fit together")
    files = ListedFiles(root, paths, sizes, forget)
    # Where many files were rewritten, a look at some saves the user an error later.
    if any(files.changed(range(row, row + 1)) for row in range(0, len(paths), 1 + len(paths) // _LOOKED_AT)):
        return None
    labels, check = np.repeat(np.arange(classes), counts), files.refuse_changed
    split = Split(paths, files, labels, listing.fingerprint, refuse_changed=check)
    return ClassListing(paths, lambda: split)


@dataclass(frozen=True, slots=True)
class ListedFiles(ImageFiles):
    """Files of a stored listing; reading one that was rewritten in place is a DataError."""

    sizes: Int64[np.ndarray, " n"]
    forget: Callable[[], None]
    """Removes the listing."""
    unchanged: bool = False
    """Whether all were looked at."""

    def path(self, index: int) -> Path:
        """Return the path of file ``index``, whose size is compared."""
        if self.changed(range(index, index + 1)):
            self._refuse(index)
        return self.root / self.paths[index]

    def refuse_changed(self) -> None:
        """Raise DataError where some file is gone or has another size; look at all of them once."""
        starts = range(0, 0 if self.unchanged else len(self.paths), _AT_ONCE)
        # Each call waits for the server of a network file system.
        with ThreadPoolExecutor(_CALLS) as pool:
            parts = pool.map(self.changed, (range(at, min(at + _AT_ONCE, len(self.paths))) for at in starts))
            for row in chain.from_iterable(parts):
                self._refuse(row)
        object.__setattr__(self, "unchanged", True)

    def changed(self, rows: range) -> list[int]:
        """Return the first of ``rows`` whose file is gone, no regular file or of another size."""
        folder = str(self.root)
        for row, path, stated in zip(
            rows, self.paths[rows.start : rows.stop], self.sizes[rows.start : rows.stop].tolist(), strict=True
        ):
            try:
                status = os.stat(f"{folder}/{path}")  # noqa: PTH116
            except OSError:
                return [row]
            if status.st_size != stated or not S_ISREG(status.st_mode):
                return [row]
        return []

    def _refuse(self, row: int) -> None:
        self.forget()
        path = self.root / self.paths[row]
        raise DataError(f"{path}: changed in place since it was listed; run again, which lists all anew")
