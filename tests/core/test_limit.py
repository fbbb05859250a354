"""``--limit`` keeps a fixed draw: the same at every call, whatever else is asked, and as long as it says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ssleval.core import Dataset, DatasetCard, Split
from ssleval.errors import ConfigError


def dataset(count: int) -> Dataset:
    ids = [f"{number:03d}" for number in range(count)]
    split = Split(ids, lambda _: Image.new("RGB", (2, 2)), np.arange(count), f"set of {count}")
    names = tuple(map(str, range(count)))
    card = DatasetCard("d", class_names=names, lengths={"train": count, "test": count})
    return Dataset(card, lambda _: split)


@given(count=st.integers(1, 60), limit=st.integers(1, 80))
def test_a_limit_is_a_fixed_draw_in_the_order_of_the_split(count: int, limit: int) -> None:
    first, again = (dataset(count).limited(limit).split("test") for _ in range(2))
    assert list(first.ids) == list(again.ids) == sorted(first.ids)
    assert len(first) == len(set(first.ids)) == min(count, limit)
    assert first.fingerprint == again.fingerprint
    assert first.targets is not None
    assert [int(name) for name in first.ids] == first.targets.tolist(), "labels stay with their images"


@given(count=st.integers(2, 60), data=st.data())
def test_other_limits_are_other_data_unless_they_keep_everything(count: int, data: st.DataObject) -> None:
    limit = data.draw(st.integers(1, count - 1))
    whole, part = dataset(count).split("test"), dataset(count).limited(limit).split("test")
    assert part.fingerprint != whole.fingerprint
    assert dataset(count).limited(count).split("test").fingerprint == whole.fingerprint


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        dataset(3).limited(0)
