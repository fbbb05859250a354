"""Words of messages that depend on a number."""


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return ``1 task``, ``2 tasks`` or ``1,000 tasks``; ``plural`` where it is not ``noun`` with an s."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"
