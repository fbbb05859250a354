"""What decides the features of a user's model beside its weights: source code and attributes, hashed.

Neither hash is complete: code may read files, draw random numbers or ask for the time. Stored features are
therefore also compared with what the model returns (`ssleval.features.probe`).
"""

import ast
import hashlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from copyreg import dispatch_table
from enum import Enum
from functools import cached_property, lru_cache
from importlib.machinery import PathFinder
from importlib.util import resolve_name
from pathlib import Path, PurePath
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, ModuleType, NoneType
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from ssleval.core import digest

_Seen: TypeAlias = dict[int, tuple[int, Any]]
"""Objects by id, each with the order in which it was met; held, so that no other takes its id."""
_DEVICE = re.compile(r"(cpu|mps|cuda)(:\d+)?")
_OF_TORCH = frozenset(vars(nn.Module()))
"""Attributes that every module has."""
_DEEPEST = 40
"""Levels of attributes within attributes; below them only the type counts."""


def is_users(module: str) -> bool:
    """Return whether a Python module belongs to neither ssleval, Python nor an installed package."""
    root = module.partition(".")[0]
    if root == "ssleval" or root in sys.stdlib_module_names:
        return False
    origin = _origin(module)
    return origin is None or not {"site-packages", "dist-packages"} & set(Path(origin).parts)


def code_sha256(model: nn.Module, modules: Iterable[str] = ()) -> str:
    """Hash the source of a user's model: of its classes, of ``modules``, and of what these import.

    Only files that `is_users` are followed. Of a class that was typed in and has no file, its compiled
    methods count. '' where all is ours or of an installed package.
    """
    types = {kind for part in model.modules() for kind in type(part).__mro__}
    root = type(model).__module__
    names = {root, *modules} | {kind.__module__ for kind in types if is_users(kind.__module__)}
    typed = sorted((kind for kind in types if _is_typed(kind)), key=lambda kind: kind.__qualname__)
    compiled = [[kind.__qualname__, _plain(dict(vars(kind)), {})] for kind in typed]
    sources = _sources(name for name in names if name.partition(".")[0] != "ssleval")
    return digest([sources, compiled]) if sources or compiled else ""


def attributes_sha256(model: nn.Module) -> str:
    """Hash what a model holds beside its registered weights, as pickling would see it.

    Of every module in it: its name, class, plain attributes and buffers that are not saved. Devices, the
    card and cached properties are left out, and so is what a ``__getstate__`` of the class leaves out.
    """
    seen: _Seen = {id(part): (index, part) for index, part in enumerate(model.modules())}
    saved = model.state_dict().keys()
    unsaved = {name: buffer for name, buffer in model.named_buffers() if name not in saved}
    parts = [[name, _name(type(part)), _plain(_own(part), seen)] for name, part in model.named_modules()]
    return digest([parts, _plain(unsaved, seen)])


def _own(part: nn.Module) -> dict[str, Any]:
    """Return the attributes of a module that decide what it computes."""
    try:
        state: Any = part.__getstate__()
    except Exception:
        state = vars(part)
    state = state if isinstance(state, dict) else {"state": state}
    left_out = _OF_TORCH | {"card", "_map_grids"}
    return {
        name: value
        for name, value in state.items()  # pyright: ignore[reportUnknownVariableType]
        if name not in left_out and not isinstance(getattr(type(part), str(name), None), cached_property)
    }


def _sources(modules: Iterable[str]) -> list[str]:
    """Return the hashes of the files of ``modules`` and of all users' modules that they import."""
    left, seen, found = list(modules), set[str](), set[str]()
    while left:
        name = left.pop()
        path = Path(_origin(name) or "")
        if name in seen or not path.is_file():
            continue
        seen.add(name)
        stat = path.stat()
        sha256, imported = _read(name, path, stat.st_mtime_ns, stat.st_size)
        found.add(sha256)
        left += filter(is_users, imported)
    return sorted(found)


@lru_cache(maxsize=1024)
def _read(module: str, path: Path, _mtime: int, _size: int) -> tuple[str, tuple[str, ...]]:
    """Return the hash of a source file and the names of all that it may import; kept until it changes."""
    content = path.read_bytes()
    names = tuple(_imported(module, path, content)) if path.suffix == ".py" else ()
    return hashlib.sha256(content).hexdigest(), names


def _imported(module: str, path: Path, content: bytes) -> Iterator[str]:
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(content)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _with_parents(alias.name)
        elif isinstance(node, ast.ImportFrom) and (package or not node.level):
            base = resolve_name("." * node.level + (node.module or ""), package or None)
            yield from _with_parents(base)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _with_parents(name: str) -> Iterator[str]:
    """Yield a module and its packages, whose code runs when it is imported."""
    while name:
        yield name
        name = name.rpartition(".")[0]


def _origin(name: str) -> str | None:
    """Return the file of a module, which need not be imported yet, without importing it."""
    if name in sys.modules:
        return getattr(sys.modules[name], "__file__", None)
    package = name.rpartition(".")[0]
    search = getattr(sys.modules.get(package), "__path__", None)
    spec = PathFinder.find_spec(name, search) if search or not package else None
    return spec.origin if spec is not None else None


def _is_typed(kind: type) -> bool:
    root = kind.__module__.partition(".")[0]
    return root not in {"ssleval", *sys.stdlib_module_names} | {"torch"} and _origin(kind.__module__) is None


def _name(kind: Any) -> str:
    return f"{getattr(kind, '__module__', '')}.{getattr(kind, '__qualname__', type(kind).__qualname__)}"


def _plain(value: Any, seen: _Seen, depth: int = 0) -> Any:
    """Return ``value`` as JSON that is equal in every process where what it holds is equal.

    ``seen`` holds the objects met before, so that those which hold each other come to an end.
    """
    for kinds, text in _LEAVES:
        if isinstance(value, kinds):
            return text(value)
    if depth > _DEEPEST:
        return _name(type(value))
    if not isinstance(value, (tuple, frozenset, CodeType)):
        if id(value) in seen:
            return ["seen", seen[id(value)][0]]
        seen[id(value)] = (len(seen), value)
    if isinstance(value, Mapping):
        pairs = [[_plain(k, {}, depth + 1), _plain(v, seen, depth + 1)] for k, v in value.items()]  # pyright: ignore[reportUnknownVariableType]
        return sorted(pairs, key=lambda pair: digest(pair[0]))
    parts = [_plain(part, seen, depth + 1) for part in _parts(value)]
    return sorted(parts, key=digest) if isinstance(value, (set, frozenset)) else parts


def _parts(value: Any) -> Iterable[Any]:
    """Return what an object consists of; what is no container is taken apart as pickling does."""
    if isinstance(value, (tuple, list, set, frozenset)):
        return value  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, CodeType):
        return value.co_name, value.co_code, value.co_names, value.co_consts
    if isinstance(value, FunctionType):
        return _used(value)
    try:
        # Patterns and the like, which have no method for it, are registered.
        reduce = dispatch_table.get(type(value))
        reduced: Any = value.__reduce_ex__(4) if reduce is None else reduce(value)
    except Exception:
        return (type(value),)
    return [list(part) if isinstance(part, Iterator) else part for part in reduced]  # pyright: ignore[reportUnknownVariableType]


def _hashed(value: Any) -> list[Any]:
    """Return type, shape and hash of an array or of bytes."""
    if isinstance(value, Tensor):
        array = value.detach().cpu().contiguous()
        return [str(array.dtype), list(array.shape), _sha256(array.reshape(-1).view(torch.uint8).numpy())]
    array = np.frombuffer(value, np.uint8) if isinstance(value, (bytes, bytearray)) else np.asarray(value)
    if array.dtype.hasobject:
        return [str(array.dtype), list(array.shape), [str(part) for part in array.ravel().tolist()]]
    return [str(array.dtype), list(array.shape), _sha256(np.ascontiguousarray(array))]


def _sha256(array: np.ndarray) -> str:
    return hashlib.sha256(array.reshape(-1).view(np.uint8).data).hexdigest()


def _used(function: FunctionType) -> tuple[Any, ...]:
    """Return what decides what a function computes: code, defaults and the variables that it reads."""
    code, cells = function.__code__, function.__closure__ or ()
    outer = [cell.cell_contents for cell in cells if cell != CellType()]
    names = (name for name in code.co_names if name in function.__globals__)
    return (
        code, function.__defaults__, function.__kwdefaults__, outer,
        [function.__globals__[name] for name in names],
    )  # fmt: skip


_LEAVES: tuple[tuple[Any, Callable[[Any], Any]], ...] = (
    ((NoneType, bool, int), lambda value: value),
    ((str, PurePath), lambda value: "" if _DEVICE.fullmatch(str(value)) else str(value)),
    ((float, complex, np.dtype, torch.dtype, Enum), repr),
    ((bytes, bytearray, Tensor, np.ndarray, np.generic), _hashed),
    ((type, ModuleType, BuiltinFunctionType, torch.device), _name),
)
"""Types of values that hold no others, and what stands for them."""
