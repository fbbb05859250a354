"""Figures that papers print, and which measurement of ours each one is. Imports no torch.

``benchmarks/published.csv`` holds the figures as they were published, with their source;
``benchmarks/published/`` says, row by row and letter by letter, which are of a model of the zoo, by a
protocol that one of our tasks can follow, on one of our datasets. A row that it does not name has no mapping.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ssleval.core.packaged import packaged
from ssleval.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Row:
    """One line of ``published.csv``, as its source has it."""

    model: str
    arch: str
    pretrain_data: str
    task: str
    dataset: str
    metric: str
    value: str
    source: str
    note: str


@dataclass(frozen=True, slots=True)
class Test:
    """What a figure is scored on, in our names."""

    name: str
    split: str
    items: int
    """Rows that the samples of a whole run have."""
    location: str = ""
    """``any``: ``name`` is a source, and the folder behind its colon is the user's."""

    def is_of(self, dataset: str) -> bool:
        """Return whether a result's dataset is this one by name."""
        source, colon, _ = dataset.partition(":")
        return source == self.name and bool(colon) if self.location == "any" else dataset == self.name


@dataclass(frozen=True, slots=True)
class Protocol:
    """How the published run was made, as far as our task can say it."""

    name: str
    task: str
    settings: Mapping[str, Any]
    """One value, a list of accepted values, or ``{at_least: number}``."""
    precision: str
    tolerance: float
    """How far a faithful repetition may be off beside rounding: points, or the metric's own unit."""
    because: str
    """Where the tolerance comes from."""
    card_geometry: bool = False
    """Whether images are resized as the model's card says, not as the settings do."""
    unlike: Mapping[str, str] = field(default_factory=dict[str, str])
    """What no setting of ours repeats, by field."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a published row comes to in our names."""

    model: str
    also: tuple[str, ...]
    """Other names of the same released weights."""
    test: Test
    metric: str
    protocol: Protocol

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that results may have."""
        return (self.model, *self.also)


@dataclass(frozen=True, slots=True)
class Figure:
    """A published number that one of our measurements can be held against."""

    row: Row
    measured: Measured

    @property
    def value(self) -> float:
        """The number as printed: points, or the unit of the metric."""
        return float(self.row.value)

    @property
    def rounding(self) -> float:
        """Half a unit of the last printed digit."""
        return 0.5 * 10.0 ** -len(self.row.value.partition(".")[2])

    @property
    def tolerance(self) -> float:
        """How far a repetition may be off."""
        return self.rounding + self.measured.protocol.tolerance


@dataclass(frozen=True, slots=True)
class Figures:
    """All published rows: those with a mapping, and the others with the reason why not."""

    mapped: tuple[Figure, ...]
    unmapped: tuple[tuple[Row, str, str], ...]
    """The row, the zoo's name of its model ('' where there is none), and what has no counterpart."""
    models: Mapping[str, tuple[str, ...]]
    """Models of the zoo that figures are of, with their other names."""

    def model_called(self, name: str) -> str:
        """Return the zoo's name of a model by any of its names; '' where no figure is of it."""
        return next((model for model, also in self.models.items() if name in (model, *also)), "")


def read_figures(figures: Path | None = None, mapping: Path | None = None) -> Figures:
    """Read the published figures and their mapping; by default the packaged ones.

    Args:
        figures: a CSV file with the columns of `Row`.
        mapping: a folder with ``models.yaml`` and ``protocols.yaml``.

    Raises:
        ConfigError: the mapping names something it does not define, or claims a row twice.
    """
    with (figures or packaged("benchmarks/published.csv")).open(encoding="utf-8", newline="") as file:
        rows = [Row(**line) for line in csv.DictReader(file)]
    folder = mapping or packaged("benchmarks/published")
    models = {name: _model(entry) for name, entry in _content(folder / "models.yaml").items()}
    tables = _Tables(_content(folder / "protocols.yaml"), {row: name for name, (row, _) in models.items()})
    mapped: list[Figure] = []
    unmapped: list[tuple[Row, str, str]] = []
    for row in rows:
        model = tables.zoo.get((row.model, row.arch, row.pretrain_data), "")
        found = tables.find(row, model)
        if isinstance(found, str):
            unmapped.append((row, model, found))
        else:
            metric, protocol = found
            test = tables.tests[row.dataset]
            mapped.append(Figure(row, Measured(model, models[model][1], test, metric, protocol)))
    return Figures(tuple(mapped), tuple(unmapped), {name: also for name, (_, also) in models.items()})


class _Tables:
    """``protocols.yaml``, looked up row by row."""

    def __init__(self, content: Mapping[str, Any], zoo: Mapping[tuple[str, str, str], str]) -> None:
        self.zoo = zoo
        self.tests = {name: Test(**entry) for name, entry in content["datasets"].items()}
        self.protocols = {name: Protocol(name, **entry) for name, entry in content["protocols"].items()}
        self._tables = [
            _table(entry, self.protocols, self.tests, zoo.values()) for entry in content["tables"]
        ]

    def find(self, row: Row, model: str) -> tuple[str, Protocol] | str:
        """Return our metric and the protocol of a row, or what of it has no counterpart."""
        if not model:
            return f"model: none of the zoo is known to be {row.model} {row.arch} on {row.pretrain_data}"
        if row.dataset not in self.tests:
            return f"dataset: none of ours is {row.dataset}"
        claims = [one for one in self._tables if _claims(one, row, model)]
        if len(claims) > 1:
            raise ConfigError(f"protocols.yaml: two tables claim {row}")
        if not claims:
            return (
                f"protocol: none of ours is known to be that of {row.task} in this table, for these weights"
            )
        return claims[0]["metrics"][row.metric], self.protocols[claims[0]["protocol"]]


def _claims(table: Mapping[str, Any], row: Row, model: str) -> bool:
    return (
        (row.source, row.task) == (table["source"], table["task"])
        and row.note in table.get("notes", [""])
        and row.dataset in table["datasets"]
        and row.metric in table["metrics"]
        and model in table["models"]
    )


def _table(
    entry: dict[str, Any], protocols: Mapping[str, Any], tests: Mapping[str, Any], models: Sequence[str] | Any
) -> dict[str, Any]:
    """Refuse a table that names what is not defined."""
    known = (([entry["protocol"]], protocols), (entry["datasets"], tests), (entry["models"], set(models)))
    for names, defined in known:
        for name in names:
            if name not in defined:
                raise ConfigError(f"protocols.yaml: {entry['source']} names {name!r}, which is not defined")
    return entry


def _model(entry: Mapping[str, Any]) -> tuple[tuple[str, str, str], tuple[str, ...]]:
    model, arch, data = entry["published"]
    return (model, arch, data), tuple(entry.get("also", ()))


def _content(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))
