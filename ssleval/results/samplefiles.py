"""The samples of one result as a file: a row for each test item, its id and what happened to it.

Arrow's own file format, with LZ4: what `pandas.read_feather` and every Arrow library open. A report opens
thousands of small files, and of one of 500 items this takes a fifth of the time that Parquet does, for twice
the bytes. Parquet, which earlier versions wrote, is read as well. Imports no torch.
"""

from collections import deque
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ssleval.core import Samples
from ssleval.errors import DataError

SUFFIX = ".arrow"
_OLDER_SUFFIX = ".parquet"


def save(path: Path, samples: Samples) -> None:
    """Write samples into ``path``."""
    columns = {name: _column(np.asarray(column)) for name, column in samples.columns.items()}
    batch = pa.record_batch({"id": pa.array(list(samples.ids), pa.string()), **columns})
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_file(str(path), batch.schema, options=options) as file:
        file.write_batch(batch)


def load(paths: Sequence[Path], columns: Collection[str] | None = None) -> list[Samples]:
    """Return the samples of each file, all columns or those of ``columns`` that it has.

    A file of an earlier version stands for a missing one.

    Raises:
        DataError: they are missing or unreadable.
    """
    kept = None if columns is None else {"id", *columns}
    # Step by step, not file by file: what a step works with then stays in a cache.
    stored = _each(paths, lambda path: _newest(path, Path.read_bytes), paths)
    batches = _each(paths, partial(_batch, kept=kept), stored)
    return _each(paths, _samples, batches)


def bytes_of(path: Path) -> int:
    """Return how large the file is; 0 where it is missing, which loading it says."""
    try:
        return _newest(path, lambda one: one.stat().st_size)
    except OSError:
        return 0


def remove_older(path: Path) -> None:
    """Remove what an earlier version wrote where ``path`` now is."""
    path.with_suffix(_OLDER_SUFFIX).unlink(missing_ok=True)


def _newest(path: Path, what: Callable[[Path], Any]) -> Any:
    """Return ``what`` of a file, or of that which an earlier version wrote."""
    try:
        return what(path)
    except FileNotFoundError:
        return what(path.with_suffix(_OLDER_SUFFIX))


def _each(paths: Sequence[Path], step: Callable[[Any], Any], given: Sequence[Any]) -> list[Any]:
    done: list[Any] = []
    for path, one in zip(paths, given, strict=True):
        try:
            done.append(step(one))
        except (OSError, LookupError, ValueError, MemoryError, pa.ArrowException) as error:
            older = path.with_suffix(_OLDER_SUFFIX)
            named = older if older.exists() and not path.exists() else path
            raise DataError(
                f"{named}: samples missing or unreadable ({error}); `ssleval run --force` redoes them"
            ) from error
    return done


def _batch(stored: bytes, kept: Collection[str] | None) -> pa.RecordBatch:
    if stored.startswith(b"PAR1"):
        return _batch_of_parquet(stored, kept)
    file = _opened(stored)
    chosen = [row for row, name in enumerate(file.schema.names) if kept is None or name in kept]
    if len(chosen) < len(file.schema.names):
        file = _opened(stored, included_fields=chosen)
    return file.get_batch(0) if file.num_record_batches == 1 else _joined(file.read_all())


def _opened(stored: bytes, **options: Any) -> Any:
    # Threads cost more than they save in files of a few kilobytes.
    return pa.ipc.open_file(
        pa.BufferReader(stored), options=pa.ipc.IpcReadOptions(use_threads=False, **options)
    )


def _batch_of_parquet(stored: bytes, kept: Collection[str] | None) -> pa.RecordBatch:
    import pyarrow.parquet as pq

    columns = None if kept is None else list(kept)
    return _joined(pq.ParquetFile(pa.BufferReader(stored)).read(columns, use_threads=False))


def _joined(table: pa.Table) -> pa.RecordBatch:
    return table.combine_chunks().to_batches()[0]


def _samples(batch: pa.RecordBatch) -> Samples:
    # A broken file may say anything of its lengths and places, and Arrow goes there: the process would end.
    batch.validate(full=True)
    names = [name for name in batch.schema.names if name != "id"]
    return Samples(_ids(batch.column("id")), {name: _array(batch.column(name)) for name in names})


def _ids(array: Any) -> tuple[str, ...]:
    # Results of one board have the same ids: those after the first cost a comparison, and no memory.
    for known, ids in tuple(_LATEST_IDS):
        if array.equals(known):
            return ids
    _LATEST_IDS.appendleft((array, ids := tuple(array.to_pylist())))
    return ids


_LATEST_IDS: deque[tuple[Any, tuple[str, ...]]] = deque(maxlen=4)


def _column(array: np.ndarray) -> pa.Array:
    column = pa.array(array.reshape(-1))
    for width in reversed(array.shape[1:]):
        column = pa.FixedSizeListArray.from_arrays(column, width)
    return column


def _array(flat: Any) -> np.ndarray:
    shape = [len(flat)]
    while isinstance(flat, pa.FixedSizeListArray):
        shape.append(flat.type.list_size)
        flat = flat.flatten()
    return _flat_array(flat).reshape(shape)


def _flat_array(flat: Any) -> np.ndarray:
    # As `to_numpy` does, which would import pandas: as long as reading a thousand files.
    whole = len(flat) and not flat.null_count
    if whole and isinstance(flat, pa.BooleanArray):
        bits = np.frombuffer(flat.buffers()[1], np.uint8)
        return np.unpackbits(bits, count=flat.offset + len(flat), bitorder="little")[flat.offset :].view(bool)
    if whole and isinstance(flat, pa.NumericArray):
        return np.from_dlpack(flat)
    return flat.to_numpy(zero_copy_only=False)
