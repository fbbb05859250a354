import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ssleval.core import Samples
from ssleval.errors import DataError
from ssleval.results import samplefiles

IDS = [f"a/{number:03d}.jpg" for number in range(37)]
SAMPLES = Samples(
    IDS,
    {
        "top1": np.arange(37) % 3 == 0,
        "label": np.arange(37) % 5,
        "small": np.arange(37, dtype=np.uint8),
        "error": np.linspace(0, 1, 37, dtype=np.float32),
        "known": np.where(np.arange(37) % 2, np.nan, 1.0),
        "overlap": np.arange(74, dtype=np.float64).reshape(37, 2),
        "seen": (np.arange(37 * 6) % 4 == 0).reshape(37, 2, 3),
        "kind": np.array(["plain", "curled", ""] * 12 + ["plain"], dtype=object),
    },
)


def saved(folder: Path) -> Path:
    samplefiles.save(folder / "m.arrow", SAMPLES)
    return folder / "m.arrow"


def assert_same(found: Samples, wanted: Samples) -> None:
    assert list(found.ids) == list(wanted.ids)
    assert set(found.columns) == set(wanted.columns)
    for name, column in wanted.columns.items():
        np.testing.assert_array_equal(found[name], column)
        assert found[name].dtype == column.dtype


def test_samples_come_back_as_they_were(tmp_path: Path) -> None:
    (found,) = samplefiles.load([saved(tmp_path)])
    assert_same(found, SAMPLES)


def test_no_items_come_back_as_none(tmp_path: Path) -> None:
    none = Samples([], {name: column[:0] for name, column in SAMPLES.columns.items()})
    samplefiles.save(tmp_path / "m.arrow", none)
    (found,) = samplefiles.load([tmp_path / "m.arrow"])
    assert_same(found, none)


def test_pandas_opens_the_file(tmp_path: Path) -> None:
    table = pd.read_feather(saved(tmp_path))
    assert table["id"].tolist() == IDS
    np.testing.assert_array_equal(table["top1"], SAMPLES["top1"])


def test_a_file_of_several_batches_is_one_set_of_samples(tmp_path: Path) -> None:
    path = saved(tmp_path)
    batch = pa.ipc.open_file(path.read_bytes()).get_batch(0)
    with pa.ipc.new_file(str(path), batch.schema) as file:
        file.write_batch(batch.slice(0, 20))
        file.write_batch(batch.slice(20))
    (found,) = samplefiles.load([path])
    assert_same(found, SAMPLES)


def test_the_column_of_clusters_is_kept_and_always_read(tmp_path: Path) -> None:
    path = tmp_path / "m.arrow"
    samplefiles.save(path, replace(SAMPLES, cluster="kind"))
    (found,) = samplefiles.load([path])
    assert_same(found, SAMPLES)
    assert found.cluster == "kind"
    (found,) = samplefiles.load([path], ["top1"])
    assert_same(found, Samples(IDS, {name: SAMPLES[name] for name in ("top1", "kind")}))
    assert found.cluster == "kind"
    assert pd.read_feather(path)["id"].tolist() == IDS
    # A file of an earlier version names no clusters.
    (found,) = samplefiles.load([saved(tmp_path)])
    assert found.cluster == ""


def test_clusters_in_a_column_that_is_missing_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.arrow"
    samplefiles.save(path, replace(SAMPLES, cluster="kind"))
    batch = pa.ipc.open_file(path.read_bytes()).get_batch(0)
    fewer = batch.select(["id", "top1"])
    with pa.ipc.new_file(str(path), fewer.schema) as file:
        file.write_batch(fewer.slice(0, 20))
        file.write_batch(fewer.slice(20))
    with pytest.raises(DataError, match="a column 'kind' that it lacks"):
        samplefiles.load([path])


def test_values_that_are_missing_become_nan(tmp_path: Path) -> None:
    path = tmp_path / "m.arrow"
    batch = pa.record_batch({"id": ["a", "b"], "error": [1.5, None]})
    with pa.ipc.new_file(str(path), batch.schema) as file:
        file.write_batch(batch)
    (found,) = samplefiles.load([path])
    np.testing.assert_array_equal(found["error"], [1.5, np.nan])


def as_before(path: Path, samples: Samples) -> None:
    columns = {name: samplefiles._column(column) for name, column in samples.columns.items()}
    pq.write_table(pa.table({"id": list(samples.ids), **columns}), path.with_suffix(".parquet"))


def test_what_an_earlier_version_wrote_is_read_where_nothing_newer_is(tmp_path: Path) -> None:
    path = tmp_path / "m.arrow"
    older = Samples(IDS[::-1], SAMPLES.columns)
    as_before(path, older)
    (found,) = samplefiles.load([path])
    assert_same(found, older)
    (found,) = samplefiles.load([path], ["seen", "absent"])
    assert_same(found, Samples(IDS[::-1], {"seen": SAMPLES["seen"]}))
    assert samplefiles.bytes_of(path) == path.with_suffix(".parquet").stat().st_size
    path.with_suffix(".parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"m\.parquet: samples missing or unreadable"):
        samplefiles.load([path])
    saved(tmp_path)
    (found,) = samplefiles.load([path])
    assert_same(found, SAMPLES)
    assert samplefiles.bytes_of(path) == path.stat().st_size
    samplefiles.remove_older(path)
    assert [one.name for one in tmp_path.iterdir()] == ["m.arrow"]


def test_a_missing_file_is_one_line_and_has_no_size(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"m\.arrow: samples missing or unreadable.*--force"):
        samplefiles.load([tmp_path / "m.arrow"])
    assert samplefiles.bytes_of(tmp_path / "m.arrow") == 0


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_broken_file_is_one_line_and_never_ends_the_process(tmp_path: Path) -> None:
    path, chance, refused = saved(tmp_path), random.Random(0), 0
    whole = path.read_bytes()
    for turn in range(1500):
        broken = bytearray(whole[: chance.randrange(len(whole))] if turn % 5 == 0 else whole)
        for _ in range(chance.choice((1, 1, 4)) if broken else 0):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        path.write_bytes(broken)
        try:
            (found,) = samplefiles.load([path])
            assert all(len(column.tolist()) == 37 for column in found.columns.values())
        except DataError:
            refused += 1
    assert refused > 500
