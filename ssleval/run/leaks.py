"""Near-duplicates of a scored split in the split that is fitted on, and the scores without them."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from jaxtyping import Float

from ssleval.core import Dataset, DatasetCard, FeatureRequest, FeatureTable, Geometry, Readout, Samples, Split
from ssleval.core.image_level import fitting_set
from ssleval.core.text import counted
from ssleval.datasets.files.identical import identical_files
from ssleval.errors import ConfigError, DataError
from ssleval.features import FeatureSource, current_shard
from ssleval.results.stored import read_bytes
from ssleval.run.duplicates import (
    Threshold,
    best_among,
    best_in,
    descriptors,
    held_out,
    matches_above,
    threshold_at,
)
from ssleval.run.jobs import Job
from ssleval.tasks.copy_detection import CopyDetection

OWN = "own"
"""In place of a file: near-duplicates by the descriptors of the model that is measured."""
RATE = 0.01
"""Share of images without a copy that may be taken for one, unless another is asked for."""
_MOST_BYTES = 1 << 28
_THEMSELVES = "searched images among each other, whose own near-duplicates count as well: an upper bound"
_SEARCHED = 10_000
"""Searched images that a threshold is chosen on, at most."""
_ANSWERS = {"groups", "open_set"}
"""Targets of sets whose queries are looked for in the other split."""
_SAID = "model", "train", "threshold", "false_alarms"
"""What results record."""
_MATCHES = 10
"""Images that one is said to be a copy of, at most."""


@dataclass(frozen=True, slots=True)
class Side:
    """One split of a dataset that was opened under a name."""

    name: str
    dataset: Dataset
    split_name: str

    def __str__(self) -> str:
        return f"{self.name}/{self.split_name}"

    @property
    def split(self) -> Split:
        """The images."""
        return self.dataset.split(self.split_name)


@dataclass(frozen=True, slots=True)
class Leaks:
    """What `find_leaks` found."""

    train: Side
    test: Side
    model: str
    weights_sha256: str
    descriptor: Mapping[str, Any]
    threshold: Threshold
    non_copies: str
    """On which images the threshold was chosen: the false-alarm rate is that of such images."""
    pairs: Sequence[tuple[int, int, float]]
    """Rows of the scored split and of the other, and their similarity, nearest first."""
    identical: Sequence[tuple[int, int]]
    """Rows of files with the same bytes."""

    @property
    def leaked(self) -> list[str]:
        """Ids of the scored images with a copy, in order."""
        rows = {row for row, *_ in (*self.pairs, *self.identical)}
        return [self.test.split.ids[row] for row in sorted(rows)]

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON can hold it."""
        limit, test, train = self.threshold, self.test.split, self.train.split
        return {
            "train": str(self.train), "test": str(self.test), "model": self.model,
            "weights_sha256": self.weights_sha256, "descriptor": dict(self.descriptor),
            "train_fingerprint": train.fingerprint, "test_fingerprint": test.fingerprint,
            "threshold": limit.value,
            "false_alarms": {
                "value": limit.rate, "ci95": [limit.low, limit.high], "n": limit.n,
                "non_copies": self.non_copies,
            },
            "images": len(test), "leaked": self.leaked,
            "identical": [[test.ids[row], train.ids[other]] for row, other in self.identical],
            "pairs": [
                [test.ids[row], train.ids[other], round(cosine, 6)] for row, other, cosine in self.pairs
            ],
        }  # fmt: skip


def find_leaks(
    source: FeatureSource,
    train: Side,
    test: Side,
    *,
    rate: float = RATE,
    non_copies: Side | None = None,
    size: int = CopyDetection.size,
) -> Leaks:
    """Return which images of ``test`` have a near-duplicate in ``train``.

    Args:
        source: gives the descriptors, which are those of `copy_detection`.
        train: the split that is searched.
        test: the split whose images are looked up.
        rate: share of images without a copy that may have a match above the threshold.
        non_copies: images that are known to have no copy in ``train``. None: the images of ``train``, each
            compared with the others. What is a near-duplicate there raises the threshold and lowers the rate,
            which is then at most what was asked for, of images that are drawn like those of ``train``.
        size: pixels of a side, rounded down to whole patches.

    Raises:
        ConfigError: one split twice, or too few known non-copies for the rate.
    """
    for side in (train, test) if non_copies else ():
        if non_copies and _one(side, non_copies):
            raise ConfigError(
                f"--non-copies {non_copies} is {side}, whose images may be copies; name another set"
            )
    if _one(train, test):
        raise ConfigError(f"{train} and {test} are one split: every image is a copy of itself")
    asked = [
        leak_request(source, side, size) for side in (train, test, *([non_copies] if non_copies else []))
    ]
    if current_shard().world == 1:
        # Else all processes have prepared it, and only the first is here.
        source.prepare(asked)
    tables = [source.load(one) for one in asked]
    held = held_out(len(tables[0].ids), _SEARCHED)
    (searched, queries, *known), whitened = descriptors(held, *map(_vectors, tables))
    best = best_in(searched, known[0]) if known else best_among(searched, held)
    words = str(non_copies) if non_copies else _THEMSELVES
    limit = threshold_at(best, rate)
    pairs = matches_above(searched, queries, limit.value, _MATCHES)
    rows = tables[1].rows, tables[0].rows
    geometry = asked[0].geometry
    return Leaks(
        train, test, source.backbone.card.name, source.backbone.weights_sha256,
        {"readouts": list(map(str, asked[0].readouts)), "size": geometry and geometry.fixed_size,
         "whitened": whitened},
        limit, words, [(int(rows[0][one]), int(rows[1][two]), cosine) for one, two, cosine in pairs],
        identical_files(test.split, train.split, source.context.cache),
    )  # fmt: skip


def leak_request(source: FeatureSource, side: Side, size: int = CopyDetection.size) -> FeatureRequest:
    """Return the request for the descriptors of one split."""
    first = "cls" if source.gives(Readout("cls")) else "pooled"
    patch = source.backbone.card.patch_size
    geometry = Geometry(max(patch, size // patch * patch), "square", None, CopyDetection.interpolation)
    return FeatureRequest(side.dataset, side.split_name, geometry, (Readout(first), Readout("gem")))


def _vectors(table: FeatureTable) -> Float[np.ndarray, "n d"]:
    return np.concatenate([part.astype(np.float64) for part in table.arrays.values()], axis=1)


class FalseAlarms(msgspec.Struct, frozen=True):
    """The rate of a threshold."""

    value: float
    ci95: Annotated[list[float], msgspec.Meta(min_length=2, max_length=2)]
    n: int
    non_copies: str


class Known(msgspec.Struct, frozen=True):
    """What a line of a file of `ssleval leaks --out` says that scores depend on."""

    model: str
    train: str
    test: str
    test_fingerprint: str
    threshold: float
    false_alarms: FalseAlarms
    leaked: list[str]


def read_known(path: Path) -> dict[str, tuple[Known, str]]:
    """Return what a file says, and its sha256, by fingerprint of the scored split.

    Raises:
        ConfigError: there is no such file, it is none of `ssleval leaks --out`, or two lines differ.
    """
    try:
        content = read_bytes(path, _MOST_BYTES)
        lines = [msgspec.json.decode(line, type=Known) for line in content.splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--drop-leaks {path}: not a file of `ssleval leaks --out`, nor {OWN!r} ({error})"
        ) from error
    sha256 = hashlib.sha256(content).hexdigest()
    known = {line.test_fingerprint: (line, sha256) for line in lines}
    for line in lines:
        if known[line.test_fingerprint][0] != line:
            raise ConfigError(f"--drop-leaks {path}: two lines on {line.test} that differ; keep one of them")
    return known


def sides_of(name: str, dataset: Dataset) -> tuple[Side, Side]:
    """Return the split that heads are fitted on and the one that is scored."""
    fitted = fitting_set(dataset)
    return Side(name, fitted, fitted.card.train_split), Side(name, dataset, dataset.card.test_split)


def leak_requests(source: FeatureSource, job: Job) -> tuple[FeatureRequest, ...]:
    """Return what is read to find near-duplicates by the model's own descriptors; nothing otherwise.

    Raises:
        ConfigError: the set has no split that heads are fitted on.
    """
    if job.drop_leaks != OWN:
        return ()
    train, test = sides_of(job.dataset_name, job.dataset)
    if train.split_name not in train.dataset.card.lengths or _one(train, test):
        raise ConfigError(
            f"--drop-leaks: {job.dataset_name} has no split that heads are fitted on, to search for "
            "near-duplicates; run it without the option"
        )
    return leak_request(source, train), leak_request(source, test)


def _one(first: Side, second: Side) -> bool:
    return first.split.fingerprint == second.split.fingerprint


def can_drop(card: DatasetCard) -> bool:
    """Return whether scored images can be left out for copies in what is fitted on."""
    return card.target not in _ANSWERS and not card.domains


def refuse_answers(dataset: Dataset, requests: Sequence[FeatureRequest]) -> None:
    """Refuse a set whose near-duplicates are right answers, and scores of more than its test split."""
    card = dataset.card
    if card.target in _ANSWERS:
        raise ConfigError(
            f"--drop-leaks: near-duplicates of queries of {card.name} are what is looked for; run it "
            "without the option"
        )
    others = {one.dataset.card.name for one in requests} - {card.name, fitting_set(dataset).card.name}
    if card.domains or others:
        why = f"images of {', '.join(sorted(others))} are" if others else "every domain is"
        raise ConfigError(
            f"--drop-leaks: {why} scored beside {card.name}/{card.test_split}, which alone is compared; "
            "run it without the option"
        )


def known_of(kept: Mapping[str, tuple[Known, str]], test: Side) -> tuple[list[str], dict[str, Any]]:
    """Return the leaked ids of a split and what results record; ConfigError: the file does not know it."""
    if test.split.fingerprint not in kept:
        known = ", ".join(sorted(line.test for line, _ in kept.values()))
        raise ConfigError(f"--drop-leaks: the file is of {known}, and not of {test} as it is here")
    line, sha256 = kept[test.split.fingerprint]
    said = {name: msgspec.to_builtins(getattr(line, name)) for name in _SAID}
    return line.leaked, {**said, "file_sha256": sha256}


def own_of(source: FeatureSource, name: str, dataset: Dataset) -> tuple[list[str], dict[str, Any]]:
    """Return the same by the descriptors of the model that is measured."""
    found = find_leaks(source, *sides_of(name, dataset))
    fields = found.to_dict()
    return found.leaked, {part: fields[part] for part in _SAID}


def without(samples: Samples, leaked: Sequence[str], images: Sequence[str], label: str) -> Samples:
    """Return samples without the images that are ``leaked``.

    Raises:
        ConfigError: rows of the samples are no ``images``.
        DataError: nothing would be left.
    """
    if not set(samples.ids) <= set(images):
        raise ConfigError(f"--drop-leaks: {label} does not score single images; run it without the option")
    lost = set(leaked)
    keep = np.array([name not in lost for name in samples.ids])
    if not keep.any():
        raise DataError(f"--drop-leaks: all {counted(len(keep), 'image')} of {label} are leaked")
    return samples.at(keep)
