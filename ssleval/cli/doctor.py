"""`ssleval doctor`: is this checkpoint wired correctly?"""

from collections import Counter
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from ssleval.cli import options
from ssleval.cli.options import Checkpoint, Device, Json, Key, Precision, print_rows, say, tell
from ssleval.errors import WeightsError


@options.grouped
def doctor(
    *,
    model: Annotated[str, Argument(help="A name of `ssleval ls models`, or source:identifier.")],
    checkpoint: Checkpoint = None,
    key: Key = "teacher",
    card: options.Card,
    device: Device = "auto",
    precision: Precision = "fp32",
    limit: Annotated[int, Option(min=50, help="Digits of each split that models are scored on.")] = 100,
    as_json: Json = False,
) -> None:
    """Check whether a checkpoint is wired correctly; exit with 1 when a check fails.

    Examples:
      ssleval doctor dinov2_vits14
      ssleval doctor vit_tiny --checkpoint weights.pth --image-mean 0.5 --image-std 0.5
    """
    from ssleval.backbones.weights.weightfile import SUFFIX
    from ssleval.checks.doctor import examine
    from ssleval.core import Context

    file = checkpoint or (Path(model) if model.endswith(SUFFIX) else None)
    if file is not None and not file.exists():
        raise WeightsError(f"no such file or folder: {file}")
    context = Context(device=device, precision=precision, progress=False)
    counts: Counter[str] = Counter()
    for finding in examine(
        model, context, checkpoint=checkpoint, key=key, card=card.stated(), limit=limit, note=say
    ):
        counts[finding.status] += 1
        if as_json:
            print_rows([{"model": model, **finding.to_dict()}])
        else:
            for line in finding.lines():
                tell(line)
    if not as_json:
        statuses = ("pass", "warn", "fail", "skip")
        tell(f"{model}: " + ", ".join(f"{counts[status]} {status}" for status in statuses))
    if counts["fail"]:
        raise SystemExit(1)
