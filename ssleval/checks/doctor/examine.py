"""Load a model and run every check on it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ssleval.backbones.zoo import load
from ssleval.checks.doctor import wiring
from ssleval.checks.doctor.finding import Finding
from ssleval.checks.doctor.scores import score_checks
from ssleval.checks.doctor.weights import preprocessing, weights
from ssleval.core import Context
from ssleval.core.backbone import Backbone
from ssleval.core.devices import place
from ssleval.errors import SslevalError, WeightsError

_OWN_CODE = ("python_file", "torchhub")
"""Loaders whose architectures come with their weights, so that no untrained one can be built."""


def examine(
    name: str,
    context: Context,
    *,
    checkpoint: Path | None = None,
    key: str = "teacher",
    card: Mapping[str, Any] | None = None,
    limit: int = 100,
    note: Callable[[str], None] = lambda _: None,
) -> Iterator[Finding]:
    """Load a model as `ssleval run` would, and yield the finding of each check.

    The cache of ``context`` is not used. The model is scored on ``limit`` images of each split of the
    embedded digits. Weights that cannot be loaded are a finding. What a checkpoint decided about the model is
    said to ``note``.
    """
    try:
        backbone = load(
            name,
            checkpoint=checkpoint,
            key=key,
            card=card,
            seed=context.seed,
            device=context.device,
            note=note,
        )
    except WeightsError as error:
        yield Finding("fail", str(error), "nothing else can be checked before they load", "weights")
        return
    if where := place(context.device):
        note(where)
    known = backbone.card.weights and backbone.card.loader not in _OWN_CODE

    def untrained(seed: int) -> Backbone:
        return load(f"random:{name}", card=card, seed=seed)

    yield from diagnose(backbone, context, untrained=untrained if known else None, limit=limit)


def diagnose(
    backbone: Backbone,
    context: Context,
    *,
    untrained: Callable[[int], Backbone] | None = None,
    limit: int = 100,
) -> Iterator[Finding]:
    """Yield the finding of each check of a loaded model.

    ``untrained`` builds the same architecture with random weights from a seed, where that is possible.
    """
    with TemporaryDirectory() as folder:
        own_cache = replace(context, cache=Path(folder), progress=False)
        checks = {
            "weights": partial(weights, backbone, untrained),
            "preprocessing": partial(preprocessing, backbone),
            **{name: partial(check, backbone) for name, check in wiring.CHECKS.items()},
            "precision": partial(wiring.precision, backbone, context),
            **score_checks(backbone, own_cache, limit),
        }
        for name, check in checks.items():
            yield _run(name, check)


def _run(name: str, check: Callable[[], Finding]) -> Finding:
    """Return the finding of a check; an error of the model or of a task is a failure of the check."""
    try:
        return replace(check(), check=name)
    except SslevalError as error:
        return Finding("fail", " ".join(str(error).split()), "fix this first; other checks may follow", name)
