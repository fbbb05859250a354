"""`ssleval doctor`: is this checkpoint wired correctly?"""

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

import typer

from ssleval.cli.options import Json


def doctor(
    model: Annotated[str, typer.Argument(help="A name of `ssleval ls models`, or source:identifier.")],
    checkpoint: Annotated[Path | None, typer.Option(help="Local weights for the named architecture.")] = None,
    key: Annotated[str, typer.Option(help="Network of a training checkpoint: teacher, student.")] = "teacher",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")] = "cpu",
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"], typer.Option(help="The precision you mean to run in.")
    ] = "fp32",
    limit: Annotated[int, typer.Option(min=50, help="Digits of each split that scores are of.")] = 200,
    as_json: Json = False,
) -> None:
    """Check on one page whether a checkpoint is wired correctly; exit with 1 when a check fails."""
    from ssleval.checks.doctor import examine
    from ssleval.core import Context

    context = Context(device=device, precision=precision, progress=False)
    seen: Counter[str] = Counter()
    for finding in examine(model, context, checkpoint=checkpoint, key=key, limit=limit):
        seen[finding.status] += 1
        typer.echo(json.dumps({"model": model, **finding.to_dict()}) if as_json else str(finding))
    if not as_json:
        typer.echo(f"{model}: " + ", ".join(f"{seen[one]} {one}" for one in ("pass", "warn", "fail", "skip")))
    if seen["fail"]:
        raise SystemExit(1)
