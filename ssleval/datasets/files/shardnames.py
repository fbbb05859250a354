"""Names of shards: folders, globs, and names with braces such as ``{train,test}/{000..012}.tar``."""

import math
import re
from itertools import product
from pathlib import Path

from ssleval.datasets.files.images import is_stray
from ssleval.errors import DataError

MOST_SHARDS = 100_000
"""As many as a pattern may name: it is read before there is any data."""


def shard_paths(location: str, owner: str) -> list[Path]:
    """Return the shards that a folder, a glob, or a name with braces stands for, in their order.

    Messages begin with ``owner``, the source that reads them.

    Raises:
        DataError: a named shard is absent, a location is not local, or there are more than `MOST_SHARDS`.
    """
    if "://" in location or location.startswith("pipe:"):
        raise DataError(f"{owner}:{location}: shards are read from local files; download them first")
    pattern = str(Path(location).expanduser())
    if Path(pattern).is_dir():
        nested = any(not is_stray(path.name) for path in Path(pattern).glob("*/*.tar"))
        pattern = f"{pattern}/*/*.tar" if nested else f"{pattern}/*.tar"
    paths: list[Path] = []
    for name in expand_braces(pattern, owner):
        if "*" in name or "?" in name:
            start = Path(Path(name).anchor)
            matches = (path for path in start.glob(str(Path(name).relative_to(start))) if path.is_file())
            paths += sorted((path for path in matches if not is_stray(path.name)), key=_natural)
        elif Path(name).is_file():
            paths.append(Path(name))
        else:
            raise DataError(f"{owner}:{name}: no such shard")
    return paths


def _natural(path: Path) -> list[tuple[int, str]]:
    # 10.tar comes after 9.tar: the order in which shards are written.
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path))]


def expand_braces(pattern: str, owner: str) -> list[str]:
    """Return the names that ``{a,b}`` and ``{000..012}`` stand for; the leftmost varies slowest."""
    parts = re.split(r"\{([^{}]*)\}", pattern)
    choices = [_choices(part) if index % 2 else [part] for index, part in enumerate(parts)]
    if math.prod(map(len, choices)) > MOST_SHARDS:
        raise DataError(
            f"{owner}:{pattern}: stands for more than {MOST_SHARDS:,} shards; name those that there are"
        )
    return ["".join(chosen) for chosen in product(*choices)]


def _choices(body: str) -> list[str]:
    numbers = re.fullmatch(r"(\d{1,99})\.\.(\d{1,99})", body)
    if not numbers:
        return body.split(",")
    first, last = numbers.groups()
    # One more than are allowed is enough to be refused.
    most = min(int(last), int(first) + MOST_SHARDS)
    return [f"{number:0{len(first)}d}" for number in range(int(first), most + 1)]
