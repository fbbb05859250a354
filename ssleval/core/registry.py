"""The registry, which maps names to objects. It is the only plug-in mechanism of ssleval."""

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
    """A mapping from names to objects, where each name is registered once.

    The first access imports every module of ``package``, so that a new plug-in is a new file without
    edits elsewhere. Other packages add plug-ins through the entry-point group ``ssleval.<kind>s``; those
    are imported when their name is looked up. Import errors are not caught.
    """

    def __init__(self, kind: str, package: str = "") -> None:
        self.kind = kind
        self.group = f"ssleval.{kind}s"
        self.package = package or self.group
        self._items: dict[str, T] = {}
        self._loaded = False

    def register(self, name: str) -> Callable[[S], S]:
        """Return a decorator that registers its argument under ``name`` and returns it unchanged."""

        def add(item: S) -> S:
            if name in self._items:
                raise DuplicateNameError(f"{self.kind} {name!r} is already {self._items[name]!r}")
            self._items[name] = item  # pyright: ignore[reportArgumentType]
            return item

        return add

    def get(self, name: str) -> T:
        """Return the object registered under ``name``; an UnknownNameError offers the nearest names."""
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
        return iter(sorted({*self._items, *entry_points(group=self.group).names}))

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        for module in pkgutil.iter_modules(import_module(self.package).__path__, f"{self.package}."):
            import_module(module.name)


def summaries(group: str, package: str = "") -> dict[str, str]:
    """Return the first docstring line of every plug-in module; none is imported, and so neither is torch."""
    spec = importlib.util.find_spec(package or group)
    lines = {point.name: f"from {point.value}" for point in entry_points(group=group)}
    for folder in (spec and spec.submodule_search_locations) or ():
        names = [module.name for module in pkgutil.iter_modules([folder])]
        lines |= {name: _first_line(Path(folder, f"{name}.py")) for name in names}
    return dict(sorted(lines.items()))


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return a hint for an error message: the known names closest to ``name``, else the first twelve."""
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
