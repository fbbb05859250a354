import numpy as np
import pytest

from ssleval.datasets.scenes.draw import Draw


def test_stream_is_what_it_was() -> None:
    draw = Draw("golden", 1)

    assert [draw.below(1000) for _ in range(6)] == GOLDEN


GOLDEN = [887, 547, 634, 97, 226, 697]


def test_equal_names_give_equal_streams_and_others_do_not() -> None:
    first, again, other = Draw("a", 1), Draw("a", 1), Draw("a", 2)

    drawn = [[draw.unit() for _ in range(5)] for draw in (first, again, other)]

    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def test_child_does_not_depend_on_what_was_drawn_before() -> None:
    parent = Draw("a")
    fresh = parent.child("b").unit()
    parent.unit()

    assert parent.child("b").unit() == fresh
    assert parent.child("c").unit() != fresh


def test_uniform_fills_its_range() -> None:
    draw = Draw("range")

    values = np.array([draw.uniform(-2, 3) for _ in range(4000)])

    assert values.min() >= -2
    assert values.max() < 3
    assert abs(values.mean() - 0.5) < 0.1  # 4.3 standard errors
    assert abs(values.std() - 5 / np.sqrt(12)) < 0.06


def test_turns_are_unit_and_point_everywhere() -> None:
    draw = Draw("turn")

    turns = np.array([draw.turn() for _ in range(2000)])

    np.testing.assert_allclose((turns**2).sum(1), 1, atol=1e-12)
    counts = np.histogram(np.arctan2(turns[:, 1], turns[:, 0]), bins=8, range=(-np.pi, np.pi))[0]
    assert counts.min() > 190  # 250 expected, standard deviation 15


def test_shuffled_is_a_permutation_of_any_order() -> None:
    orders = {tuple(Draw("shuffle", k).shuffled(3)) for k in range(60)}

    assert len(orders) == 6
    assert all(sorted(order) == [0, 1, 2] for order in orders)


@pytest.mark.parametrize("probability", [0.1, 0.7])
def test_chance_comes_true_as_often_as_it_says(probability: float) -> None:
    draw = Draw("chance", str(probability))

    share = np.mean([draw.chance(probability) for _ in range(3000)])

    assert abs(share - probability) < 0.04


def test_lattice_lies_in_the_unit_interval_and_is_single_precision() -> None:
    values = Draw("lattice").lattice(4096)

    assert values.dtype == np.float32
    assert 0 <= values.min() < 0.01
    assert 0.99 < values.max() < 1
