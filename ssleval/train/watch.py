"""Is it collapsing? The teacher's assignments and features watched while it trains."""

from collections.abc import Mapping
from math import log
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ssleval.core import BackboneCard, Context, DatasetOptions
from ssleval.features import alone
from ssleval.run.measure import evaluate
from ssleval.train.export import as_backbone
from ssleval.train.networks import Network

NOTHING = 0.01
"""Nats of information below which assignments tell images apart no more."""


@torch.no_grad()
def spread(
    targets: Float[Tensor, "2 b k"], features: Float[Tensor, "n d"], dino: Tensor | None, weight: float
) -> dict[str, Tensor]:
    """Return how the teacher's assignments are spread.

    ``teacher_entropy`` (nats) is the mean over crops, ``information`` (nats) what the assignment tells of
    the crop: the entropy of the mean assignment less the mean entropy, 0 in either kind of collapse.
    ``kl`` is the loss less the entropy (Caron et al. 2021, eq. 5). ``feature_rank`` is that of the
    teacher's class tokens less their mean.
    """
    entropy = torch.special.entr(targets).sum(dim=-1).mean()
    marginal = torch.special.entr(targets.mean(dim=(0, 1))).sum()
    found = {"teacher_entropy": entropy, "information": marginal - entropy}
    if dino is not None:
        found["kl"] = dino / weight - entropy
    return found | {"feature_rank": effective_rank(features)}


def effective_rank(features: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Return the exponential of the entropy of the centred features' singular values, 1 where all are 0."""
    # Of NaN there is no decomposition; the losses, which are NaN too, say so with the step and the term.
    finite = features.float().nan_to_num(0, 0, 0)
    values = torch.linalg.svdvals(finite - finite.mean(dim=0))
    share = values / values.sum().clamp(min=1e-12)
    return torch.special.entr(share).sum().exp()


def collapsed(watched: Mapping[str, Any], prototypes: int) -> str:
    """Return a sentence where the assignments no longer depend on the image, else nothing."""
    if watched.get("information", 1.0) >= NOTHING:
        return ""
    entropy, most = watched["teacher_entropy"], log(prototypes)
    kind = "uniform" if entropy > most / 2 else "one prototype for everything"
    return (
        f"collapse: the teacher gives every image the same assignment ({kind}; entropy {entropy:.3g} of at "
        f"most {most:.3g}, information {watched['information']:.2g} nats)"
    )


def evaluate_teacher(
    teacher: Network, card: BackboneCard, dataset: str, options: DatasetOptions, limit: int
) -> dict[str, dict[str, Any]]:
    """Measure the teacher with the ordinary tasks, k-NN first, at the geometry of ``card``.

    ``limit`` images of every split are used.

    The process that calls it does so by itself: the others of a group wait for it elsewhere.

    Returns:
        By metric: ``value``, ``ci95`` and ``n``.
    """
    training = teacher.training
    backbone = as_backbone(teacher, card)
    settings = {task: {"preprocessing": "card"} for task in ("knn", "spectrum")}
    with alone(), TemporaryDirectory() as cache, torch.random.fork_rng(devices=[]):
        device = str(next(teacher.parameters()).device)
        context = Context(device=device, cache=Path(cache), progress=False)
        results = evaluate(
            backbone,
            [*settings],
            dataset=dataset,
            settings=settings,
            limit=limit,
            options=options,
            context=context,
        )
    teacher.train(training)
    scores = [(name, score) for result in results for name, score in result.metrics.items()]
    return {name: {"value": one.value, "ci95": list(one.ci95), "n": one.n} for name, one in scores}
