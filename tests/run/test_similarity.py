"""The matrix of models: command, file and what the report reads."""

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from ssleval.cli.app import app
from ssleval.errors import ConfigError, DataError
from ssleval.results.similarity import Pair, Similarities, file_of, matrix, read_similarities
from ssleval.run.similarity import _nearest


def test_two_models_on_one_set(tmp_path: Path) -> None:
    folders = [f"--{name}={tmp_path / name}" for name in ("results", "cache")]
    command = ["similarity", "pixels", "random:vit_tiny", "pixels", "--dataset=digits", "--limit=60", "--k=5"]
    asked = [*command, "--num-workers=0", "--device=cpu", *folders]
    outcome = CliRunner().invoke(app, asked, catch_exceptions=False)
    assert outcome.exit_code == 0
    assert "by chance 8.5 %" in outcome.stderr
    (found,) = read_similarities(tmp_path / "results")
    assert found.precision == "fp32"
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


ENDS = (0.5, 0.4, 0.6)
FOUND = Similarities(
    "digits", "test", "f" * 64, "pooled", 60, 5, ["a", "b"], ["0" * 64, "1" * 64],
    [Pair(0, 1, ENDS, ENDS)], "fp32",
)  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"pairs": []},
        {"models": ["a"] * 100_000, "weights_sha256": ["0"] * 100_000, "pairs": []},
        {"pairs": [Pair(0, 2, ENDS, ENDS)]},
        {"pairs": [Pair(1, 0, ENDS, ENDS)]},
        {"weights_sha256": ["0"]},
    ],
    ids=["none", "many", "unnamed", "turned", "weights"],
)
def test_a_file_without_all_pairs_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "similarity-x.json"
    path.write_bytes(msgspec.json.encode(FOUND))
    assert read_similarities(tmp_path) == [FOUND]
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(FOUND, **change)))
    with pytest.raises(DataError, match=r"similarity-x.json: .*remove it"):
        read_similarities(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"models": ["a", "c"]}, {"weights_sha256": ["0" * 64, "2" * 64]}, {"k": 6}, {"precision": "bf16"},
        {"readout": "pooled[3]"}, {"split": "train"},
    ],
    ids=str,
)  # fmt: skip
def test_another_question_has_another_file(tmp_path: Path, change: dict[str, Any]) -> None:
    assert file_of(FOUND, tmp_path) == file_of(msgspec.structs.replace(FOUND, pairs=[]), tmp_path)
    assert file_of(FOUND, tmp_path) != file_of(msgspec.structs.replace(FOUND, **change), tmp_path)


def test_a_name_of_any_letters_is_one_of_a_file(tmp_path: Path) -> None:
    path = file_of(msgspec.structs.replace(FOUND, dataset="folder:" + 90 * "画"), tmp_path)
    assert len(path.name.encode()) < 150
    path.touch()


def test_an_image_is_not_its_own_neighbour_even_among_equal_ones() -> None:
    vectors = np.repeat(np.eye(3, dtype=np.float32), 6, axis=0)
    found = _nearest(vectors, 4)
    assert found.shape == (18, 4)
    assert not (found == np.arange(18)[:, None]).any()
    assert (found // 6 == np.arange(18)[:, None] // 6).all()
