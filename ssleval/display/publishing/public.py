"""What is published of results: names and texts without the folders of this machine."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from ssleval.core.files import write_text_atomically
from ssleval.core.text import public_names
from ssleval.errors import DataError
from ssleval.results import Result, leaderboard, matrix
from ssleval.results.overall import Overall
from ssleval.results.ranking import Board, boards


def public_boards(results: Sequence[Result]) -> list[Board]:
    """Return the boards of results whose models and datasets are named without absolute paths.

    Raises:
        DataError: there is no result.
    """
    if not results:
        raise DataError("no results to publish; `ssleval run` measures some")
    models = public_names(result.model for result in results)
    datasets = public_names(result.dataset for result in results)
    return boards(
        replace(result, model=models[result.model], dataset=datasets[result.dataset]) for result in results
    )


def file_names(names: Iterable[str]) -> dict[str, str]:
    """Return a file name for every name: plain letters, and different also where case does not count."""
    plain = {name: re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("_.")[:80] or "_" for name in names}
    alike = Counter(stem.lower() for stem in plain.values())
    return {
        name: stem if alike[stem.lower()] == 1 else f"{stem}-{_digits(name)}" for name, stem in plain.items()
    }


def _digits(name: str) -> str:
    return sha256(name.encode(errors="replace")).hexdigest()[:8]


def tables(ranked: Sequence[Board], found: Overall | None) -> dict[str, str]:
    """Return the files of tables: boards as CSV, wide and long, and the matrix, if there is one."""
    files = leaderboard.csv_tables(ranked)
    if found is not None:
        files |= {"overall.csv": matrix.csv(found), "overall.tex": matrix.latex(found)}
    return files


def write_files(folder: Path, files: dict[str, str]) -> None:
    """Write texts below ``folder``, each atomically."""
    for name, text in files.items():
        write_text_atomically(folder / name, text)
