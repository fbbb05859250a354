"""The registry, which maps names to objects. It is the only plug-in mechanism of ssleval."""

import ast
import importlib.util
import os
import pkgutil
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Generic, TypeVar

from ssleval.core.faults import faults_of
from ssleval.errors import ContractError, DuplicateNameError, UnknownNameError

T = TypeVar("T")
S = TypeVar("S")

_OF_FILES = {".pth", ".pt", ".safetensors", ".ckpt", ".bin", ".tar", ".npz", ".json", ".py", ".yaml", ".yml"}


class Registry(Generic[T]):
    """A mapping from names to objects, where each name is registered once.

    The first access imports every module of ``package``, so that a new plug-in is a new file without
    edits elsewhere. Other packages add plug-ins through the entry-point group ``ssleval.<kind>s``; those
    are imported when their name is looked up, so that a broken one stands in nobody else's way. ``accepts``
    says what an item may be.
    """

    def __init__(self, kind: str, package: str = "", accepts: Callable[[object], bool] | None = None) -> None:
        self.kind, self.accepts = kind, accepts
        self.group = f"ssleval.{kind}s"
        self.package = package or self.group
        self._items: dict[str, T] = {}
        self._claimed: frozenset[str] = frozenset()
        """Names of ours that plug-ins claim too."""
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
        """Return the object registered under ``name``.

        Raises:
            UnknownNameError: there is none; the message offers the nearest names.
            DuplicateNameError: several packages claim the name.
            ContractError: it is a plug-in that cannot be imported, or is no such thing.
        """
        self._load()
        if name not in self._items or name in self._claimed:
            self._items[name] = self._plugged_in(name)
        return self._items[name]

    def _plugged_in(self, name: str) -> T:
        points = [point for point in entry_points(group=self.group) if point.name == name]
        if name in self._items:
            raise DuplicateNameError(f"plug-in {points[0].value} claims {self.kind} {name!r} of ssleval")
        if not points:
            raise UnknownNameError(f"no {self.kind} {name!r}; {suggestion(name, self)}")
        if len(points) > 1:
            values = ", ".join(point.value for point in points)
            raise DuplicateNameError(f"{self.kind} {name!r} is claimed by several packages: {values}")
        owner = f"plug-in {name!r} of {self.group}, {points[0].value}"
        with faults_of(owner, foreign=True):
            item = points[0].load()
        if self.accepts is not None and not self.accepts(item):
            raise ContractError(f"{owner}: {type(item).__name__} {item!r:.80} is no {self.kind}")
        return item

    def __contains__(self, name: object) -> bool:
        self._load()
        return name in self._items or name in entry_points(group=self.group).names

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(sorted({*self._items, *entry_points(group=self.group).names}))

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        for module in pkgutil.iter_modules(import_module(self.package).__path__, f"{self.package}."):
            import_module(module.name)
        self._claimed = frozenset(entry_points(group=self.group).names & self._items.keys())


def summaries(group: str, package: str = "") -> dict[str, str]:
    """Return the first docstring line of every plug-in module; none is imported, and so neither is torch."""
    spec = importlib.util.find_spec(package or group)
    lines = {point.name: f"from {point.value}" for point in entry_points(group=group)}
    for folder in (spec and spec.submodule_search_locations) or ():
        names = [module.name for module in pkgutil.iter_modules([folder])]
        lines |= {name: _first_line(Path(folder, f"{name}.py")) for name in names}
    return dict(sorted(lines.items()))


def unknown(kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """Return the error for a name that is none of ``known``; one that is spelt as a path is a path."""
    path = Path(name)
    if spelt_as_path(name):
        if "\0" in name or not path.exists():
            return UnknownNameError(f"no such file or folder: {name}")
        return UnknownNameError(f"{name} is a {'folder' if path.is_dir() else 'file'}, not a {kind}")
    return UnknownNameError(f"no {kind} {name!r}; {suggestion(name, known)}")


def spelt_as_path(name: str) -> bool:
    """Return whether a name looks like that of a file or folder; ``source:org/name`` does not."""
    if name.startswith((os.sep, ".", "~")):
        return True
    return ":" not in name and (os.sep in name or Path(name).suffix in _OF_FILES)


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
