"""The log of a training run, ``log.jsonl``: one JSON object per step and per evaluation. Imports no torch."""

import json
from math import log
from pathlib import Path
from typing import Any

LOSSES = (
    "dino", "ibot", "koleo", "gram", "simclr", "invariance", "variance", "covariance", "prediction", "sigreg",
    "mae",
)  # fmt: skip
"""The terms of the loss, weighted; it is the sum of those that a line has."""
_COLLAPSED = 0.003
"""Part of the largest possible ``information`` below which targets do not depend on the image."""
_FALLEN = 0.01
"""The same as a part of what it was in the first steps."""


def collapse_limit(prototypes: int, begun: float = 0.0) -> float:
    """Return the ``information`` in nats below which a run has collapsed that began with ``begun``."""
    return max(_COLLAPSED * log(prototypes), _FALLEN * begun)


def prototypes_of(folder: Path) -> int:
    """Return the number of prototypes that the run in ``folder`` states; DINO's, if it states none."""
    try:
        return int(json.loads((folder / "config.json").read_text(encoding="utf-8"))["head"]["prototypes"])
    except (OSError, ValueError, LookupError, TypeError):
        return 65536


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's log, without an incomplete last line: it is being written, or never was."""
    path = folder / "log.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]
