"""Settings of the whole suite, before any test imports the package."""

import typing
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any

import jaxtyping
from hypothesis import settings

settings.register_profile("suite", max_examples=25, deadline=None, derandomize=True, database=None)
settings.load_profile("suite")


def states_arrays(annotation: object) -> bool:
    """Return whether an annotation, of a type or of a part of it, states an array's shape."""
    if isinstance(annotation, str):
        return "[" in annotation
    if isinstance(annotation, type) and issubclass(annotation, jaxtyping.AbstractArray):
        return True
    return any(
        map(states_arrays, annotation if isinstance(annotation, list) else typing.get_args(annotation))
    )


def checked_where_arrays_are(checks: Callable[..., Any]) -> Callable[..., Any]:
    """Let `jaxtyped` leave alone what states no array: those types are pyright's.

    Checking every call of every function would take a third of the time of all tests.
    """

    def jaxtyped(**settings: Any) -> Callable[[Any], Any]:
        def decorated(item: Any) -> Any:
            wanted = is_dataclass(item) or not isinstance(item, type)
            stated = getattr(item, "__annotations__", {}).values() if wanted else ()
            return checks(**settings)(item) if any(map(states_arrays, stated)) else item

        return decorated

    return jaxtyped


jaxtyping.jaxtyped = checked_where_arrays_are(jaxtyping.jaxtyped)
