import numpy as np
import pytest

from ssleval.core import DatasetCard, FeatureTable, Samples
from ssleval.core.corruptions import CORRUPTIONS, SEVERITIES
from ssleval.errors import DataError
from ssleval.metrics.variants import (
    IMAGENET_C,
    accuracy_columns,
    by_variant,
    errors_by_image,
    judged_images,
    published_metric,
)


def test_relatives_of_imagenet_have_the_score_that_they_are_published_with() -> None:
    every = dict.fromkeys(IMAGENET_C, 50_000)
    assert len(every) == 75
    assert published_metric(DatasetCard("c", lengths=every)) == "mce"
    assert published_metric(DatasetCard("v2", lengths={"test": 10_000})) == "top1"
    assert published_metric(DatasetCard("some", lengths={"fog-1": 50_000})) == "top1"
    assert published_metric(DatasetCard("real", target="multilabel", lengths=every)) == "real"


def test_any_of_several_labels_is_right() -> None:
    table = FeatureTable(["a", "b", "c"], None, {}, np.array([0, 2, 3]))
    predicted = np.array([1, 0, 2])
    one = judged_images(table, predicted, np.array([1, 1, 2]))
    assert {name: column.tolist() for name, column in one.columns.items()} == {
        "row": [0, 2, 3],
        "predicted": [1, 0, 2],
        "label": [1, 1, 2],
        "top1": [True, False, True],
    }
    several = judged_images(table, predicted, np.array([[0, 1, 1], [0, 1, 1], [1, 0, 1]], bool))
    assert several["real"].tolist() == [True, False, True]
    assert set(several.columns) == {"row", "predicted", "real"}


def judged() -> list[Samples]:
    """Right or wrong on five images in all variants; of a variant in six one image could not be decoded."""
    random, made = np.random.default_rng(0), list[Samples]()
    for place in range(len(IMAGENET_C)):
        rows = np.array([row for row in range(5) if place % 6 or row not in {1, 3}])
        columns = {"row": rows, "top1": random.random(len(rows)) < 0.6, "label": 10 + rows}
        made.append(Samples([f"image{row}" for row in rows.tolist()], columns))
    return made


def test_an_image_counts_if_it_was_judged_in_all_variants() -> None:
    given = judged()
    found = errors_by_image(given, "c")
    assert (found.ids, found["label"].tolist()) == (["image0", "image2", "image4"], [10, 12, 14])
    assert found["wrong"].shape == (3, 15, 5)
    for place, variant in enumerate(IMAGENET_C):
        name, severity = variant.rsplit("-", 1)
        at = CORRUPTIONS.index(name), SEVERITIES.index(int(severity))
        right = dict(zip(given[place].ids, given[place]["top1"], strict=True))
        assert [not right[image] for image in found.ids] == found["wrong"][:, *at].tolist()
    assert found["error"] == pytest.approx(found["wrong"].reshape(3, 75).mean(axis=1))


def test_a_row_that_is_another_image_elsewhere_is_refused() -> None:
    given = judged()
    given[7] = Samples(["image0", "image1", "image2", "image4", "image3"], given[7].columns)
    with pytest.raises(DataError, match=r"c/shot_noise-3: image image4 where other splits have image3"):
        errors_by_image(given, "c")
    apart = judged()
    for place, samples in enumerate(apart):
        row = place % 2
        columns = {"row": np.array([row]), "top1": samples["top1"][:1], "label": np.array([0])}
        apart[place] = Samples([f"image{row}"], columns)
    with pytest.raises(DataError, match="no image could be decoded in all"):
        errors_by_image(apart, "c")


def test_rows_of_variants_are_sorted_into_a_table() -> None:
    # Two variants of four images; image 1 is missing in the first, image 2 in the second.
    rows = np.array([7, 0, 2, 3, 4, 5])
    correct = np.array([True, False, True, True, True, False])
    assert by_variant(correct, rows, 2, 4).tolist() == [[0.0, 1.0], [1.0, 1.0]]


def test_accuracies_of_an_image_are_means_over_its_variants() -> None:
    variants = [("clean", 0), ("fog", 1), ("fog", 3), ("snow", 1), ("snow", 3)]
    correct = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 0]], float)
    found = {name: column.tolist() for name, column in accuracy_columns(correct, variants).items()}
    assert found == {
        "corrupted": [0.5, 0.5, 0.25],
        "clean": [1, 1, 0],
        "lost": [0.5, 0.5, -0.25],
        "fog": [1, 0.5, 0],
        "snow": [0, 0.5, 0.5],
        "severity1": [0.5, 0.5, 0.5],
        "severity3": [0.5, 0.5, 0],
    }
