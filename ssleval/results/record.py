"""The record of one measurement: one JSON file, and its samples in a file beside it.

Fields are only ever added: a reader of an old file sees the default of a new field. Both files are
written under another name and then renamed, the JSON last, so that a results folder never holds half
a result whatever happens. Imports no torch: reading results works anywhere.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache
from math import isfinite
from pathlib import Path
from typing import Any

from ssleval.core import Samples, digest
from ssleval.core.files import write_atomically, write_text_atomically
from ssleval.errors import ContractError, DataError
from ssleval.results import samplefiles

SCHEMA = 1
"""Raised only when a field changes its meaning."""


@dataclass(frozen=True, slots=True)
class Score:
    """One number and what is needed to weigh it."""

    value: float
    """In the metric's own unit; fractions are in [0, 1]."""
    ci95: tuple[float, float]
    """Percentile bootstrap over items."""
    n: int
    """Items it is a statistic of."""
    unit: str = "fraction"
    higher_is_better: bool = True
    statistic: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Which statistic of which columns of the samples: enough to resample it without the task."""


@dataclass(frozen=True, slots=True)
class Result:
    """Scores, and everything needed to reproduce them or to refuse to compare them."""

    model: str
    task: str
    dataset: str
    key: str
    """What was measured, apart from when and where: equal keys promise equal scores."""
    metrics: Mapping[str, Score]
    """The first is the one a leaderboard ranks by."""
    protocol: Mapping[str, Any]
    """The task's own fields as run, and its version."""
    backbone: Mapping[str, Any]
    """The model's card."""
    data: Mapping[str, Any]
    """The dataset's card without its class names, and a fingerprint per split used."""
    weights_sha256: str
    settings: Mapping[str, Any]
    """What else may move a score: precision, seed, limit, skip_corrupt."""
    skipped: Mapping[str, list[str]] = field(default_factory=dict[str, list[str]])
    """Images that could not be decoded and were left out, by split."""
    versions: Mapping[str, str] = field(default_factory=dict[str, str])
    hardware: Mapping[str, str] = field(default_factory=dict[str, str])
    timings: Mapping[str, float] = field(default_factory=dict[str, float])
    cost: Mapping[str, float] = field(default_factory=dict[str, float])
    """``flops_per_image`` of a forward pass at ``image_side`` pixels; older files lack it."""
    created: str = ""
    schema: int = SCHEMA
    path: Path | None = None
    """Where it is stored; not part of the file."""
    cached: bool = False
    """Whether it was read back instead of measured; not part of the file."""

    def to_dict(self) -> dict[str, Any]:
        """Return what the file holds, plus ``path`` and ``cached``."""
        return {**asdict(self), "path": None if self.path is None else str(self.path)}

    def to_row(self) -> dict[str, Any]:
        """Return one flat row for a DataFrame: a column per metric and interval end."""
        row: dict[str, Any] = {"model": self.model, "task": self.task, "dataset": self.dataset}
        for name, score in self.metrics.items():
            row |= {name: score.value, f"{name}_low": score.ci95[0], f"{name}_high": score.ci95[1]}
            row[f"{name}_n"] = score.n
        return row | {"key": self.key, "weights_sha256": self.weights_sha256, "created": self.created}

    def file(self, folder: Path) -> Path:
        """Return the file this result belongs into below ``folder``."""
        return folder / _file(self.model, self.task, self.dataset, self.key)


_SCORE_FIELDS = frozenset(one.name for one in fields(Score))
_RESULT_FIELDS = frozenset(one.name for one in fields(Result)) - {"metrics", "path", "cached"}


def comparable(one: Result) -> str:
    """Return eight digits that two results share if task, protocol, scored split and data agree."""
    data = [one.data.get("fingerprints"), one.data.get("test_split")]
    return digest([one.task, one.protocol, data, one.settings.get("skip_corrupt")])[:8]


def by_comparable(found: Collection[Result]) -> dict[str, list[Result]]:
    """Return results by what `comparable` says of them, groups and members in the order given."""
    groups: dict[str, list[Result]] = {}
    known: dict[tuple[object, ...], str] = {}
    for one in found:
        # Results from files share these objects, which `found` keeps: an id is that of one of them.
        same = one.task, id(one.protocol), id(one.data), one.settings.get("skip_corrupt")
        if same not in known:
            known[same] = comparable(one)
        groups.setdefault(known[same], []).append(one)
    return groups


def write(folder: Path, result: Result, samples: Samples) -> Result:
    """Store a result and its samples below ``folder`` and return it as a later reader will see it.

    Raises:
        ContractError: a score is not a finite number.
    """
    for name, score in result.metrics.items():
        if not all(isfinite(number) for number in (score.value, *score.ci95)):
            raise ContractError(
                f"{result.task} on {result.dataset}: {name} is {score.value}; nothing is stored"
            )
    path = result.file(folder)
    stored = {name: value for name, value in asdict(result).items() if name not in {"path", "cached"}}
    text = json.dumps(stored, indent=1, allow_nan=False) + "\n"
    beside = path.with_suffix(samplefiles.SUFFIX)
    write_atomically(beside, lambda draft: samplefiles.save(draft, samples))
    write_text_atomically(path, text)
    samplefiles.remove_older(beside)
    return read(path)


def read(path: Path) -> Result:
    """Return the result stored in ``path``.

    Raises:
        DataError: it is no result, or of a newer schema.
    """
    try:
        stored = _parsed(path.read_bytes().decode())
        if stored["schema"] > SCHEMA:
            raise DataError(
                f"{path}: schema {stored['schema']}, this ssleval reads up to {SCHEMA}; upgrade it"
            )
        scores = {name: _score(score) for name, score in stored.pop("metrics").items()}
        known = {name: value for name, value in stored.items() if name in _RESULT_FIELDS}
        return Result(**known, metrics=scores, path=path)
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is no result file ({error}); move it out of the results folder") from error


def read_all(folder: Path) -> list[Result]:
    """Return every result below ``folder``, in a stable order.

    Raises:
        DataError: there is no such folder, or one of its files is no result.
    """
    if not folder.is_dir():
        raise DataError(f"no results folder {folder}; `ssleval run` creates one, `--results` names another")
    return [read(path) for path in sorted(folder.glob("*/*.json"), key=str)]


def find(folder: Path, model: str, task: str, dataset: str, key: str) -> Result | None:
    """Return the stored result of that key, marked as cached; None if there is none."""
    path = folder / _file(model, task, dataset, key)
    if not path.exists():
        return None
    found = read(path)
    return replace(found, cached=True) if found.key == key else None


def read_samples(result: Result, columns: Collection[str] | None = None) -> Samples:
    """Return the per-item samples stored beside a result; of ``columns``, those it has, where they are named.

    Raises:
        DataError: they are missing or unreadable.
    """
    (samples,) = read_samples_of([result], columns)
    return samples


def read_samples_of(found: Sequence[Result], columns: Collection[str] | None = None) -> list[Samples]:
    """Return what `read_samples` does of each, in less time and with all their files in memory.

    Raises:
        DataError: they are missing or unreadable.
    """
    return samplefiles.load([_samples_file(one) for one in found], columns)


def samples_bytes(result: Result) -> int:
    """Return how large the file of its samples is; 0 where it is missing, which reading it says."""
    return samplefiles.bytes_of(_samples_file(result))


def _samples_file(result: Result) -> Path:
    if result.path is None:
        raise DataError(
            f"{result.model} {result.task} on {result.dataset} was never stored; it has no samples"
        )
    return result.path.with_suffix(samplefiles.SUFFIX)


_FIELD = re.compile(r'\n "(\w+)": ')
"""Where a field of the file itself begins, in a file as `write` indents it; fields of fields stand deeper."""

_SHARED_FIELDS = ("protocol", "backbone", "data", "settings", "skipped", "versions", "hardware")
"""Those that many results have word for word."""


def _parsed(text: str) -> dict[str, Any]:
    """Return what the text holds; what results share is parsed once and held once."""
    start, *parts = _FIELD.split(text.rstrip().removesuffix("}"))
    try:
        if start != "{":
            return json.loads(text)
        pairs = zip(parts[::2], parts[1::2], strict=True)
        fields_of = {name: part.rstrip().removesuffix(",") for name, part in pairs}
        shared = {name: _shared(fields_of.pop(name)) for name in _SHARED_FIELDS if name in fields_of}
        own = ",".join([f'"{name}":{part}' for name, part in fields_of.items()])
        return {**json.loads(f"{{{own}}}"), **shared}
    except json.JSONDecodeError:
        # Indented otherwise, or broken: then the error counts from the start of the file.
        return json.loads(text)


@lru_cache(maxsize=4096)
def _shared(text: str) -> Any:
    return json.loads(text)


def _score(stored: dict[str, Any]) -> Score:
    low, high = stored["ci95"]
    stored["ci95"] = (low, high)
    if stored.keys() <= _SCORE_FIELDS:
        return Score(**stored)
    return Score(**{name: value for name, value in stored.items() if name in _SCORE_FIELDS})


def _file(model: str, task: str, dataset: str, key: str) -> Path:
    return Path(_slug(model)) / f"{_slug(task)}-{_slug(dataset)}-{key[:12]}.json"


def _slug(name: str) -> str:
    # Names may hold paths and colons; the key in the file name keeps shortened ones apart.
    return re.sub(r"[^A-Za-z0-9._@+-]+", "_", name).strip("_.")[-80:] or "_"
