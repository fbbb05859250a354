"""The record of one measurement: a JSON file with the scores, and a file beside it with the samples.

Fields are only ever added: of an old file, a new field reads as its default. Both files are written
atomically, the JSON last, so that a results folder never holds half a result. Imports no torch: results can
be read anywhere.
"""

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

from ssleval.core import Metric, Samples, digest
from ssleval.core.files import write_atomically, write_text_atomically
from ssleval.errors import ContractError, DataError
from ssleval.metrics.recorded import statistic_from
from ssleval.results import samplefiles

K = TypeVar("K")

SCHEMA = 1
"""Raised only when a field changes its meaning."""


@dataclass(frozen=True, slots=True)
class Score:
    """One number, how certain it is, and how it is computed from samples."""

    value: float
    """In the metric's own unit; fractions are in [0, 1]."""
    ci95: tuple[float, float]
    """95 % confidence interval over the draw of items, or of clusters of them."""
    n: int
    """Number of items."""
    unit: str = "fraction"
    higher_is_better: bool = True
    statistic: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Which statistic of which columns of the samples: enough to compute it without the task."""
    note: str = ""
    """Why the interval may be too narrow, such as classes that few items show; '' if nothing says so."""

    def metric(self, name: str) -> Metric:
        """Return the metric called ``name`` that this is a score of; DataError: an unknown statistic."""
        return Metric(name, statistic_from(self.statistic), self.higher_is_better, self.unit)


@dataclass(frozen=True, slots=True)
class Result:
    """Scores, and everything needed to reproduce them and to decide what they may be compared with."""

    model: str
    task: str
    dataset: str
    key: str
    """Digest of what was measured, without when and where: equal keys promise equal scores."""
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
    """Everything else that may change a score: precision, seed, limit, skip_corrupt."""
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

    @property
    def headline(self) -> str:
        """Name of the metric that ranks."""
        return next(iter(self.metrics))

    def to_dict(self) -> dict[str, Any]:
        """Return the content of the file, plus ``path`` and ``cached``."""
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


_STORED_FIELDS = frozenset(entry.name for entry in fields(Result)) - {"path", "cached"}


def comparable(result: Result) -> str:
    """Return eight digits that are equal if task, protocol, scored split and data of two results agree."""
    data = [result.data.get("fingerprints"), result.data.get("test_split")]
    return digest([result.task, result.protocol, data, result.settings.get("skip_corrupt")])[:8]


def grouped(results: Iterable[Result], key: Callable[[Result], K]) -> dict[K, list[Result]]:
    """Group results by a key; groups and their members keep the order given."""
    groups: dict[K, list[Result]] = {}
    for result in results:
        groups.setdefault(key(result), []).append(result)
    return groups


def by_comparable(results: Collection[Result]) -> dict[str, list[Result]]:
    """Group results by `comparable`."""
    digests: dict[tuple[object, ...], str] = {}

    def digest_of(result: Result) -> str:
        # Results from files share these objects, and `results` keeps them alive: ids are unique.
        parts = result.task, id(result.protocol), id(result.data), result.settings.get("skip_corrupt")
        if parts not in digests:
            digests[parts] = comparable(result)
        return digests[parts]

    return grouped(results, digest_of)


def write(folder: Path, result: Result, samples: Samples) -> Result:
    """Store a result and its samples below ``folder``; return the result as `read` returns it."""
    for name, score in result.metrics.items():
        if not all(isfinite(number) for number in (score.value, *score.ci95)):
            raise ContractError(
                f"{result.task} on {result.dataset}: {name} is {score.value}; nothing is stored"
            )
    path = result.file(folder)
    stored = {name: value for name, value in asdict(result).items() if name in _STORED_FIELDS}
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
        stored["metrics"] = {name: _score(score) for name, score in stored["metrics"].items()}
        return Result(**{name: stored[name] for name in _STORED_FIELDS & stored.keys()}, path=path)
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is no result file ({error}); move it out of the results folder") from error


def read_all(folder: Path) -> list[Result]:
    """Return every result below ``folder``, in a stable order."""
    if not folder.is_dir():
        raise DataError(f"no results folder {folder}; `ssleval run` creates one, `--results` names another")
    return [read(path) for path in sorted(folder.glob("*/*.json"), key=str)]


def find(folder: Path, model: str, task: str, dataset: str, key: str) -> Result | None:
    """Return the stored result of that key, marked as cached; None if there is none."""
    path = folder / _file(model, task, dataset, key)
    if not path.exists():
        return None
    result = read(path)
    return replace(result, cached=True) if result.key == key else None


def read_samples(result: Result, columns: Collection[str] | None = None) -> Samples:
    """Return the samples of a result: all columns, or those of ``columns`` that are stored."""
    return read_samples_of([result], columns)[0]


def read_samples_of(results: Sequence[Result], columns: Collection[str] | None = None) -> list[Samples]:
    """Do `read_samples` for several results: faster, with all their files in memory at once."""
    return samplefiles.load([samples_file(result) for result in results], columns)


def samples_file(result: Result) -> Path:
    """Return where the samples of a stored result are."""
    if result.path is None:
        raise DataError(
            f"{result.model} {result.task} on {result.dataset} was never stored; it has no samples"
        )
    return result.path.with_suffix(samplefiles.SUFFIX)


_FIELD = re.compile(r'\n "(\w+)": ')
"""The start of a top-level field in a file that `write` indented; nested fields are indented deeper."""

SHARED_FIELDS = ("protocol", "backbone", "data", "settings", "skipped", "versions", "hardware")
"""Fields that are word for word the same in many results."""


def _parsed(text: str) -> dict[str, Any]:
    """Return the JSON object in ``text``; fields that results share are parsed once and held once."""
    start, *parts = _FIELD.split(text.rstrip().removesuffix("}"))
    try:
        if start != "{":
            return json.loads(text)
        texts = (part.rstrip().removesuffix(",") for part in parts[1::2])
        fields_of = dict(zip(parts[::2], texts, strict=True))
        shared = {name: _shared(fields_of.pop(name)) for name in SHARED_FIELDS if name in fields_of}
        own = ",".join([f'"{name}":{part}' for name, part in fields_of.items()])
        return {**json.loads(f"{{{own}}}"), **shared}
    except json.JSONDecodeError:
        # Indented otherwise, or broken: then the position in the error counts from the start of the file.
        return json.loads(text)


@lru_cache(maxsize=4096)
def _shared(text: str) -> Any:
    return json.loads(text)


def _score(stored: dict[str, Any]) -> Score:
    low, high = stored["ci95"]
    stored["ci95"] = (low, high)
    return Score(**{name: stored[name] for name in Score.__slots__ if name in stored})


def _file(model: str, task: str, dataset: str, key: str) -> Path:
    return Path(_slug(model)) / f"{_slug(task)}-{_slug(dataset)}-{key[:12]}.json"


def _slug(name: str) -> str:
    # Names may hold paths and colons; the key in the file name tells shortened ones apart.
    return re.sub(r"[^A-Za-z0-9._@+-]+", "_", name).strip("_.")[-80:] or "_"
