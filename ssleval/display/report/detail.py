"""Items and classes of every result, packed as its samples are read, up to a limit of size."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from ssleval.core import Samples
from ssleval.display.report.items import Classes, ItemView, columns_of_view, encode, encode_labels, item_view
from ssleval.display.report.pool import Pool
from ssleval.errors import DataError
from ssleval.results.record import Result, read_samples_of


class Details:
    """Reads samples for whoever asks, and keeps of each result what the page shows of its items."""

    def __init__(self, pool: Pool, limit: int) -> None:
        """Pack at most ``limit`` characters."""
        self._pool = pool
        self._limit = limit
        self._packed: dict[str, dict[str, Any]] = {}
        self._used = 0
        self.left_out = 0
        """Results whose items did not fit."""

    def read(self, found: Sequence[Result]) -> list[Samples]:
        """Return those samples of results of one board that are shown or ranked by, packing what is shown.

        Raises:
            DataError: they are missing, unreadable or not those of the result.
        """
        samples = read_samples_of(found, columns_of_view(next(iter(found[0].metrics.values()))))
        for one, own in zip(found, samples, strict=True):
            if one.key not in self._packed:
                self._packed[one.key] = self._pack(one, own)
        return samples

    def of(self, result: Result) -> Mapping[str, Any]:
        """Return what was packed of a result; ``why`` says why there is nothing."""
        if result.key not in self._packed:
            self.read([result])
        return self._packed[result.key]

    def _pack(self, result: Result, samples: Samples) -> dict[str, Any]:
        score = next(iter(result.metrics.values()))
        try:
            view = item_view(samples, score)
        except (DataError, ValueError, TypeError) as error:
            raise DataError(f"{result.path}: {error}; `ssleval run --force` measures it again") from error
        if view is None:
            return {"why": f"no view of single items for {score.statistic.get('name', 'this statistic')}"}
        if self._used >= self._limit:
            self.left_out += 1
            return {"why": "left out to keep the page small; --detail-mb raises the limit"}
        before = self._pool.size
        packed = self._packed_view(samples, view)
        self._used += self._pool.size - before + _size(packed)
        return packed

    def _packed_view(self, samples: Samples, view: ItemView) -> dict[str, Any]:
        packed: dict[str, Any] = {}
        if view.classes is not None:
            packed["classes"] = self._pool.add_shared(_listed(view.classes))
            packed["by_class"] = _rounded(view.classes)
        if view.values is None:
            return packed
        packed["ids"] = self._pool.add_shared(samples.ids)
        packed["values"] = encode(view.values == 1 if view.is_right_or_wrong else view.values)
        if view.labels is not None:
            packed["labels"] = self._pool.add_shared(encode_labels(view.labels))
        if view.predicted is not None:
            packed["predicted"] = encode(view.predicted)
        return packed


def _size(packed: Mapping[str, Any]) -> int:
    """Return about how many characters the values take."""
    arrays = (packed.get(name, ("", "")) for name in ("values", "predicted"))
    return sum(len(text) for _, text in arrays) + 8 * len(packed.get("by_class", ()))


def _listed(classes: Classes) -> dict[str, list[int]]:
    """Return which classes there are, the same object for those just seen: models of a board share them."""
    labels, counts = (part.astype(np.int64).tobytes() for part in (classes.labels, classes.counts))
    return _listed_bytes(labels, counts)


@lru_cache(maxsize=4)
def _listed_bytes(labels: bytes, counts: bytes) -> dict[str, list[int]]:
    return {
        name: np.frombuffer(one, np.int64).tolist() for name, one in (("labels", labels), ("counts", counts))
    }


def _rounded(classes: Classes) -> list[float | None]:
    found: list[float | None] = np.round(classes.values, 5).tolist()
    return [None if value != value else value for value in found]  # noqa: PLR0124 - no NaN
