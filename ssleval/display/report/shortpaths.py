"""Texts of the page without the folders of this machine: a page is passed on, a home folder is not.

Of a path, its last part is kept, and as many folders before it as tell two names apart. Web addresses and
names on a hub stay whole.
"""

import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

_ROOTED = re.compile(r"""(^|[\s'"(=,\[:@])(?:/(?!/)|~/|[A-Za-z]:[\\/])(?:[^\s/\\:'",;]+[/\\])+(?=[^\s/\\])""")
"""The folders of an absolute path, wherever it stands in a text; of one name after a slash it is none."""
_LEADING = re.compile(r"^((?:[\w+-]+:)*)(?:/(?!/)|~/|[A-Za-z]:[\\/])(?:.*[/\\])?(?=[^/\\]+$)")
"""The same of a text that is nothing but a path, whose folders may have spaces in their names."""
_LOCAL = re.compile(
    r"^((?:folder|manifest|masks|rgbd_normals|rgbd_pairs|rgbd|navi_normals|navi_pairs|navi|groups|captions|wds|file|native|onnx|exported):)(.*[/\\].*)$"
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


class ShownIds:
    """Ids of items: absolute paths are shown from the folder on that all of a dataset share."""

    def __init__(self) -> None:
        self._roots: dict[str, str] = {}
        self._seen: dict[int, tuple[Sequence[str], Sequence[str]]] = {}

    def shown(self, dataset: str, ids: Sequence[str]) -> Sequence[str]:
        """Return the ids of the samples of one result; of the same object, the same object."""
        if id(ids) not in self._seen:
            rooted = [name for name in ids if name.startswith("/")]
            if rooted:
                self._roots.setdefault(
                    dataset, os.path.commonpath([name.rpartition("/")[0] or "/" for name in rooted])
                )
            short = [self.shown_one(dataset, name) for name in ids] if rooted else ids
            # The object is kept, so that its id stays unique.
            self._seen[id(ids)] = ids, short
        return self._seen[id(ids)][1]

    def shown_one(self, dataset: str, name: str) -> str:
        """Return one id, which tells its item from others as the whole path does."""
        root = self._roots.get(dataset)
        if root is None or not name.startswith("/"):
            return name
        return os.path.relpath(name, root)


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
    return prefix, [
        part for part in _SEPARATOR.split(name[len(prefix) :]) if part not in ("", "~", ".", "..")
    ]
