import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssleval.core import Metric, Samples, digest
from ssleval.display.report.content import Options, content
from ssleval.display.score_curves import draw_score_curves
from ssleval.errors import DataError
from ssleval.metrics.intervals import estimates
from ssleval.metrics.recorded import describe
from ssleval.metrics.stats import mean_of
from ssleval.results import Score, record
from ssleval.results.curves import panels
from tests.results.test_leaderboard import right, store

COUNT = 200


def stored(folder: Path, task: str, shares: dict[str, float], place: int = 0, model: str = "m") -> None:
    """Store a result with scores of these names, each the stated share of 200 images."""
    columns = {name: np.arange(COUNT) < round(COUNT * share) for name, share in shares.items()}
    columns["place"] = np.full(COUNT, place)
    samples = Samples([str(image) for image in range(COUNT)], columns)
    metrics = [Metric(name, mean_of(name)) for name in shares]
    scores = {
        name: Score(one.value, (one.low, one.high), COUNT, statistic=describe(mean_of(name)))
        for name, one in estimates(metrics, samples).items()
    }
    plain = store(folder, "plain", right(0.5))
    made = replace(plain, model=model, task=task, metrics=scores, key=digest([model, task, list(shares)]))
    record.write(folder, replace(made, backbone={**plain.backbone, "name": model}), samples)


def by_depth(folder: Path, place: int = 13) -> None:
    shares = {
        f"top1@{kind}-{n}/12": (n + lead) / 20
        for lead, kind in enumerate(("cls", "mean"), 1)
        for n in range(1, 13)
    }
    stored(folder, "curves", {"top1@heldout": list(shares.values())[place], **shares}, place)


def test_a_board_by_depth_is_a_panel_with_a_curve_a_vector(tmp_path: Path) -> None:
    by_depth(tmp_path)
    (panel,) = panels(record.read_all(tmp_path))
    assert (panel.title, panel.axis) == (
        "curves/digits: top1",
        "depth of the block, as a fraction of the model's",
    )
    cls, mean = panel.curves
    assert (cls.label, mean.label) == ("m, cls", "m, mean")
    assert cls.x == pytest.approx([n / 12 for n in range(1, 13)])
    assert cls.y == pytest.approx([(n + 1) / 20 for n in range(1, 13)])
    assert (cls.chosen, mean.chosen) == (-1, 1)
    assert all(low < y < high for low, y, high in zip(cls.low, cls.y, cls.high, strict=True))


def test_sides_and_shots_are_in_order_of_their_numbers(tmp_path: Path) -> None:
    sides = {"top1@heldout": 0.4, "top1@pooled-448px": 0.4, "top1@pooled-112px": 0.3}
    stored(tmp_path, "curves", sides)
    stored(tmp_path, "fewshot", {"top1@5shot-logreg": 0.5, "top1@5shot-knn5": 0.45, "top1@1shot-logreg": 0.2})
    shots, pixels = sorted(panels(record.read_all(tmp_path)), key=lambda panel: panel.curves[0].x)
    ((curve,), axis) = pixels.curves, pixels.axis
    assert (axis, curve.x, curve.y, curve.chosen) == (
        "side of the image in pixels",
        (112.0, 448.0),
        (0.3, 0.4),
        1,
    )
    ((curve,), axis) = shots.curves, shots.axis  # one point is no curve
    assert (axis, curve.label, curve.x, curve.chosen) == ("training images per class", "m", (1.0, 5.0), -1)


def test_other_scores_are_no_curves(tmp_path: Path) -> None:
    store(tmp_path, "m", right(0.5))
    stored(tmp_path, "fewshot", {"top1@5shot-logreg": 0.5, "std@5shot-logreg": 0.1, "std@1shot-logreg": 0.1})
    assert panels(record.read_all(tmp_path)) == []
    with pytest.raises(DataError, match=r"no curve in .*: run --task curves"):
        draw_score_curves(tmp_path, tmp_path / "curves.png")


def test_curves_are_drawn_and_are_on_the_page(tmp_path: Path) -> None:
    by_depth(tmp_path / "results")
    draw_score_curves(tmp_path / "results", tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert len(np.unique(np.array(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 20
    with pytest.raises(DataError, match="png, pdf or svg"):
        draw_score_curves(tmp_path / "results", tmp_path / "curves.txt")
    text = content(record.read_all(tmp_path / "results"), tmp_path / "results", Options())
    assert json.loads(text)["curves"][0]["axis"].startswith("depth of the block")
