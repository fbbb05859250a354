import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from ssleval.errors import ConfigError, DataError
from ssleval.heads.dense.patchwise import PatchMasks, Scaling, labelled_patches


def test_masks_are_resized_by_nearest_neighbours() -> None:
    mask = np.array([[1, 2], [3, 255]], np.uint8)
    np.testing.assert_array_equal(
        PatchMasks(lambda _row: mask, 4).square(0), mask.repeat(2, axis=0).repeat(2, axis=1)
    )


def test_a_patch_has_its_most_frequent_value_and_of_equals_the_smallest() -> None:
    mask = np.array([[1, 1, 9, 7], [1, 2, 7, 9], [255, 255, 5, 5], [255, 0, 5, 5]], np.uint8)
    assert PatchMasks(lambda _row: mask, 4).classes(0, (2, 2)).tolist() == [[1, 7], [255, 5]]


def test_any_mask_has_the_values_that_counting_gives() -> None:
    mask = np.random.default_rng(0).choice([0, 1, 3, 255], (12, 18)).astype(np.uint8)
    masks = PatchMasks(lambda _row: mask, 12)
    square = masks.square(0)
    for (row, column), found in np.ndenumerate(masks.classes(0, (3, 4))):
        values, counts = np.unique(
            square[4 * row : 4 * row + 4, 3 * column : 3 * column + 3], return_counts=True
        )
        assert found == values[counts.argmax()]


def test_scaled_tokens_are_scikit_learns() -> None:
    tokens = np.random.default_rng(0).normal(3, 2, (4, 2, 3, 5)).astype(np.float16)
    tokens[..., 4] = 7
    scaling = Scaling.of(tokens, np.array([0, 2]))
    reference = StandardScaler().fit(tokens[[0, 2]].reshape(-1, 5).astype(np.float64))
    expected = np.asarray(reference.transform(tokens.reshape(-1, 5).astype(np.float64)))
    np.testing.assert_allclose(scaling(tokens).reshape(-1, 5), expected, atol=1e-5)


def test_patches_that_are_mostly_ignored_are_no_examples() -> None:
    masks = [np.array([[0, 255], [1, 1]], np.uint8), np.array([[255, 255], [255, 2]], np.uint8)]
    tokens = np.arange(16, dtype=np.float32).reshape(2, 2, 2, 2)
    examples = PatchMasks(lambda row: masks[row], 2)
    found, labels = labelled_patches(tokens, examples, np.array([0, 1]), Scaling(0.0, 1.0))
    assert found.tolist() == [[0, 1], [4, 5], [6, 7], [14, 15]]
    assert labels.tolist() == [0, 1, 1, 2]
    found, labels = labelled_patches(tokens, examples, np.array([0, 1]), Scaling(0.0, 1.0), every=3)
    assert found.tolist() == [[0, 1], [6, 7]]
    assert labels.tolist() == [0, 1]
    nothing = PatchMasks(lambda _row: np.full((2, 2), 255, np.uint8), 2)
    with pytest.raises(DataError, match="not one labelled patch in 2 training images"):
        labelled_patches(tokens, nothing, np.array([0, 1]), Scaling(0.0, 1.0))


def test_patches_without_whole_pixels_are_refused() -> None:
    with pytest.raises(ConfigError, match="4 pixels are no whole number for each of 3x2 patches"):
        PatchMasks(lambda _row: np.zeros((4, 4), np.uint8), 4).classes(0, (3, 2))
