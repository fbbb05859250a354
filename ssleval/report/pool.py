"""Values that many results share, each stored once: cards, protocols, ids, labels."""

import json
from typing import Any

__all__ = ["Pool"]


class Pool:
    """A list of JSON values without repeats; results refer to its places."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._places: dict[str, int] = {}
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

    def to_json(self) -> str:
        """Return all values as one JSON list."""
        return f"[{','.join(self._texts)}]"
