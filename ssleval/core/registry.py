"""Names to objects. The only plug-in mechanism in ssleval."""

import ast
import importlib.util
import pkgutil
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Generic, TypeVar

from ssleval.errors import DuplicateNameError, UnknownNameError

T = TypeVar("T")
S = TypeVar("S")


class Registry(Generic[T]):
    """A write-once mapping from a name to an object.

    The first access imports every module of ``package``, so a new plug-in is a new file and no edit.
    Third parties add theirs through the entry-point group ``ssleval.<kind>s``; one of those is
    imported only when it is asked for. An import error is not caught.
    """

    def __init__(self, kind: str, package: str = "") -> None:
        self.kind = kind
        self.group = f"ssleval.{kind}s"
        self.package = package or self.group
        self._items: dict[str, T] = {}
        self._loaded = False

    def register(self, name: str) -> Callable[[S], S]:
        """Return a decorator that adds its argument under ``name`` and hands it back unchanged."""

        def add(item: S) -> S:
            if name in self._items:
                raise DuplicateNameError(f"{self.kind} {name!r} is already {self._items[name]!r}")
            self._items[name] = item  # pyright: ignore[reportArgumentType]
            return item

        return add

    def get(self, name: str) -> T:
        """Return the object called ``name``.

        Raises:
            UnknownNameError: no such name; the message offers the nearest ones.
        """
        self._load()
        if name not in self._items:
            points = [point for point in entry_points(group=self.group) if point.name == name]
            if not points:
                raise UnknownNameError(f"no {self.kind} {name!r}; {suggestion(name, self)}")
            if len(points) > 1:
                raise DuplicateNameError(f"{self.kind} {name!r} is claimed by {len(points)} packages")
            self._items[name] = points[0].load()
        return self._items[name]

    def __contains__(self, name: object) -> bool:
        return name in set(self)

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(sorted({*self._items, *(point.name for point in entry_points(group=self.group))}))

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        for module in pkgutil.iter_modules(import_module(self.package).__path__, f"{self.package}."):
            import_module(module.name)


def summaries(group: str, package: str = "") -> dict[str, str]:
    """Return the first docstring line of every plug-in module of ``package``, importing none of them.

    This is how plug-ins that need torch are listed by commands that must not import it.
    """
    found = importlib.util.find_spec(package or group)
    folders = [] if found is None else list(found.submodule_search_locations or [])
    ours = {
        module.name: _first_line(Path(folder) / f"{module.name}.py")
        for folder in folders
        for module in pkgutil.iter_modules([folder])
    }
    third = {point.name: f"from {point.value}" for point in entry_points(group=group)}
    return dict(sorted({**third, **ours}.items()))


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return a hint for an error message: the names most like ``name``, else a few of them all."""
    names = sorted(known)
    close = get_close_matches(name, names, n=3)
    if close:
        return f"did you mean {', '.join(close)}?"
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return f"known: {', '.join(names[:12])}{more}"


def _first_line(path: Path) -> str:
    if not path.exists():
        return ""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
