"""Files of samples: one row per test item, with its id and what the task recorded of it. Imports no torch.

The format is Arrow's file format with LZ4, which `pandas.read_feather` and every Arrow library read. A report
opens thousands of small files: one of 500 items opens five times as fast as Parquet and takes twice the
bytes. Parquet files of earlier versions are still read.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ssleval.core import Samples
from ssleval.core.files import file_sha256
from ssleval.errors import DataError
from ssleval.results.stored import read_bytes

SUFFIX = ".arrow"
_OLDER_SUFFIX = ".parquet"
_MOST_BYTES = 4_000_000_000
_CLUSTER = b"ssleval.cluster"
"""Metadata of the schema: the column that names the cluster of each row, where there is one."""


def save(path: Path, samples: Samples) -> str:
    """Write samples into ``path``; return the sha256 of the file."""
    columns = {name: _column(np.asarray(column)) for name, column in samples.columns.items()}
    batch = pa.record_batch({"id": pa.array(list(samples.ids), pa.string()), **columns})
    if samples.cluster:
        batch = batch.replace_schema_metadata({_CLUSTER: samples.cluster.encode()})
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_file(str(path), batch.schema, options=options) as file:
        file.write_batch(batch)
    return file_sha256(path)


def load(
    paths: Sequence[Path], columns: Collection[str] | None = None, sha256s: Sequence[str] = ()
) -> list[Samples]:
    """Return the samples of each file, or of the Parquet file of an earlier version where it is missing.

    All columns are read, or those of ``columns`` that a file has.

    Raises:
        DataError: a file cannot be read, or its sha256 is not the one in ``sha256s``, where that is not ''.
    """
    files = [_stored(path) for path in paths]
    # Step by step, not file by file: code and data of one step then stay in the processor's cache.
    contents = _each(files, partial(read_bytes, most=_MOST_BYTES), files)
    if any(sha256s):
        _each(files, _check_hash, zip(contents, sha256s, strict=True))
    batches = _each(files, partial(_batch, kept=None if columns is None else ["id", *columns]), contents)
    return _each(files, _samples, batches)


def bytes_of(path: Path) -> int:
    """Return the size of the file; 0 where it is missing."""
    try:
        return _stored(path).stat().st_size
    except OSError:
        return 0


def remove_older(path: Path) -> None:
    """Remove the file that an earlier version wrote in place of ``path``."""
    path.with_suffix(_OLDER_SUFFIX).unlink(missing_ok=True)


def _stored(path: Path) -> Path:
    older = path.with_suffix(_OLDER_SUFFIX)
    return older if not path.exists() and older.exists() else path


def _each(paths: Iterable[Path], step: Callable[[Any], Any], inputs: Iterable[Any]) -> list[Any]:
    """Apply ``step`` to the input of every file; errors name the file."""
    outputs: list[Any] = []
    for path, value in zip(paths, inputs, strict=True):
        try:
            outputs.append(step(value))
        except (OSError, LookupError, ValueError, MemoryError, pa.ArrowException) as error:
            raise DataError(
                f"{path}: samples missing or unreadable ({error}); `ssleval run --force` redoes them"
            ) from error
    return outputs


def _check_hash(pair: tuple[bytes, str]) -> None:
    content, recorded = pair
    if recorded and hashlib.sha256(content).hexdigest() != recorded:
        raise ValueError("not the file that the result was stored with: its sha256 is another")


def _batch(content: bytes, kept: list[str] | None) -> pa.RecordBatch:
    if content.startswith(b"PAR1"):
        import pyarrow.parquet as pq

        return _joined(pq.ParquetFile(pa.BufferReader(content)).read(kept, use_threads=False))
    file = _opened(content)
    needed = None if kept is None else {*kept, _cluster(file.schema)}
    chosen = [place for place, name in enumerate(file.schema.names) if needed is None or name in needed]
    if len(chosen) < len(file.schema.names):
        file = _opened(content, included_fields=chosen)
    return file.get_batch(0) if file.num_record_batches == 1 else _joined(file.read_all())


def _opened(content: bytes, **options: Any) -> Any:
    # For files of a few kilobytes, threads cost more than they save.
    return pa.ipc.open_file(content, options=pa.ipc.IpcReadOptions(use_threads=False, **options))


def _joined(table: pa.Table) -> pa.RecordBatch:
    return table.combine_chunks().to_batches()[0]


def _samples(batch: pa.RecordBatch) -> Samples:
    # Arrow trusts the lengths and offsets in a file: without this check, a broken one crashes the process.
    batch.validate(full=True)
    names = [name for name in batch.schema.names if name != "id"]
    columns, cluster = {name: _array(batch.column(name)) for name in names}, _cluster(batch.schema)
    if cluster and cluster not in columns:
        raise LookupError(f"clusters are in a column {cluster!r} that it lacks")
    return Samples(_ids(batch.column("id")), columns, cluster)


def _cluster(schema: Any) -> str:
    return (schema.metadata or {}).get(_CLUSTER, b"").decode()


def _ids(array: Any) -> tuple[str, ...]:
    # Results of one board have the same ids: comparing is cheaper than converting, and takes no memory.
    for known, ids in tuple(_LATEST_IDS):
        if array.equals(known):
            return ids
    if array.type != pa.string() or array.null_count:
        raise ValueError("ids that are no texts")
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
    # Like `to_numpy`, which would import pandas: that takes as long as reading a thousand files.
    complete = len(flat) and not flat.null_count
    if complete and isinstance(flat, pa.BooleanArray):
        bits = np.frombuffer(flat.buffers()[1], np.uint8)
        return np.unpackbits(bits, count=flat.offset + len(flat), bitorder="little")[flat.offset :].view(bool)
    if complete and isinstance(flat, pa.NumericArray):
        return np.from_dlpack(flat)
    return flat.to_numpy(zero_copy_only=False)
