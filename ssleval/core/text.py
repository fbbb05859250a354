"""Words of messages that several rooms share."""

from collections.abc import Sequence

NOT_MEASURED = "not applicable: "
"""Begins a note on a requested measurement that is left out; ``--quiet`` shows such notes all the same."""


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return ``1 task``, ``2 tasks`` or ``1,000 tasks``; ``plural`` where it is not ``noun`` with an s."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


def some(names: Sequence[str], most: int = 4) -> str:
    """Return the first names of a list, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
