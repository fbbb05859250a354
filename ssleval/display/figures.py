"""Figures as files: PNG, PDF or SVG."""

from pathlib import Path
from typing import TYPE_CHECKING

from ssleval.core.files import write_atomically
from ssleval.errors import DataError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ENDINGS = {".png", ".pdf", ".svg"}


def refuse_ending(out: Path) -> None:
    """Refuse a file that is neither PNG nor PDF nor SVG, before anything is drawn."""
    if out.suffix.lower() not in _ENDINGS:
        raise DataError(f"{out}: curves are drawn as png, pdf or svg; name such a file with --out")


def save(figure: "Figure", out: Path) -> None:
    """Write a figure in the format that the ending of ``out`` names."""
    write_atomically(out, lambda draft: figure.savefig(draft, format=out.suffix[1:].lower()))
