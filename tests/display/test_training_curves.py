"""The picture of a training."""

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from typer.testing import CliRunner

from ssleval.cli.app import app
from ssleval.display.training_curves import draw_curves
from ssleval.errors import DataError


def log(folder: Path, steps: int, *, evaluated: bool = True) -> Path:
    lines: list[dict] = []
    for step in range(steps):
        rates = {"lr": 1e-3, "weight_decay": 0.04, "momentum": 0.99, "teacher_temp": 0.04}
        lines.append({"step": step, "epoch": 0, **rates, "loss": 3.0 + step % 2, "dino": 2.0, "koleo": 1.0})
        if step % 10 == 9:
            lines[-1] |= {"teacher_entropy": 1.0, "kl": 1.0, "information": 0.5, "feature_rank": 4.0}
            if evaluated:
                score = {"value": 0.3, "ci95": [0.2, 0.5], "n": 9}
                scores = {"top1@10": score, "top1@20": {**score, "value": 0.4}, "rank": score}
                lines.append({"step": step, "epoch": 0, "evaluation": scores})
    folder.mkdir(exist_ok=True)
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Figures in place of files: what is drawn can be asked, pixels cannot."""
    figures: list[Figure] = []

    def kept(figure: Figure, out: Path, format: str) -> None:  # noqa: A002 - matplotlib's name
        figures.append(figure)

    monkeypatch.setattr(Figure, "savefig", kept)
    return figures


def test_every_quantity_of_the_log_has_its_place(drawn: list[Figure], tmp_path: Path) -> None:
    draw_curves(log(tmp_path / "run", 200), tmp_path / "curves.png")
    axes = {one.get_title(): one for one in drawn[0].axes}
    assert list(axes) == [
        "losses", "of the teacher, nats", "information, nats", "rank of features",
        "top1, 95 % intervals", "rank, 95 % intervals", "lr", "weight_decay", "momentum", "teacher_temp",
    ]  # fmt: skip
    labelled = {line.get_label(): line for line in axes["losses"].get_lines()}
    assert {"loss", "dino", "koleo"} <= set(labelled)
    # 3 and 4 in turn: the mean over four steps is 3.5 everywhere, drawn amid the steps it is of.
    steps, values = np.asarray(labelled["loss"].get_data())
    np.testing.assert_allclose(values, 3.5)
    assert (steps[0], steps[-1]) == (1.5, 197.5)
    assert "collapse" in {line.get_label() for line in axes["information, nats"].get_lines()}


def test_evaluations_are_points_with_their_interval(drawn: list[Figure], tmp_path: Path) -> None:
    draw_curves(log(tmp_path / "run", 40), tmp_path / "curves.png")
    (axes,) = [one for one in drawn[0].axes if one.get_title().startswith("top1")]
    for line, value in zip(axes.get_lines(), (0.3, 0.4), strict=True):
        np.testing.assert_allclose(np.asarray(line.get_xydata()), [(step, value) for step in (9, 19, 29, 39)])
    band = np.concatenate([path.vertices for path in axes.collections[0].get_paths()])
    assert (band[:, 1].min(), band[:, 1].max()) == (0.2, 0.5)


def test_the_command_draws_a_run_under_way(tmp_path: Path) -> None:
    folder = log(tmp_path / "run", 3, evaluated=False)
    with (folder / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 3, "los')
    out = tmp_path / "curves.png"
    done = CliRunner().invoke(app, ["show", "train", str(folder), "--out", str(out)])
    assert done.output == f"{out}\n"
    with Image.open(out) as image:
        assert image.width > 1000
        assert np.asarray(image.convert("L")).std() > 10


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no training log"):
        draw_curves(tmp_path, tmp_path / "curves.png")
    with pytest.raises(DataError, match="png, pdf or svg"):
        draw_curves(log(tmp_path / "run", 3), tmp_path / "curves.jpeg2")
