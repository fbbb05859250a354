import pickle

import numpy as np
import pytest
from sklearn.datasets import load_digits

from ssleval.core import DatasetOptions
from ssleval.datasets.catalog import open_dataset
from ssleval.errors import ConfigError

FINGERPRINTS = {
    "train": "409aa78310688f0421491d57508f64e5ce44ff827129dabcae46b8df5ba51cfe",
    "test": "d8ba431b4a1ddf8539fa9ddb88a6201ff5b2aea9209711f63cb55c5527d6e623",
}


@pytest.mark.parametrize("name", ["train", "test"])
def test_the_split_is_the_one_that_results_were_made_with(name: str) -> None:
    assert open_dataset("digits", DatasetOptions()).split(name).fingerprint == FINGERPRINTS[name]


def test_fifty_of_each_digit_are_held_out() -> None:
    dataset = open_dataset("digits", DatasetOptions())
    train, test = dataset.split("train"), dataset.split("test")
    assert np.bincount(np.asarray(test.targets)).tolist() == [50] * 10
    assert not set(train.ids) & set(test.ids)
    assert len({*train.ids, *test.ids}) == 1797


def test_pixels_are_those_of_scikit_learn() -> None:
    levels, labels = load_digits(return_X_y=True)
    split = pickle.loads(pickle.dumps(open_dataset("digits", DatasetOptions()).split("test")))
    for index in (0, 250, 499):
        row = int(split.ids[index])
        assert split[index].target == labels[row]
        decoded = np.asarray(split[index].image)
        assert decoded.shape == (8, 8, 3)
        np.testing.assert_allclose(decoded[..., 1].ravel(), levels[row] * 255 / 16, atol=0.5)


def test_a_location_is_refused() -> None:
    with pytest.raises(ConfigError, match="digits takes nothing behind a colon"):
        open_dataset("digits:8x8", DatasetOptions())
