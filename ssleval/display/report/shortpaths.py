"""Texts of the page without the folders of this machine: a page is passed on, a home folder is not.

Of a path, its last part is kept, and as many folders before it as tell two names apart. Web addresses and
names on a hub stay whole.
"""

import re
from collections.abc import Iterable
from typing import Any

_ROOTED = re.compile(r"""(^|[\s'"(=,\[:@])(?:/(?!/)|~/|[A-Za-z]:[\\/])(?:[^\s/\\:'",;]+[/\\])*(?=[^\s/\\])""")
"""The folders of an absolute path, wherever it stands in a text."""
_LEADING = re.compile(r"^((?:[\w+-]+:)*)(?:/(?!/)|~/|[A-Za-z]:[\\/])(?:.*[/\\])?(?=[^/\\]+$)")
"""The same of a text that is nothing but a path, whose folders may have spaces in their names."""
_LOCAL = re.compile(
    r"^((?:folder|manifest|masks|rgbd_pairs|rgbd|groups|captions|wds|file|native|onnx|exported):)(.*[/\\].*)$"
)
_SEPARATOR = re.compile(r"[/\\]+")


class ShortPaths:
    """Shortens texts, and what holds them."""

    def __init__(self, names: Iterable[str]) -> None:
        """Take the names of models and datasets, which must stay distinct."""
        self._short = short_names(names)
        self._seen: dict[int, tuple[Any, Any]] = {}

    def __call__(self, value: Any) -> Any:
        """Return a text, or a list or mapping of texts, without folders."""
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, dict):
            return {self._text(name): self(inner) for name, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self(inner) for inner in value]
        return value

    def shared(self, value: Any) -> Any:
        """Do the same once for every object, however often it is passed."""
        if id(value) not in self._seen:
            # The object is kept, so that its id stays unique.
            self._seen[id(value)] = value, self(value)
        return self._seen[id(value)][1]

    def _text(self, text: str) -> str:
        if "/" not in text and "\\" not in text:
            return text
        for name, short in self._short.items():
            text = text.replace(name, short)
        return _ROOTED.sub(r"\1", _LEADING.sub(r"\1", text))


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Return the short form of every name that has folders, the longest name first."""
    split = {name: parts for name in set(names) if (parts := _parts(name))}
    short: dict[str, str] = {}
    for name, (prefix, folders) in split.items():
        others = [parts for other, (start, parts) in split.items() if other != name and start == prefix]
        count = next(
            (n for n in range(1, len(folders)) if all(other[-n:] != folders[-n:] for other in others)),
            len(folders),
        )
        short[name] = prefix + "/".join(folders[-count:])
    return dict(sorted(short.items(), key=lambda pair: -len(pair[0])))


def _parts(name: str) -> tuple[str, list[str]] | None:
    """Return the prefix and the parts of the path of a name that means a local file or folder."""
    rooted = _LEADING.match(name)
    local = _LOCAL.match(name)
    if rooted is None and local is None:
        return None
    prefix = rooted[1] if rooted else local[1] if local else ""
    return prefix, [part for part in _SEPARATOR.split(name[len(prefix) :]) if part not in ("", "~", ".", "..")]
