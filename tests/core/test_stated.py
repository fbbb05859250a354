import numpy as np
import pytest
import torch
from scipy.special import softmax

from ssleval.core.stated import stated, stated_columns


def test_what_is_stated_is_the_softmax_of_scipy() -> None:
    random = np.random.default_rng(0)
    logits, truth = random.normal(0, 5, (40, 3, 7)), random.integers(0, 7, 40)
    found, expected = stated(torch.from_numpy(logits), torch.from_numpy(truth)), softmax(logits, axis=2)
    assert np.array_equal(found["class"], logits.argmax(axis=2))
    np.testing.assert_allclose(found["confidence"], expected.max(axis=2), rtol=1e-12)
    own = np.take_along_axis(expected, np.broadcast_to(truth[:, None, None], (40, 3, 1)), axis=2)[..., 0]
    np.testing.assert_allclose(found["nll"], -np.log(own), rtol=1e-9)


def test_logits_far_apart_neither_overflow_nor_lose_the_loss() -> None:
    columns = stated_columns(np.array([[1e4, 0.0], [0.0, 1e4]]), np.array([0, 0]), "@x")
    assert columns["confidence@x"].tolist() == [1, 1]
    assert columns["nll@x"].tolist() == [0, 1e4]


def test_two_classes_of_which_one_logit_is_zero_are_a_sigmoid() -> None:
    columns = stated_columns(np.array([[0.0, 2.0], [0.0, -2.0]]), np.array([1, 1]))
    assert columns["confidence"] == pytest.approx([1 / (1 + np.exp(-2))] * 2)
    assert columns["nll"] == pytest.approx([np.log(1 + np.exp(-2)), np.log(1 + np.exp(2))])
