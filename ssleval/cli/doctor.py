"""`ssleval doctor`: is this checkpoint wired correctly?"""

import json
from collections import Counter
from typing import Annotated

import typer
from typer import Argument, Option

from ssleval.cli.options import Checkpoint, Device, Json, Key, Precision


def doctor(
    model: Annotated[str, Argument(help="A name of `ssleval ls models`, or source:identifier.")],
    checkpoint: Checkpoint = None,
    key: Key = "teacher",
    device: Device = "cpu",
    precision: Precision = "fp32",
    limit: Annotated[int, Option(min=50, help="Digits of each split that models are scored on.")] = 100,
    as_json: Json = False,
) -> None:
    """Check whether a checkpoint is wired correctly; exit with 1 when a check fails.

    Examples:
      ssleval doctor dinov2_vits14
      ssleval doctor vit_tiny --checkpoint teacher.safetensors --precision bf16
    """
    from ssleval.checks.doctor import examine
    from ssleval.core import Context

    context = Context(device=device, precision=precision, progress=False)
    counts: Counter[str] = Counter()
    for finding in examine(model, context, checkpoint=checkpoint, key=key, limit=limit):
        counts[finding.status] += 1
        typer.echo(json.dumps({"model": model, **finding.to_dict()}) if as_json else str(finding))
    if not as_json:
        statuses = ("pass", "warn", "fail", "skip")
        typer.echo(f"{model}: " + ", ".join(f"{counts[status]} {status}" for status in statuses))
    if counts["fail"]:
        raise SystemExit(1)
