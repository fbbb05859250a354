"""Statistics as data, so that a stored result can be compared without the task that made it."""

from collections.abc import Callable, Mapping
from functools import cache, partial
from inspect import signature
from typing import Any

from ssleval.core import Statistic, statistics
from ssleval.core.registry import suggestion
from ssleval.errors import ContractError, DataError


def describe(statistic: Statistic) -> dict[str, Any]:
    """Return a statistic made by one of the registered `statistics` as ``{"name": ..., "columns": {...}}``.

    Raises:
        ContractError: it was made in another way, so comparing stored results would need its code.
    """
    for name, factory in _factories().items():
        if isinstance(statistic, partial):
            columns = dict(statistic.keywords)
            made = factory(**columns) if set(columns) == _arguments(factory) else None
            if isinstance(made, partial) and made.func is statistic.func:
                return {"name": name, "columns": columns}
    raise ContractError(
        f"{statistic!r} is none of {', '.join(statistics)}; a stored result could not be compared"
    )


def statistic_from(described: Mapping[str, Any]) -> Statistic:
    """Return the statistic that `describe` described.

    Raises:
        DataError: this version does not know the name or its columns.
    """
    name, columns = described.get("name"), described.get("columns")
    factory = _factories().get(str(name))
    if factory is None or not isinstance(columns, dict) or set(columns) != _arguments(factory):
        raise DataError(f"statistic {described!r} is unknown here; {suggestion(str(name), statistics)}")
    return factory(**columns)


@cache
def _factories() -> dict[str, Callable[..., Statistic]]:
    return {name: statistics.get(name) for name in statistics}


@cache
def _arguments(factory: Callable[..., Statistic]) -> set[str]:
    return set(signature(factory).parameters)
