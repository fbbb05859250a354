"""The log of a training run, ``log.jsonl``: one JSON object per step and per evaluation. Imports no torch."""

import json
from pathlib import Path
from typing import Any

COLLAPSED = 0.01
"""``information`` in nats below which the teacher's targets no longer depend on the image."""


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's log, without an incomplete last line: it is being written, or never was."""
    path = folder / "log.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]
