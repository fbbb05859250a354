"""The record of one measurement: a JSON file with the scores, and a file beside it with the samples.

Fields are only ever added: of an old file, a new field reads as its default. Both files are written
atomically, the JSON last, so that a results folder never holds half a result. Imports no torch: results can
be read anywhere.
"""

import json
import os
import re
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock

from ssleval.core import Metric, Samples, digest
from ssleval.core.files import write_atomically, write_text_atomically
from ssleval.core.locks import acquire
from ssleval.core.text import counted
from ssleval.errors import ContractError, DataError
from ssleval.metrics.recorded import statistic_from
from ssleval.results import samplefiles
from ssleval.results.numbers import with_interval
from ssleval.results.stored import MOST_BYTES, SCHEMA, fault_of, fields_in, read_bytes

K = TypeVar("K")


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

    @property
    def fault(self) -> str:
        """Why this cannot be a score, as ``nan [0, 1], which is not finite``; '' if nothing is wrong."""
        return fault_of(self.value, self.ci95, self.unit, higher_is_better=self.higher_is_better)

    def metric(self, name: str) -> Metric:
        """Return the metric called ``name`` that this is a score of; DataError: an unknown statistic."""
        return Metric(name, statistic_from(self.statistic), self.higher_is_better, self.unit)

    @property
    def shown(self) -> str:
        """The score with the ends of its interval, for people."""
        return with_interval(self.value, self.ci95, self.unit)


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
    """Everything else that may change a score: precision, seed, limit, skip_corrupt, pixels if not exact."""
    skipped: Mapping[str, list[str]] = field(default_factory=dict[str, list[str]])
    """Images that could not be decoded and were left out, by split."""
    versions: Mapping[str, str] = field(default_factory=dict[str, str])
    hardware: Mapping[str, str] = field(default_factory=dict[str, str])
    timings: Mapping[str, float] = field(default_factory=dict[str, float])
    cost: Mapping[str, float] = field(default_factory=dict[str, float])
    """``flops_per_image`` of a forward pass at ``image_side`` pixels; older files lack it."""
    leaks: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """``metrics`` of the images without a copy in the other split, how many were ``dropped``, and how they
    were found; empty unless asked for."""
    samples_sha256: str = ""
    """Of the file of samples; '' in results of earlier versions, and where nothing is stored."""
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

    @property
    def leading(self) -> Score:
        """The score that ranks."""
        return self.metrics[self.headline]

    def to_dict(self) -> dict[str, Any]:
        """Return the content of the file, plus ``path`` and ``cached``."""
        return {**asdict(self), "path": None if self.path is None else str(self.path)}

    def to_row(self) -> dict[str, Any]:
        """Return one flat row for a DataFrame: a column per setting, metric and interval end."""
        row: dict[str, Any] = {"model": self.model, "task": self.task, "dataset": self.dataset}
        row |= {"split": self.data.get("test_split"), "board": comparable(self), **self.settings}
        row |= {"pixels": self.settings.get("pixels", "exact"), "exif": self.data.get("exif", False)}
        row |= {f"card.{name}": _hashable(self.backbone.get(name)) for name in _PREPARED}
        row |= {f"{self.task}.{name}": value for name, value in self.protocol.items()}
        for name, score in self.metrics.items():
            row |= {name: score.value, f"{name}_low": score.ci95[0], f"{name}_high": score.ci95[1]}
            row[f"{name}_n"] = score.n
        return row | {"key": self.key, "weights_sha256": self.weights_sha256, "created": self.created}

    def file(self, folder: Path) -> Path:
        """Return the file this result belongs into below ``folder``."""
        return folder / _file(self.model, self.task, self.dataset, self.key)


_PREPARED = ("mean", "std", "image_size", "patch_size", "resize", "resize_mode", "interpolation")
"""Fields of a card that a caller may state."""


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


_STORED_FIELDS = frozenset(entry.name for entry in fields(Result)) - {"path", "cached"}


def comparable(result: Result) -> str:
    """Return eight digits that are equal if task, protocol, split, data and pixels of two results agree."""
    data = [result.data.get("fingerprints"), result.data.get("test_split")]
    # Absent where they are exact, so that digests are those of versions without a choice.
    pixels = [kind for kind in [result.settings.get("pixels", "exact")] if kind != "exact"]
    return digest([result.task, result.protocol, data, result.settings.get("skip_corrupt"), *pixels])[:8]


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
        chosen = (result.settings.get(name) for name in ("skip_corrupt", "pixels"))
        parts = result.task, id(result.protocol), id(result.data), *chosen
        if parts not in digests:
            digests[parts] = comparable(result)
        return digests[parts]

    return grouped(results, digest_of)


def refuse_unlike(results: Sequence[Result]) -> None:
    """Refuse comparable results that do not all have the metric that the first ranks by, computed alike.

    Raises:
        DataError: naming both files.
    """
    first = results[0]
    name = first.headline
    for result in results:
        if name not in result.metrics or _how(result.metrics[name]) != _how(first.metrics[name]):
            raise DataError(
                f"{result.path} has no {name}, by which {first.path} ranks, or has it in another unit, "
                "direction or statistic; move one of them away"
            )


def _how(score: Score) -> tuple[str, bool, Mapping[str, Any]]:
    return score.unit, score.higher_is_better, score.statistic


def write(folder: Path, result: Result, samples: Samples) -> Result:
    """Store a result and its samples below ``folder``; return the result as `read` returns it.

    Raises:
        ContractError: a score that cannot be one, or a record that is too large; nothing is stored.
        OSError: a file cannot be written; what was at its place is still there.
    """
    for name, score in result.metrics.items():
        if score.fault:
            raise ContractError(
                f"{result.task} on {result.dataset}: {name} is {score.fault}; nothing is stored"
            )
    path, hashes = result.file(folder), list[str]()
    if len(_text(result)) > MOST_BYTES:
        raise ContractError(
            f"{path}: the record would have more than {MOST_BYTES:,} bytes; nothing is stored"
        )
    beside = path.with_suffix(samplefiles.SUFFIX)
    write_atomically(beside, lambda draft: hashes.append(samplefiles.save(draft, samples)))
    write_text_atomically(path, _text(replace(result, samples_sha256=hashes[0])))
    samplefiles.remove_older(beside)
    return read(path)


def with_scores(result: Result, scores: Mapping[str, Score]) -> Result:
    """Return a result with scores of the same samples behind its own; store it, where that can be written."""
    return _rewritten(result, metrics={**result.metrics, **scores}) if scores else result


def with_leaks(result: Result, leaks: Mapping[str, Any]) -> Result:
    """Return a result with scores without leaked images; store it, where that can be written."""
    return _rewritten(result, leaks=leaks)


def _rewritten(result: Result, **fields: Any) -> Result:
    changed = replace(result, **fields)
    if result.path is not None and os.access(result.path.parent, os.W_OK):
        write_text_atomically(result.path, _text(changed))
    return changed


def _text(result: Result) -> str:
    stored = {name: value for name, value in asdict(result).items() if name in _STORED_FIELDS}
    if not result.leaks:
        del stored["leaks"]
    return json.dumps(stored, indent=1, allow_nan=False) + "\n"


def read(path: Path) -> Result:
    """Return the result stored in ``path``.

    Raises:
        DataError: it is no result, of a newer schema, cannot be read, or has the name of another result.
    """
    try:
        stored = fields_in(read_bytes(path, MOST_BYTES))
        stored["metrics"] = {name: _score(name, score) for name, score in stored["metrics"].items()}
        result = Result(**stored, path=path)
        _refuse_other_name(path.name, result)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(
            f"{path} is no result file ({reason}); move it out of the results folder, or measure it again "
            "with `ssleval run --force`"
        ) from error
    return result


def _refuse_other_name(name: str, result: Result) -> None:
    wanted = _name(result.task, result.dataset, result.key)
    if name != wanted and _NAMED.search(name):
        raise ValueError(f"what it holds belongs into {wanted}")


def read_all(folder: Path) -> list[Result]:
    """Return every result ``folder/*/*.json``, in a stable order; hidden files are no results.

    Raises:
        DataError: there is no such folder, or a file or folder in it cannot be read: none is left out.
    """
    if not folder.is_dir():
        found = "is a file; name the folder that holds it" if folder.exists() else "`ssleval run` creates one"
        raise DataError(f"no results folder {folder}; {found}, `--results` names another")
    try:
        folders = [entry.path for entry in os.scandir(folder) if entry.is_dir()]
        paths = [path for inner in folders for path in files_in(Path(inner))]
    except OSError as error:
        raise DataError(
            f"{error.filename}: {error.strerror}; nothing of {folder} is shown without it"
        ) from error
    return read_files(sorted(paths, key=str))


def files_in(folder: Path) -> list[Path]:
    """Return the files of results in one folder, sorted by name; OSError: it cannot be listed."""
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.name.endswith(".json"))
    return [folder / name for name in names if not name.startswith(".")]


def read_files(paths: Iterable[Path]) -> list[Result]:
    """Return the results in ``paths``; a DataError names the first that is none, and counts the others."""
    results: list[Result] = []
    faults: list[DataError] = []
    for path in paths:
        try:
            results.append(read(path))
        except DataError as error:
            faults.append(error)
    if len(faults) > 1:
        raise DataError(f"{faults[0]} ({counted(len(faults) - 1, 'other file')} likewise)") from faults[0]
    if faults:
        raise faults[0]
    return results


def find(folder: Path, model: str, task: str, dataset: str, key: str) -> Result | None:
    """Return the stored result of that key, marked as cached; None if there is none."""
    path = folder / _file(model, task, dataset, key)
    if not path.exists():
        return None
    result = read(path)
    return replace(result, cached=True) if result.key == key else None


@contextmanager
def measuring(folder: Path, key: str, label: str) -> Generator[None]:
    """Be the only process that measures what has this key, for ``folder``; wait while another does.

    ``label`` names it for the line on stderr that says so. Where a file system has no locks, nobody waits:
    work is done twice, and both store the same.
    """
    path = folder / f".{key[:12]}.lock"
    with ExitStack() as held:
        with suppress(OSError, NotImplementedError):
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(acquire(FileLock(path), f"measures {label}"))
            # Before it is released: who comes next makes a new one.
            held.callback(_remove, path)
        yield


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)


def has_results(folder: Path, model: str) -> bool:
    """Return whether there is a folder of results of a model."""
    return (folder / _slug(model)).is_dir()


def read_samples(result: Result, columns: Collection[str] | None = None) -> Samples:
    """Return the samples of a result: all columns, or those of ``columns`` that are stored."""
    return read_samples_of([result], columns)[0]


def read_samples_of(results: Sequence[Result], columns: Collection[str] | None = None) -> list[Samples]:
    """Do `read_samples` for several results: faster, with all their files in memory at once.

    Raises:
        DataError: samples are missing, damaged, of another length, or do not give the scores of the result.
    """
    files, hashes = [samples_file(one) for one in results], [one.samples_sha256 for one in results]
    found = samplefiles.load(files, columns, hashes)
    for result, file, samples in zip(results, files, found, strict=True):
        names = result.metrics if columns is None else [result.headline]
        for name in names:
            if wrong := _disagreement(name, result.metrics[name], samples):
                raise DataError(f"{file}: {wrong}; `ssleval run --force` measures both anew")
    return found


def _disagreement(name: str, score: Score, samples: Samples) -> str:
    """Return why a score cannot be of these samples."""
    if len(samples) != score.n:
        return f"{len(samples)} samples, but {name} is of {score.n}"
    if not score.statistic:
        return ""
    try:
        value = score.metric(name).score(samples)
    except (LookupError, TypeError, ValueError) as error:
        return f"samples that {name} is no statistic of ({error})"
    agrees = abs(value - score.value) <= _AGREEING * max(1.0, abs(value))
    return "" if agrees else f"samples of another result: their {name} is {value:.6g}, not {score.value:.6g}"


def has_samples(result: Result) -> bool:
    """Return whether there is a file of samples beside a result."""
    return result.path is not None and samplefiles.bytes_of(samples_file(result)) > 0


def samples_file(result: Result) -> Path:
    """Return where the samples of a stored result are."""
    if result.path is None:
        raise DataError(
            f"{result.model} {result.task} on {result.dataset} was never stored; it has no samples"
        )
    return result.path.with_suffix(samplefiles.SUFFIX)


_NAMED = re.compile(r"-[0-9a-f]{12}\.json$")
"""Ends the names that `write` gives; a file that a user calls otherwise says nothing by its name."""
_AGREEING = 1e-5
"""Scores of one set of samples differ by no more, relative to 1 or to the score: sums in another order."""


def _score(name: str, stored: dict[str, Any]) -> Score:
    score = Score(**stored)
    if score.fault:
        raise ValueError(f"{name} is {score.fault}")
    return score


def _file(model: str, task: str, dataset: str, key: str) -> Path:
    return Path(_slug(model)) / _name(task, dataset, key)


def _name(task: str, dataset: str, key: str) -> str:
    return f"{_slug(task)}-{_slug(dataset)}-{key[:12]}.json"


@lru_cache(maxsize=4096)
def _slug(name: str) -> str:
    # Names may hold paths and colons; the key in the file name tells shortened ones apart.
    return re.sub(r"[^A-Za-z0-9._@+-]+", "_", name).strip("_.")[-80:] or "_"
