import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssleval.core import Samples
from ssleval.display.report.content import Options, content, write_report
from ssleval.display.report.items import encode
from ssleval.errors import DataError, UnknownNameError
from ssleval.results import read_all, read_samples, write
from ssleval.results.compare import compare
from tests.results.test_compare import store_errors
from tests.results.test_leaderboard import right, store


def shown(folder: Path, **options: Any) -> dict[str, Any]:
    asked = Options(**options)
    return json.loads(content(read_all(folder), folder, asked))


def test_every_row_carries_scores_rank_and_the_provenance_of_its_cell(tmp_path: Path) -> None:
    stored = store(tmp_path, "m", right(0.5))
    store(tmp_path, "better", right(0.9, seed=1))
    data = shown(tmp_path)
    best, row = data["rows"]
    assert (best["label"], best["rank"], row["rank"]) == ("better", 1, 2)
    assert row["scores"] == [[stored.metrics["top1"].value, *stored.metrics["top1"].ci95, 400]]
    assert data["pool"][row["shared"]["protocol"]] == {"k": 20, "version": 1}
    assert data["pool"][row["shared"]["settings"]]["precision"] == "fp32"
    assert row["own"]["key"] == stored.key
    assert stored.path == tmp_path / row["own"]["file"]
    assert best["shared"]["protocol"] == row["shared"]["protocol"], "what is shared is stored once"


def test_a_row_carries_the_notes_of_its_scores(tmp_path: Path) -> None:
    stored = store(tmp_path, "m", right(0.5))
    noted = {"top1": replace(stored.metrics["top1"], note="from 8 items")}
    write(tmp_path, replace(stored, metrics=noted, path=None), read_samples(stored))
    (row,) = shown(tmp_path)["rows"]
    assert row["own"]["notes"] == {"top1": "from 8 items"}


def test_items_are_those_of_the_samples(tmp_path: Path) -> None:
    values = right(0.5)
    store(tmp_path, "m", values)
    (row,) = (data := shown(tmp_path))["rows"]
    kind, text = row["details"]["values"]
    bits = np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8), bitorder="little")[:400]
    assert kind == "bits"
    np.testing.assert_array_equal(bits.astype(bool), values)
    assert data["pool"][row["details"]["ids"]] == [str(i) for i in range(400)]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (np.array([True, False, True]), "bits"),
        (np.array([0, 255]), "u1"),
        (np.array([0, 256]), "u2"),
        (np.array([-1, 7]), "i4"),
        (np.array([0.5, np.nan]), "f4"),
    ],
)
def test_arrays_take_the_smallest_type_that_holds_them(values: np.ndarray, kind: str) -> None:
    found, text = encode(values)
    assert found == kind
    if kind != "bits":
        np.testing.assert_array_equal(np.frombuffer(base64.b64decode(text), f"<{kind}"), values)


@pytest.mark.parametrize("honest", [True, False])
def test_predictions_are_stored_of_wrong_items_where_right_ones_say_the_label(
    tmp_path: Path, honest: bool
) -> None:
    stored, values = store(tmp_path, "m", right(0.5)), right(0.5)
    labels = np.arange(400) % 7
    said = np.where(values, labels, labels + 1)
    said[values.argmax()] += not honest
    write(
        tmp_path,
        replace(stored, path=None),
        Samples([str(i) for i in range(400)], {"top1": values, "label": labels, "predicted": said}),
    )
    (row,) = shown(tmp_path)["rows"]
    kind, text = row["details"]["predicted"]
    assert (kind, row["details"]["only_wrong"]) == ("u1", honest)
    np.testing.assert_array_equal(
        np.frombuffer(base64.b64decode(text), np.uint8), said[~values] if honest else said
    )


def test_items_beyond_the_limit_are_left_out_and_said(tmp_path: Path) -> None:
    for seed, model in enumerate("abc"):
        store(tmp_path, model, right(0.5, seed))
    assert shown(tmp_path)["left_out"] == 0
    data = shown(tmp_path, detail_mb=1e-6)
    assert data["left_out"] == 2
    assert sum("--detail-mb" in row["details"].get("why", "") for row in data["rows"]) == 2
    assert all(row["scores"] for row in data["rows"])


def test_a_number_that_is_not_finite_is_refused_with_its_file(tmp_path: Path) -> None:
    stored = store(tmp_path, "m", right(0.5))
    assert stored.path is not None
    text = stored.path.read_text(encoding="utf-8")
    stored.path.write_text(text.replace('"k": 20', '"k": NaN'), encoding="utf-8")
    with pytest.raises(DataError, match=rf"{stored.path.name} .*NaN is no finite number"):
        shown(tmp_path)


def test_images_of_a_dataset_without_results_are_refused(tmp_path: Path) -> None:
    store(tmp_path, "m", right(0.5))
    with pytest.raises(UnknownNameError, match="did you mean digits"):
        shown(tmp_path, images=("digit",))


def test_images_of_another_split_than_was_scored_are_refused(tmp_path: Path) -> None:
    store(tmp_path, "m", right(0.5))
    with pytest.raises(DataError, match="not the one that was scored"):
        shown(tmp_path, images=("digits",))


def test_thumbnails_are_of_the_items_models_disagree_on() -> None:
    results = Path(__file__).parents[3] / "results"
    data = shown(results, images=("digits",), thumbnails=3)
    of_two = [place for place, board in enumerate(data["boards"]) if board["dataset"] == "digits"]
    of_two = [place for place in of_two if [row["board"] for row in data["rows"]].count(place) == 2]
    (board,) = [data["boards"][place] for place in of_two]
    assert len(board["pictures"]) == 3
    assert board["class_names"] == list("0123456789")
    place = data["boards"].index(board)
    one, two = [row for row in data["rows"] if row["board"] == place]
    sides = [
        np.unpackbits(
            np.frombuffer(base64.b64decode(row["details"]["values"][1]), np.uint8), bitorder="little"
        )
        for row in (one, two)
    ]
    ids = data["pool"][one["details"]["ids"]]
    assert all(sides[0][ids.index(name)] != sides[1][ids.index(name)] for name in board["pictures"])
    assert next(iter(board["pictures"].values())).startswith("data:image/png;base64,")


def test_a_metric_where_less_is_better_is_shown_as_such(tmp_path: Path) -> None:
    store_errors(tmp_path, "m", np.array([0.1, 0.5, 0.25]))
    data = shown(tmp_path)
    assert data["boards"][0]["metrics"] == [{"name": "rmse", "unit": "metre", "higher": False}]
    kind, text = data["rows"][0]["details"]["values"]
    assert kind == "f4"
    np.testing.assert_allclose(np.frombuffer(base64.b64decode(text), "<f4"), [0.1, 0.5, 0.25], rtol=1e-6)


def test_samples_that_were_lost_are_one_line(tmp_path: Path) -> None:
    stored = store(tmp_path, "m", right(0.5))
    assert stored.path is not None
    stored.path.with_suffix(".arrow").unlink()
    with pytest.raises(DataError, match="samples missing or unreadable"):
        shown(tmp_path)


def test_an_empty_folder_makes_a_page_without_rows(tmp_path: Path) -> None:
    assert write_report(tmp_path, tmp_path / "deep" / "page.html") == 0
    assert (tmp_path / "deep" / "page.html").stat().st_size > 1e6


def test_samples_of_another_shape_than_the_score_says_are_refused(tmp_path: Path) -> None:
    from ssleval.results import record

    stored = store(tmp_path, "m", right(0.5))
    record.write(tmp_path, stored, Samples(["a"], {"top1": np.array([True])}))
    with pytest.raises(DataError, match="1 samples, but top1 is of 400"):
        shown(tmp_path)
    record.write(tmp_path, stored, Samples([str(i) for i in range(400)], {"other": right(0.5)}))
    with pytest.raises(DataError, match="samples that top1 is no statistic of"):
        shown(tmp_path)


def test_a_result_from_before_a_metric_existed_has_no_score_of_it(tmp_path: Path) -> None:
    new, old = store(tmp_path, "new", right(0.9)), store(tmp_path, "old", right(0.5, seed=1))
    samples = read_samples(new)
    both = replace(new, metrics={**new.metrics, "top5": new.metrics["top1"]})
    both = write(tmp_path, both, Samples(samples.ids, {**samples.columns, "top5": samples["top1"]}))
    first, second = shown(tmp_path)["rows"]
    assert (len(first["scores"]), second["scores"][1]) == (2, None)
    (row,) = compare([both], [old], every_metric=True)
    assert row.metric == "top1"
