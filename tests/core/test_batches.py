import numpy as np
import pytest

from ssleval.core.batches import Stream, batches
from ssleval.errors import ConfigError


def test_batches_are_shuffled_passes() -> None:
    rows = np.concatenate(list(batches(5, 3, 5, seed=0)))
    assert sorted(rows[:5]) == sorted(rows[5:10]) == sorted(rows[10:]) == list(range(5))
    assert len(next(iter(batches(2, 5, 1, seed=0)))) == 5


@pytest.mark.parametrize("size", [7, 30, 64])
def test_every_row_is_seen_once_a_pass(size: int) -> None:
    stream = np.concatenate(list(batches(30, size, 60, 0)))
    passes = stream[: len(stream) // 30 * 30].reshape(-1, 30)
    assert np.array_equal(np.sort(passes, axis=1), np.tile(np.arange(30), (len(passes), 1)))
    assert len(passes) == 2 * size
    assert not np.array_equal(passes[0], passes[1])


def test_a_stream_can_be_read_anywhere() -> None:
    whole = np.concatenate(list(batches(5, 3, 20, seed=4)))
    stream = Stream(5, 4)
    for start, end in [(0, 3), (13, 29), (2, 4), (59, 60), (5, 10)]:
        assert stream.rows(start, end).tolist() == whole[start:end].tolist()


def test_no_rows_are_refused() -> None:
    with pytest.raises(ConfigError, match="no training rows"):
        next(batches(0, 4, 1, 0))
