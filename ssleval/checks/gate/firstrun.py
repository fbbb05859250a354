"""The first run of a gate: there is no baseline yet, and the candidate becomes it."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ssleval.checks.gate.verdicts import FIRST_RUN, Verdict, judge
from ssleval.core.files import write_atomically
from ssleval.core.registry import spelt_as_path
from ssleval.errors import ConfigError
from ssleval.results.compare import Pairing
from ssleval.results.record import samples_file
from ssleval.run.measure import Note


def is_missing(baseline: str) -> bool:
    """Return whether a baseline is a path at which there is nothing yet, or a folder without results."""
    path = Path(baseline)
    if path.is_dir():
        return not any(path.rglob("*.json"))
    return spelt_as_path(baseline) and "@" not in path.name and ":" not in path.name and not path.exists()


def refuse_unrecordable(baseline: str) -> None:
    """Refuse a missing baseline that is no results: weights are the caller's to keep."""
    path = Path(baseline)
    if path.suffix and spelt_as_path(path.name):
        raise ConfigError(
            f"gate: --first-run pass records results in a folder; --baseline {baseline} is a file; name a "
            "folder, such as ./baseline"
        )


def recorded(
    pairs: Sequence[Pairing], baseline: str, margins: Mapping[str, float], note: Note
) -> list[Verdict]:
    """Copy the results of ``pairs``, each of a result with itself, into the folder ``baseline``.

    Returns:
        A pass for each, which says so.

    Raises:
        ConfigError: a task without a margin, which the next run could not judge; nothing is copied.
    """
    verdicts = judge(pairs, margins)
    for result in (result for pair in pairs for result in pair.second):
        # The samples first: a result without them could not be compared.
        for file in filter(None, (samples_file(result), result.path)):
            write_atomically(Path(baseline) / file.name, partial(shutil.copyfile, file))
    said = f"{FIRST_RUN}: the candidate's results are the baseline from now on, in {baseline}"
    note(f"gate: {said}")
    return [replace(verdict, reason=said) for verdict in verdicts]
