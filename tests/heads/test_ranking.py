import numpy as np
import pytest

from ssleval.errors import ContractError
from ssleval.heads import ranking
from ssleval.heads.ranking import ranks, unit, unit_sum


def drawn(count: int, width: int = 24, seed: int = 0) -> np.ndarray:
    return unit(np.random.default_rng(seed).standard_normal((count, width)))


def sorted_ranks(query: np.ndarray, gallery: np.ndarray, rows: np.ndarray) -> list[int]:
    similarity = [sum(float(a) * float(b) for a, b in zip(query, row, strict=True)) for row in gallery]
    order = sorted(range(len(gallery)), key=lambda row: (-similarity[row], row))
    return [order.index(row) for row in rows.tolist()]


def test_ranks_are_those_of_a_sorted_gallery() -> None:
    queries, gallery = drawn(5), drawn(300, seed=1)
    wanted = [np.random.default_rng(row).permutation(300)[: 3 * row] for row in range(5)]
    for query, rows, found in zip(queries, wanted, ranks(queries, gallery, wanted), strict=True):
        assert found.tolist() == sorted_ranks(query, gallery, rows)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, gallery = drawn(7), drawn(200, seed=1)
    wanted = [np.arange(row, 200, 13) for row in range(7)]
    whole = ranks(queries, gallery, wanted)
    monkeypatch.setattr(ranking, "_ROWS", 17)
    monkeypatch.setattr(ranking, "_QUERIES", 3)
    for first, second in zip(whole, ranks(queries, gallery, wanted), strict=True):
        assert first.tolist() == second.tolist()


@pytest.mark.parametrize("bins", [8, 64, 4096])
@pytest.mark.parametrize("spread", [1e-7, 1e-3, 1.0])
def test_bins_change_nothing(monkeypatch: pytest.MonkeyPatch, spread: float, bins: int) -> None:
    """Cuts everywhere, cuts that are all alike, and more or fewer bins than cuts."""
    gallery = unit(drawn(1, seed=2) + spread * drawn(400, seed=1))
    queries, wanted = drawn(3), [np.arange(0, 400, 7), np.array([5]), np.arange(400)]
    monkeypatch.setattr(ranking, "_FEW", 400)
    whole = ranks(queries, gallery, wanted)
    monkeypatch.setattr(ranking, "_FEW", 0)
    monkeypatch.setattr(ranking, "_BINS", bins)
    for query, rows, first, second in zip(
        queries, wanted, whole, ranks(queries, gallery, wanted), strict=True
    ):
        assert first.tolist() == second.tolist() == sorted_ranks(query, gallery, rows)


GALLERIES = {
    "strangers": drawn(240, seed=1),
    "thrice": np.repeat(drawn(80, seed=1), 3, axis=0),
    "all alike": np.repeat(drawn(1, seed=1), 240, axis=0),
    "within rounding": unit(drawn(1, seed=1) + 1e-7 * drawn(240, seed=2)),
    "from near to far": unit(drawn(1) + np.geomspace(1e-6, 10, 240)[:, None] * drawn(240, seed=1)),
    "blank": np.zeros((240, 24), np.float32),
    "one": drawn(1, seed=1),
}


@pytest.mark.parametrize("few", [0, 8, 400])
@pytest.mark.parametrize("name", GALLERIES)
def test_any_gallery_ranks_as_sorted(monkeypatch: pytest.MonkeyPatch, name: str, few: int) -> None:
    """By bins, without, and by both in turn; in blocks that threads share, the last of them smaller."""
    queries, gallery = np.concatenate([drawn(3), GALLERIES[name][-1:]]), GALLERIES[name]
    drawn_rows = np.random.default_rng(3).permutation(len(gallery))
    wanted = [drawn_rows[:count] for count in (20, 0, len(gallery), 1)]
    monkeypatch.setattr(ranking, "_FEW", few)
    monkeypatch.setattr(ranking, "_ROWS", 32)
    monkeypatch.setattr(ranking, "_QUERIES", 3)
    monkeypatch.setattr(ranking.torch, "get_num_threads", lambda: 3)
    for query, rows, found in zip(queries, wanted, ranks(queries, gallery, wanted), strict=True):
        assert found.tolist() == sorted_ranks(query, gallery, rows)


def test_processors_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, gallery = drawn(5), drawn(300, seed=1)
    wanted = [np.arange(row, 300, 11) for row in range(5)]
    monkeypatch.setattr(ranking, "_ROWS", 7)
    monkeypatch.setattr(ranking, "_FEW", 3)
    alone, shared = (
        [found.tolist() for found in ranks(queries, gallery, wanted)]
        for count in (1, 3)
        if monkeypatch.setattr(ranking.torch, "get_num_threads", lambda count=count: count) is None
    )
    assert alone == shared


def test_of_equal_images_the_earlier_ranks_first() -> None:
    gallery = np.repeat(drawn(2, 40), 30, axis=0)
    (found,) = ranks(gallery[:1], gallery, [np.array([29, 0, 7, 59])])
    assert found.tolist() == [29, 0, 7, 59]


def test_what_float32_cannot_tell_apart_is_told_apart() -> None:
    """Similarities one float32 digit apart, in an order that a rounded product scrambles."""
    query = drawn(1, 512)
    gallery = np.repeat(query, 64, axis=0)
    gallery[np.arange(64), np.arange(64)] += np.float32(1e-7) * np.sign(query[0, :64])
    rows = np.arange(64)
    exact = gallery.astype(np.float64) @ query[0].astype(np.float64)
    expected = np.argsort(np.lexsort((rows, -exact)))
    assert len(set(exact.tolist())) > 16
    (found,) = ranks(query, gallery, [rows])
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("width", [2, 64, 768])
def test_the_noise_of_a_product_is_what_is_allowed_for(width: int) -> None:
    queries, gallery = drawn(40, width), drawn(2000, width, seed=1)
    error = np.abs(queries @ gallery.T - queries.astype(np.float64) @ gallery.T.astype(np.float64)).max()
    assert error < ranking.NOISE_PER_ROOT * (8 + width**0.5) / 4


def test_a_query_about_nothing_has_no_ranks() -> None:
    (found,) = ranks(drawn(1), drawn(9), [np.zeros(0, np.int64)])
    assert found.tolist() == []


def test_features_that_are_not_finite_are_refused() -> None:
    assert unit(np.zeros((1, 3))).tolist() == [[0, 0, 0]]
    np.testing.assert_allclose(unit(np.array([[3.0, 4.0]])), [[0.6, 0.8]], rtol=1e-6)
    for wrong in (np.nan, np.inf, 1e30):
        with pytest.raises(ContractError, match="NaN, infinite or huge"):
            unit(np.array([[1.0, wrong]]))


def test_scales_count_alike_whatever_their_lengths() -> None:
    scales = [np.random.default_rng(seed).standard_normal((5, 3)) * 10.0**seed for seed in range(3)]
    for count in (1, 2, 3):
        total = sum(scale / np.linalg.norm(scale, axis=1, keepdims=True) for scale in scales[:count])
        expected = total / np.linalg.norm(total, axis=1, keepdims=True)
        np.testing.assert_allclose(unit_sum(scales[:count]), expected, rtol=1e-5)
