"""Figures printed in papers, and which of our measurements corresponds to each. Imports no torch.

``benchmarks/published.csv`` holds the figures as published, with their source. ``benchmarks/published/`` maps
rows, letter by letter, to a model of the zoo, a protocol that one of our tasks can follow and one of our
datasets. A row that it does not name has no mapping.
"""

import csv
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from ssleval.core.packaged import packaged
from ssleval.core.yamlfile import read_yaml
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
    """The data that a figure is scored on, in our names."""

    name: str
    split: str
    items: int
    """Rows of the samples of a complete run."""
    train: int = 0
    """Images that heads of the published run were fitted on, where ``location`` leaves it open; else 0."""
    location: str = ""
    """``any``: ``name`` is a source, and what follows its colon is the user's folder."""

    def is_of(self, dataset: str) -> bool:
        """Return whether a result's dataset has this name."""
        source, colon, _ = dataset.partition(":")
        return source == self.name and bool(colon) if self.location == "any" else dataset == self.name


@dataclass(frozen=True, slots=True)
class Protocol:
    """How the published run was made, as far as the settings of our task can express it."""

    name: str
    task: str
    settings: Mapping[str, Any]
    """One value, a list of accepted values, or ``{at_least: number}``."""
    precision: str
    tolerance: float
    """How far a faithful repetition may differ, beyond rounding: in points, or in the metric's unit."""
    because: str
    """The reason for the tolerance."""
    card_geometry: bool = False
    """Whether the model's card decides how images are resized, not the settings."""
    unlike: Mapping[str, str] = field(default_factory=dict[str, str])
    """By field, what none of our settings can repeat."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A published row in our names."""

    model: str
    also: tuple[str, ...]
    """Other names of the same released weights."""
    test: Test
    metric: str
    protocol: Protocol

    @property
    def names(self) -> tuple[str, ...]:
        """All names that results of this model may have."""
        return (self.model, *self.also)


@dataclass(frozen=True, slots=True)
class Figure:
    """A published number, and the measurement of ours that it is compared with."""

    row: Row
    measured: Measured

    @property
    def value(self) -> float:
        """The number as printed: points, or the unit of the metric."""
        return float(self.row.value)

    @property
    def decimals(self) -> int:
        """Number of printed decimals."""
        return len(self.row.value.partition(".")[2])

    @property
    def rounding(self) -> float:
        """Half a unit of the last printed digit."""
        return 0.5 * 10.0**-self.decimals

    @property
    def tolerance(self) -> float:
        """How far a repetition may differ, with rounding."""
        return self.rounding + self.measured.protocol.tolerance


@dataclass(frozen=True, slots=True)
class Figures:
    """All published rows: those with a mapping, and the others with the reason why not."""

    mapped: tuple[Figure, ...]
    unmapped: tuple[tuple[Row, str, str], ...]
    """The row, the zoo's name of its model ('' if there is none), and what has no counterpart."""
    models: Mapping[str, tuple[str, ...]]
    """Models of the zoo that have published figures, with their other names."""

    def model_called(self, name: str) -> str:
        """Return the zoo's name of the model that has ``name``; '' if no figure is of it."""
        return next((model for model, also in self.models.items() if name in (model, *also)), "")


def read_figures(figures: Path | None = None, mapping: Path | None = None) -> Figures:
    """Read published figures and their mapping; by default the packaged ones.

    ``figures`` is a CSV file with the columns of `Row`, ``mapping`` a folder with the two YAML files.

    Raises:
        ConfigError: the mapping names something it does not define, or claims a row twice.
    """
    with (figures or packaged("benchmarks/published.csv")).open(encoding="utf-8", newline="") as file:
        rows = [Row(**line) for line in csv.DictReader(file)]
    folder = mapping or packaged("benchmarks/published")
    models = read_yaml(folder / "models.yaml")
    also = {name: tuple(entry.get("also", ())) for name, entry in models.items()}
    name_of = {tuple(entry["published"]): name for name, entry in models.items()}
    content = read_yaml(folder / "protocols.yaml")
    tests = {name: Test(**entry) for name, entry in content["datasets"].items()}
    protocols = {name: Protocol(name, **entry) for name, entry in content["protocols"].items()}
    _refuse_undefined(content["tables"], {"protocol": protocols, "datasets": tests, "models": models})
    mapped: list[Figure] = []
    unmapped: list[tuple[Row, str, str]] = []
    for row in rows:
        model = name_of.get((row.model, row.arch, row.pretrain_data), "")
        found = _table(row, model, tests, content["tables"])
        if isinstance(found, str):
            unmapped.append((row, model, found))
        else:
            metric, protocol = found["metrics"][row.metric], protocols[found["protocol"]]
            mapped.append(Figure(row, Measured(model, also[model], tests[row.dataset], metric, protocol)))
    return Figures(tuple(mapped), tuple(unmapped), also)


def _refuse_undefined(tables: Iterable[Mapping[str, Any]], defined: Mapping[str, Collection[str]]) -> None:
    for table, (part, known) in product(tables, defined.items()):
        for name in [table[part]] if part == "protocol" else table[part]:
            if name not in known:
                raise ConfigError(f"protocols.yaml: {table['source']} names {name!r}, which is not defined")


def _table(
    row: Row, model: str, tests: Collection[str], tables: Iterable[Mapping[str, Any]]
) -> Mapping[str, Any] | str:
    """Return the table that maps a row, or what has no counterpart."""
    if not model:
        return f"model: none of the zoo is known to be {row.model} {row.arch} on {row.pretrain_data}"
    if row.dataset not in tests:
        return f"dataset: none of ours is {row.dataset}"
    claims = [table for table in tables if _claims(table, row, model)]
    if len(claims) > 1:
        raise ConfigError(f"protocols.yaml: two tables claim {row}")
    why = f"protocol: none of ours is known to be that of {row.task} in this table, for these weights"
    return claims[0] if claims else why


def _claims(table: Mapping[str, Any], row: Row, model: str) -> bool:
    return (
        (row.source, row.task) == (table["source"], table["task"])
        and row.note in table.get("notes", [""])
        and row.dataset in table["datasets"]
        and row.metric in table["metrics"]
        and model in table["models"]
    )
