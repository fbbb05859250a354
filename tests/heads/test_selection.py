import numpy as np
import pytest
import torch

from ssleval.errors import ConfigError, DataError
from ssleval.heads.selection import few_per_class, hold_out

LABELS = np.array([2] * 20 + [0] * 5 + [1] * 40 + [3])


@pytest.mark.parametrize(("fraction", "expected"), [(0.1, [1, 4, 2, 0]), (0.5, [2, 20, 10, 0])])
def test_a_fraction_of_every_class_is_held_out(fraction: float, expected: list[int]) -> None:
    held = hold_out(LABELS, fraction, 0)
    assert np.bincount(LABELS[held], minlength=4).tolist() == expected


def test_held_out_rows_depend_on_the_seed_alone() -> None:
    assert np.array_equal(hold_out(LABELS, 0.1, 1), hold_out(LABELS, 0.1, 1))
    assert not np.array_equal(hold_out(LABELS, 0.1, 1), hold_out(LABELS, 0.1, 2))


def test_rows_with_several_labels_are_held_out_from_all() -> None:
    assert hold_out(np.zeros((50, 3), bool), 0.1, 0).sum() == 5


def test_what_cannot_be_held_out_is_refused() -> None:
    with pytest.raises(DataError, match="two training images"):
        hold_out(np.arange(4), 0.1, 0)
    for fraction in (0.0, 1.0):
        with pytest.raises(ConfigError, match="between 0 and 1"):
            hold_out(LABELS, fraction, 0)


@pytest.mark.parametrize(
    ("shots", "expected"), [(3.0, [3, 3, 3, 1]), (1.0, [1, 1, 1, 1]), (0.1, [1, 4, 2, 1])]
)
def test_few_are_drawn_from_every_class(shots: float, expected: list[int]) -> None:
    rows = few_per_class(LABELS, shots, 0)
    assert len(set(rows.tolist())) == len(rows)
    assert np.bincount(LABELS[rows]).tolist() == expected


def test_draws_are_those_of_torch_seeded_with_the_try() -> None:
    torch.manual_seed(4)
    expected = [
        rows[torch.randperm(len(rows))[:3].numpy()]
        for rows in (np.flatnonzero(label == LABELS) for label in range(4))
    ]
    assert np.array_equal(few_per_class(LABELS, 3.0, 4), np.concatenate(expected))
    assert not np.array_equal(few_per_class(LABELS, 3.0, 5), few_per_class(LABELS, 3.0, 4))
