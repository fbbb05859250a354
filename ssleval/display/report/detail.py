"""Items and classes of every result, packed for the page up to a limit of size."""

from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any

import numpy as np

from ssleval.core import Samples
from ssleval.display.report.items import ItemView, columns_of_view, encode, item_view
from ssleval.display.report.pool import Pool
from ssleval.display.report.shortpaths import ShownIds
from ssleval.errors import DataError
from ssleval.metrics.paired import right_or_wrong
from ssleval.results.record import Result, read_samples_of


class Details:
    """Reads samples for the ranking, and packs what the page shows of them, so that they are read once."""

    def __init__(self, limit: int) -> None:
        """Pack at most ``limit`` characters."""
        self.pool = Pool()
        """Values that results share."""
        self.ids = ShownIds()
        self._limit = limit
        self._packed: dict[str, dict[str, Any]] = {}
        self._used = 0
        self.left_out = 0
        """Number of results whose items did not fit."""

    def read(self, results: Sequence[Result]) -> list[Samples]:
        """Return the columns needed for ranking and display of results of one board, and pack the latter."""
        all_samples = read_samples_of(results, columns_of_view(results[0].leading))
        for result, samples in zip(results, all_samples, strict=True):
            if result.key not in self._packed:
                self._packed[result.key] = self._pack(result, samples)
        return all_samples

    def of(self, result: Result) -> Mapping[str, Any]:
        """Return the packed items and classes of a result; or ``why`` there are none."""
        if result.key not in self._packed:
            self.read([result])
        return self._packed[result.key]

    def _pack(self, result: Result, samples: Samples) -> dict[str, Any]:
        score = result.leading
        try:
            view = item_view(samples, score)
        except (DataError, ValueError, TypeError) as error:
            raise DataError(f"{result.path}: {error}; `ssleval run --force` measures it again") from error
        if view is None:
            return {"why": f"no view of single items for {score.statistic.get('name', 'this statistic')}"}
        if self._used >= self._limit:
            self.left_out += 1
            return {"why": "left out to keep the page small; --detail-mb raises the limit"}
        before = self.pool.size
        packed = self._packed_view(result.dataset, samples, view)
        self._used += self.pool.size - before + _size(packed)
        return packed

    def _packed_view(self, dataset: str, samples: Samples, view: ItemView) -> dict[str, Any]:
        packed: dict[str, Any] = {}
        if (classes := view.classes) is not None:
            counted = {"labels": classes.labels.tolist(), "counts": classes.counts.astype(np.int64).tolist()}
            packed["classes"] = self.pool.add(counted)
            values = np.round(classes.values, 5).tolist()
            packed["by_class"] = [None if isnan(value) else value for value in values]
        if view.values is None:
            return packed
        binary = right_or_wrong(view.values)
        packed["ids"] = self.pool.add_shared(self.ids.shown(dataset, samples.ids))
        packed["values"] = encode(view.values == 1 if binary else view.values)
        if view.labels is not None:
            packed["labels"] = self.pool.add(encode(view.labels))
        if view.labels is not None and view.predicted is not None:
            wrong = view.values != 1
            # What is right was called by its label, and predictions are most of what a page holds.
            packed["only_wrong"] = binary and np.array_equal(view.predicted[~wrong], view.labels[~wrong])
            packed["predicted"] = encode(view.predicted[wrong] if packed["only_wrong"] else view.predicted)
        return packed


def _size(packed: Mapping[str, Any]) -> int:
    """Return the approximate number of characters of the values."""
    arrays = (packed.get(name, ("", "")) for name in ("values", "predicted"))
    return sum(len(text) for _, text in arrays) + 8 * len(packed.get("by_class", ()))
