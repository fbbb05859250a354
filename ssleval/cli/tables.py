"""What `ssleval ls` shows. Imports no torch: tasks are described by their docstrings, unimported."""

import sys
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ssleval.backbones.zoo import read_zoo
from ssleval.core import BackboneCard, DatasetCard
from ssleval.core.escape import terminal_line
from ssleval.core.registry import suggestion, summaries
from ssleval.datasets.catalog import expected_files, list_datasets
from ssleval.errors import ConfigError, UnknownNameError
from ssleval.run.suites import list_suites

if TYPE_CHECKING:
    from ssleval.features.cache import Entry

LEADING = {
    "open_set": "gap", "mask": "mean_iou", "instances": "jaccard", "video": "j_and_f", "depth": "rmse",
    "normals": "within", "pairs": "pck", "views": "recall_px", "groups": "map", "captions": "image_recall",
    "boxes": "corloc", "objects": "ap50", "clips": "top1", "none": "",
}  # fmt: skip
"""The leading metric of the task that a target is made for; '' where there is none. A set of labels names
its own metric."""


def rows(what: str) -> list[dict[str, Any]]:
    """Return one row per model, task, dataset or suite."""
    if what == "models":
        return [_model(card) for card in read_zoo().values()]
    if what == "datasets":
        return [_dataset(name, entry) for name, entry in list_datasets().items()]
    lines = list_suites() if what == "suites" else summaries("ssleval.tasks")
    return [{what[:-1]: name, "what": line} for name, line in lines.items()]


def files_of(name: str) -> dict[str, Any]:
    """Return where a published dataset comes from and the files that a copy has; {} for other names."""
    card = list_datasets().get(name)
    if not isinstance(card, DatasetCard):
        return {}
    return {"source": card.source, "tree": [f"DATA_ROOT/{name}/{path}" for path in expected_files(name)]}


def selected(rows: list[dict[str, Any]], globs: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the rows whose columns match globs, whatever the case of letters; '' matches everything."""
    for column, glob in globs.items():
        if glob:
            if rows and column not in rows[0]:
                raise ConfigError(f"only models have a {column}; leave out --{column}")
            values = {str(row[column]) for row in rows}
            rows = [row for row in rows if fnmatchcase(str(row[column]).lower(), glob.lower())]
            if not rows:
                raise UnknownNameError(f"no {column} matches {glob!r}; {suggestion(glob, values)}")
    return rows


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


def table(rows: list[dict[str, Any]]) -> None:
    """Print rows as a table."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for name in rows[0] if rows else ():
        shown.add_column(name, overflow="fold", no_wrap=name in {"model", "task", "dataset", "suite"})
    for row in rows:
        # As `Text`, for a name in brackets is markup to rich.
        shown.add_row(*(Text("" if value is None else terminal_line(str(value))) for value in row.values()))
    # Into a pipe a row is a line, whatever its length.
    Console(width=None if sys.stdout.isatty() else 240).print(shown)


def _model(card: BackboneCard) -> dict[str, Any]:
    return {
        "model": card.name,
        "family": card.family,
        "supervision": card.supervision,
        "params_M": card.parameters or None,
        "embed_dim": card.embed_dim,
        "pooled_dim": card.pooled_dim or card.embed_dim,
        "patch": card.patch_size,
        "size": card.image_size,
        "tokens": (card.image_size // card.patch_size) ** 2,
        "weights": "none" if card.unavailable else "gated" if card.gated else "yes",
        "license": card.license,
    }


def _dataset(name: str, entry: DatasetCard | str) -> dict[str, Any]:
    if isinstance(entry, str):
        return {"dataset": name, "target": "", "splits": entry, "metric": "", "license": ""}
    splits = ", ".join(f"{split} {length:,}" for split, length in list(entry.lengths.items())[:4])
    splits += f" and {len(entry.lengths) - 4} more" if len(entry.lengths) > 4 else ""
    metric = LEADING.get(entry.target, entry.metric)
    row = {"dataset": name, "target": entry.target, "splits": splits, "metric": metric}
    return {**row, "license": entry.license}
