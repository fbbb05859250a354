"""What `ssleval ls` shows. Imports no torch: tasks are described by their docstrings, unimported."""

import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from ssleval.backbones.zoo import read_zoo
from ssleval.core import BackboneCard, DatasetCard
from ssleval.core.registry import summaries
from ssleval.datasets.catalog import list_datasets
from ssleval.run.suites import list_suites

if TYPE_CHECKING:
    from ssleval.features.cache import Entry


def rows(what: str) -> list[dict[str, Any]]:
    """Return one row per model, task, dataset or suite."""
    if what == "models":
        return [_model(card) for card in read_zoo().values()]
    if what == "datasets":
        return [_dataset(name, found) for name, found in list_datasets().items()]
    if what == "suites":
        return [{"suite": name, "what": text} for name, text in list_suites().items()]
    return [{"task": name, "what": text} for name, text in summaries("ssleval.tasks").items()]


def stored(entry: "Entry") -> dict[str, Any]:
    """Return one row for a pass of the feature store."""
    readouts = ", ".join(
        name if done == 1 else f"{name} ({done:.0%})" for name, done in sorted(entry.readouts.items())
    )
    return {
        "pass": entry.key[:12],
        "model": entry.model,
        "dataset": f"{entry.dataset}/{entry.split}",
        "images": entry.images,
        "MB": round(entry.size / 1e6, 2),
        "readouts": readouts,
    }


def table(found: list[dict[str, Any]]) -> None:
    """Print rows as a table."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for name in found[0] if found else ():
        shown.add_column(name, overflow="fold", no_wrap=name in {"model", "task", "dataset", "suite"})
    for row in found:
        shown.add_row(*("" if value is None else str(value) for value in row.values()))
    # Into a pipe a row is a line, whatever its length.
    Console(width=None if sys.stdout.isatty() else 240).print(shown)


def _model(card: BackboneCard) -> dict[str, Any]:
    state = "none" if card.unavailable else "gated" if card.gated else "yes"
    return {
        "model": card.name,
        "family": card.family,
        "supervision": card.supervision,
        "params_M": card.parameters,
        "patch": card.patch_size,
        "size": card.image_size,
        "weights": state,
        "license": card.license,
    }


def _dataset(name: str, found: DatasetCard | str) -> dict[str, Any]:
    if isinstance(found, str):
        return {"dataset": name, "target": "", "splits": found, "metric": "", "license": ""}
    splits = ", ".join(f"{split} {length:,}" for split, length in list(found.lengths.items())[:4])
    splits += f" and {len(found.lengths) - 4} more" if len(found.lengths) > 4 else ""
    return {
        "dataset": name,
        "target": found.target,
        "splits": splits,
        "metric": found.metric,
        "license": found.license,
    }
