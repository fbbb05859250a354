"""One split of a Hugging Face dataset, streamed: read from its files in their order, and never stored."""

import hashlib
import re
import threading
from array import array
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int
from PIL import Image

from ssleval.core import DatasetOptions, Split
from ssleval.datasets.files import index
from ssleval.datasets.files.images import decode, fingerprint
from ssleval.datasets.files.names import Names
from ssleval.errors import ConfigError, DataError

_AT_ONCE = 8
"""Rows that are held at once, beside what the library reads ahead."""


class _Rows(NamedTuple):
    """What is known of every row once all have been read."""

    starts: Int[np.ndarray, " _"]
    """First row of every file, and the number of rows."""
    sizes: Int[np.ndarray, " n"]
    labels: Int[np.ndarray, " n"]
    mark: str


class Stream:
    """The encoded images of a split; can be pickled.

    Every thread reads on where it was, and starts the file of a row anew where it has to go back.
    """

    def __init__(self, name: str, rows: Any, image: str) -> None:
        """Take an undecoded `datasets.IterableDataset` and the name of its image column."""
        self.name, self.rows, self.image = name, rows, image
        self.listed: _Rows | None = None
        self._place = threading.local()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_place"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _place=threading.local())

    def __call__(self, row: int) -> Image.Image:
        """Decode one image to RGB."""
        return decode(self.encoded(row), f"{self.name}[{row}]")

    def encoded(self, row: int) -> bytes:
        """Return the file of one image."""
        assert self.listed is not None
        content = self._read(row, self.listed.starts)
        if len(content) != self.listed.sizes[row]:
            raise DataError(
                f"{self.name}[{row}]: changed since it was listed; run again, which lists all anew"
            )
        return content

    def file(self, number: int) -> Iterator[dict[str, Any]]:
        """Yield the rows of one file."""
        # Not by iterating over it, which in a worker of torch would give this worker's share only.
        part = self.rows.shard(self.rows.num_shards, number)
        try:
            for rows in part.iter(_AT_ONCE):
                yield from (dict(zip(rows, cells, strict=True)) for cells in zip(*rows.values(), strict=True))
        except Exception as error:
            # Not a DataError: --skip-corrupt would take what cannot be reached for damaged images.
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise ConfigError(
                f"{self.name}: the stream broke ({reason}); run again, or without :SPLIT to download the set"
            ) from error

    def _read(self, row: int, starts: Int[np.ndarray, " _"]) -> bytes:
        number = int(np.searchsorted(starts, row, side="right")) - 1
        open_file, position, left = getattr(self._place, "at", (-1, 0, iter(())))
        if open_file != number or position > row:
            position, left = int(starts[number]), self.file(number)
        for at in range(position, row + 1):
            found = next(left, None)
            if found is None:
                raise DataError(f"{self.name}[{at}]: no such row any more; run again, which lists all anew")
            self._place.at = number, at + 1, left
            if at == row:
                return content_of(found[self.image], f"{self.name}[{row}]")
        raise AssertionError(row)


def content_of(cell: Any, place: str) -> bytes:
    """Return the bytes of an undecoded image, which messages call ``place``."""
    if cell is None or (cell["bytes"] is None and not Path(cell["path"] or "").is_file()):
        path = f" {cell['path']!r}" if cell and cell["path"] else ""
        raise DataError(f"{place}: no bytes, and no file{path} of this machine")
    return Path(cell["path"]).read_bytes() if cell["bytes"] is None else cell["bytes"]


def stream_split(stream: Stream, label: str, subject: Sequence[Any] | None, options: DatasetOptions) -> Split:
    """Return the split of a stream, all of which is read once for its sizes and labels.

    ``subject`` names content that never changes, such as a commit of the hub: what was listed is then kept.
    The fingerprint is that of the same rows read from a copy.
    """
    if subject is None or options.full_hash:
        stream.listed = _listed(stream, label, full_hash=options.full_hash)
    else:
        kept = index.Kept(options, *subject)
        stream.listed = kept.read(partial(_stored, stream)) or _listed(stream, label)
        *columns, mark = stream.listed
        kept.write([], [], columns, mark)
    _, _, labels, mark = stream.listed
    return Split(Names(f"{row:06d}" for row in range(len(labels))), stream, labels, mark)


def commit_of(revision: str) -> str | None:
    """Return the revision where it is a whole hash of a commit, whose content never changes."""
    return revision if re.fullmatch(r"[0-9a-f]{40}", revision) else None


def _listed(stream: Stream, label: str, *, full_hash: bool = False) -> _Rows:
    starts, sizes, labels = array("q", [0]), array("q"), array("q")

    def lines() -> Iterator[list[Any]]:
        for number in range(stream.rows.num_shards):
            for found in stream.file(number):
                row, stated = len(sizes), found[label]
                if stated is None or stated < 0:
                    raise DataError(f"{stream.name}[{row}]: has no label; leave such rows out")
                content = content_of(found[stream.image], f"{stream.name}[{row}]")
                sizes.append(len(content))
                labels.append(stated)
                shown = [hashlib.sha256(content).hexdigest()] if full_hash else []
                yield [row, len(content), *shown, stated]
            starts.append(len(sizes))

    mark = fingerprint(lines())
    if not labels:
        raise DataError(f"{stream.name}: no rows")
    # array's integers have numpy's type of C's long long, which is not int64 by name.
    return _Rows(np.array(starts, np.int64), np.array(sizes, np.int64), np.array(labels, np.int64), mark)


def _stored(stream: Stream, listing: index.Listing) -> _Rows:
    _, (starts, sizes, labels) = listing.read()
    ends = [0, len(labels)] if len(starts) else []
    if len(starts) != stream.rows.num_shards + 1 or starts[[0, -1]].tolist() != ends:
        raise ValueError("its files are others")
    if len(sizes) != len(labels) or (starts[1:] < starts[:-1]).any() or sizes.min() < 0 or labels.min() < 0:
        raise ValueError("its columns do not fit together")
    return _Rows(starts, sizes, labels, listing.fingerprint)
