"""How alike models see images, as it is stored in a results folder. Imports no torch."""

import re
from itertools import combinations
from pathlib import Path
from typing import Any

import msgspec

from ssleval.core import digest
from ssleval.errors import DataError
from ssleval.results.stored import read_bytes

KIND = "similarity"
"""Begins the names of files in a results folder."""
_MOST_BYTES = 1 << 26


class Pair(msgspec.Struct, frozen=True):
    """Two models, as places in the list, and their similarities: value, and ends of the interval."""

    first: int
    second: int
    cka: tuple[float, float, float]
    mutual_knn: tuple[float, float, float]


class Similarities(msgspec.Struct, frozen=True):
    """All pairs of some models on one split."""

    dataset: str
    split: str
    fingerprint: str
    readout: str
    images: int
    k: int
    models: list[str]
    weights_sha256: list[str]
    pairs: list[Pair]
    precision: str = ""
    """Of forward passes; '' where a file does not say."""


def file_of(found: Similarities, folder: Path) -> Path:
    """Return the file of similarities in a results folder, one for all that decides them."""
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", found.dataset)[-80:]
    decisive = [found.readout, found.split, found.models, found.weights_sha256, found.k, found.precision]
    kind = found.readout.partition("[")[0]
    return folder / f"{KIND}-{safe}-{found.fingerprint[:8]}-{kind}-{digest(decisive)[:8]}.json"


def read_similarities(folder: Path) -> list[Similarities]:
    """Return all similarities in a results folder, sorted by name; DataError: a file that is none."""
    found: list[Similarities] = []
    for path in sorted(folder.glob(f"{KIND}-*.json")):
        try:
            one = msgspec.json.decode(read_bytes(path, _MOST_BYTES), type=Similarities)
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: no file of `ssleval similarity` ({error}); remove it") from error
        count = len(one.models)
        # Compared before a table of all pairs is made: names alone are cheap.
        if len(one.pairs) != count * (count - 1) // 2 or count != len(one.weights_sha256):
            raise DataError(f"{path}: {len(one.pairs):,} pairs of {count:,} models, not all; remove it")
        if {(pair.first, pair.second) for pair in one.pairs} != set(combinations(range(count), 2)):
            raise DataError(f"{path}: it pairs models that it does not name; remove it")
        found.append(one)
    return found


def matrix(found: Similarities) -> list[list[str]]:
    """Return a table in percent: CKA above the diagonal, shared neighbours below, with half intervals."""
    cells = [["" for _ in found.models] for _ in found.models]
    for pair in found.pairs:
        cells[pair.first][pair.second] = _shown(pair.cka)
        cells[pair.second][pair.first] = _shown(pair.mutual_knn)
    return [[name, *row] for name, row in zip(found.models, cells, strict=True)]


def to_dict(found: Similarities) -> dict[str, Any]:
    """Return it as JSON can hold it."""
    return msgspec.to_builtins(found)


def _shown(ends: tuple[float, float, float]) -> str:
    return f"{100 * ends[0]:.1f} ±{50 * (ends[2] - ends[1]):.1f}"
