"""The matrix of models: command, file and what the report reads."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from ssleval.cli.app import app
from ssleval.errors import ConfigError, DataError
from ssleval.results.similarity import matrix, read_similarities
from ssleval.run.similarity import _nearest


def test_two_models_on_one_set(tmp_path: Path) -> None:
    folders = [f"--{name}={tmp_path / name}" for name in ("results", "cache")]
    command = ["similarity", "pixels", "random:vit_tiny", "pixels", "--dataset=digits", "--limit=60", "--k=5"]
    asked = [*command, "--num-workers=0", "--device=cpu", *folders]
    outcome = CliRunner().invoke(app, asked, catch_exceptions=False)
    assert outcome.exit_code == 0
    assert "by chance 8.5 %" in outcome.stderr
    (found,) = read_similarities(tmp_path / "results")
    assert (found.images, found.k, found.dataset, found.readout) == (60, 5, "digits", "pooled")
    same = found.pairs[1]
    assert (same.first, same.second) == (0, 2)
    assert same.cka == pytest.approx((1, 1, 1))
    assert same.mutual_knn == pytest.approx((1, 1, 1))
    other = found.pairs[0]
    assert 0 < other.mutual_knn[0] < 1
    assert matrix(found)[0][2].startswith(f"{100 * other.cka[0]:.1f} ±")
    assert matrix(found)[1][1].startswith(f"{100 * other.mutual_knn[0]:.1f} ±")
    assert "| pixels |" in outcome.stdout
    as_json = CliRunner().invoke(app, [*asked, "--json", "--quiet"], catch_exceptions=False)
    assert json.loads(as_json.stdout)["pairs"][1]["cka"][0] == pytest.approx(1)


@pytest.mark.parametrize("words", [["pixels"], ["pixels", "random:vit_tiny", "--k=59"]])
def test_what_cannot_be_compared_is_refused(tmp_path: Path, words: list[str]) -> None:
    asked = ["similarity", *words, "--dataset=digits", "--limit=60", f"--cache={tmp_path}"]
    with pytest.raises(ConfigError):
        CliRunner().invoke(app, asked, catch_exceptions=False)


@pytest.mark.parametrize("content", ["", "{}", "[]"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "similarity-x.json").write_text(content)
    with pytest.raises(DataError, match="no file of"):
        read_similarities(tmp_path)


def test_an_image_is_not_its_own_neighbour_even_among_equal_ones() -> None:
    vectors = np.repeat(np.eye(3, dtype=np.float32), 6, axis=0)
    found = _nearest(vectors, 4)
    assert found.shape == (18, 4)
    assert not (found == np.arange(18)[:, None]).any()
    assert (found // 6 == np.arange(18)[:, None] // 6).all()
