"""JSON values that many results share, each stored once: cards, protocols, ids, labels."""

import json
from typing import Any


class Pool:
    """A list of JSON values without duplicates; results refer to values by their place."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}
        self._known: dict[int, tuple[Any, int]] = {}
        self.size = 0
        """Characters of all values."""

    def add(self, value: Any) -> int:
        """Return the place of a value, which is added if it is new.

        Raises:
            ValueError: it holds a number that is not finite, which JSON cannot express.
        """
        text = json.dumps(value, allow_nan=False, separators=(",", ":"))
        if text not in self._places:
            self._places[text] = len(self._places)
            self.size += len(text)
        return self._places[text]

    def add_shared(self, value: Any) -> int:
        """Do what `add` does, and encode the value once however often the same object is passed."""
        if id(value) not in self._known:
            # The pool keeps the object, so that its id stays unique.
            self._known[id(value)] = value, self.add(value)
        return self._known[id(value)][1]

    def to_json(self) -> str:
        """Return all values as one JSON list."""
        return f"[{','.join(self._places)}]"
