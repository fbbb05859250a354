"""Values that many results share, each stored once: cards, protocols, ids, labels."""

import json
from typing import Any


class Pool:
    """A list of JSON values without repeats; results refer to its places."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._places: dict[str, int] = {}
        self._known: dict[int, tuple[Any, int]] = {}
        self.size = 0
        """Characters of all values."""

    def add(self, value: Any) -> int:
        """Return the place of a value, which is added if it is new.

        Raises:
            ValueError: it holds a number that is not finite, which JSON has no word for.
        """
        text = json.dumps(value, allow_nan=False, separators=(",", ":"))
        place = self._places.setdefault(text, len(self._texts))
        if place == len(self._texts):
            self._texts.append(text)
            self.size += len(text)
        return place

    def add_shared(self, value: Any) -> int:
        """Return the place of a value that callers hand in many times and never change.

        It is written once for as long as it is the same object, which is kept so that it stays that one.

        Raises:
            ValueError: it holds a number that is not finite, which JSON has no word for.
        """
        if id(value) not in self._known:
            self._known[id(value)] = value, self.add(value)
        return self._known[id(value)][1]

    def to_json(self) -> str:
        """Return all values as one JSON list."""
        return f"[{','.join(self._texts)}]"
