"""Words of messages that several rooms share."""

from collections.abc import Sequence

NOT_MEASURED = "not applicable: "
"""Begins a note on a requested measurement that is left out; ``--quiet`` shows such notes all the same."""

DECODING_LIMITS = "decoding is the limit: "
"""Begins a note that a run makes once."""


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return ``1 task``, ``2 tasks`` or ``1,000 tasks``; ``plural`` where it is not ``noun`` with an s."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


def some(names: Sequence[object], most: int = 5) -> str:
    """Return some names from a file, shortened and printable, for a message of one line."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(_shown, names[:most])) + more


def _shown(name: object) -> str:
    text = str(name)
    return text if len(text) <= 80 and text.isprintable() else repr(text[:80])
