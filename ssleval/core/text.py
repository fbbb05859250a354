"""Words of messages that several rooms share."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import sha256

NOT_MEASURED = "not applicable: "
"""Begins a note on a requested measurement that is left out; ``--quiet`` shows such notes all the same."""

IDENTICAL = "identical files: "
"""Begins a note on images in two splits, which ``--quiet`` does not silence either."""

DECODING_LIMITS = "decoding is the limit: "
"""Begins a note that a run makes once."""


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return ``1 task``, ``2 tasks`` or ``1,000 tasks``; ``plural`` where it is not ``noun`` with an s."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


_FOLDERS = re.compile(
    r"(?<![^\s:,=(\[{'\"])(?:~|[A-Za-z]:(?=[/\\]))?[/\\](?![/\\])(?:[^\s:,/\\]+[/\\])*(?=[\w.])"
)
"""The folders of an absolute path; the two strokes of an address on the web begin none."""


def without_folders(text: str) -> str:
    """Return the text with only the last part of every absolute path."""
    return _FOLDERS.sub("", text)


def public_names(names: Iterable[str]) -> dict[str, str]:
    """Return a name without absolute paths for every name; those that would be alike get a digest."""
    short = {name: without_folders(name) for name in names}
    alike = Counter(short.values())
    return {
        name: public
        if alike[public] == 1
        else f"{public}#{sha256(name.encode(errors='replace')).hexdigest()[:4]}"
        for name, public in short.items()
    }


def some(names: Sequence[object], most: int = 5) -> str:
    """Return some names from a file, shortened and printable, for a message of one line."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(_shown, names[:most])) + more


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, shortened; its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _shown(name: object) -> str:
    text = str(name)
    return text if len(text) <= 80 and text.isprintable() else repr(text[:80])
