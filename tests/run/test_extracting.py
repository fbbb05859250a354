import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import ssleval
from ssleval.cli.app import app
from ssleval.core import Context, DatasetOptions, Readout
from ssleval.datasets.catalog import open_dataset
from ssleval.errors import ConfigError, NotApplicableError
from ssleval.run.extracting import Features, parse_readout


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def features(cache: Path, *readouts: str) -> Features:
    context = Context(cache=cache, progress=False)
    return ssleval.extract_features("pixels", "digits", "test", readouts, limit=6, context=context)


def test_rows_are_those_of_the_split(cache: Path) -> None:
    found = features(cache, "pooled")
    split = open_dataset("digits", DatasetOptions()).limited(6).split("test")
    assert list(found.ids) == list(split.ids)
    assert found.labels is not None
    assert split.targets is not None
    assert found.labels.tolist() == split.targets.tolist()
    assert found.class_names[:2] == ("0", "1")
    # An independent reading of the first picture: equal pictures have equal rows, others do not.
    images = [np.asarray(split.image(row)) for row in range(6)]
    same = [(one == two).all() for one in images for two in images]
    rows = found["pooled"]
    assert [np.allclose(one, two) for one in rows for two in rows] == same


def test_npz_holds_ids_labels_names_and_arrays_without_pickles(cache: Path, tmp_path: Path) -> None:
    found = features(cache, "pooled", "patches[-1]")
    found.save(tmp_path / "f.npz")
    with np.load(tmp_path / "f.npz", allow_pickle=False) as stored:
        assert stored["ids"].tolist() == list(found.ids)
        assert stored["labels"].tolist() == np.asarray(found.labels).tolist()
        assert stored["class_names"].tolist() == list(found.class_names)
        assert stored["patches[-1]"].shape == found["patches[-1]"].shape
        np.testing.assert_array_equal(stored["pooled"], found["pooled"])


def test_parquet_holds_a_vector_for_each_row(cache: Path, tmp_path: Path) -> None:
    found = features(cache, "pooled", "patches[-1]")
    found.save(tmp_path / "f.parquet")
    table = pq.read_table(tmp_path / "f.parquet")
    assert table["ids"].to_pylist() == list(found.ids)
    assert table["labels"].to_pylist() == np.asarray(found.labels).tolist()
    np.testing.assert_array_equal(np.array(table["pooled"].to_pylist(), np.float32), found["pooled"])
    shapes = json.loads(table.schema.metadata[b"shapes"])
    grids = np.array(table["patches[-1]"].to_pylist(), np.float16).reshape(6, *shapes["patches[-1]"])
    np.testing.assert_array_equal(grids, found["patches[-1]"])
    assert json.loads(table.schema.metadata[b"class_names"]) == list(found.class_names)


@pytest.mark.parametrize(
    ("text", "readout"),
    [
        ("pooled", Readout("pooled")),
        ("cls", Readout("cls")),
        ("cls[-2]", Readout("cls", -2)),
        ("patches[11]:unnormed", Readout("patches", 11, norm=False)),
        ("mean[quarter 2]", Readout("mean", quarter=2)),
    ],
)
def test_a_readout_is_spelt_as_it_prints(text: str, readout: Readout) -> None:
    assert parse_readout(text) == readout
    assert parse_readout(str(readout)) == readout


@pytest.mark.parametrize(
    "text", ["", "pool", "cls[]", "cls[1.5]", "pooled[-1]", "mean[quarter 5]", "cls[-1] "]
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="no readout"):
        parse_readout(text)


def test_what_the_model_lacks_is_refused(cache: Path) -> None:
    with pytest.raises(NotApplicableError, match="no class token"):
        features(cache, "cls[-1]")
    with pytest.raises(ConfigError, match="no readouts"):
        features(cache)


def test_the_command_writes_what_python_gives(cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "f.npz"
    options = ["--model", "pixels", "--dataset", "digits", "--limit", "6", "--cache", str(cache), "--quiet"]
    done = CliRunner().invoke(app, ["features", *options, "--out", str(out)])
    assert done.exit_code == 0, done.output
    with np.load(out) as stored:
        np.testing.assert_array_equal(stored["pooled"], features(cache, "pooled")["pooled"])
        assert f"{out}: pooled {'x'.join(map(str, stored['pooled'].shape))} float32" in done.stdout


def test_a_file_of_another_kind_is_refused_before_anything_is_extracted(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["features", "--model", "no_such_model", "--out", str(tmp_path / "f.csv")])
    assert isinstance(done.exception, ConfigError)
    assert ".npz or .parquet" in str(done.exception)
