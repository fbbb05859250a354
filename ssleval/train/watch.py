"""Monitoring: indicators of collapse, and evaluation of the teacher during training."""

from collections.abc import Callable, Mapping
from math import log
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ssleval.core import BackboneCard, DatasetOptions
from ssleval.live import Evaluator
from ssleval.train.export import as_backbone
from ssleval.train.logfile import collapse_limit
from ssleval.train.networks import Network
from ssleval.train.spread import effective_rank

_LEAST_SPREAD, _LEAST_RANK = 0.01, 1.5
"""Below these, projections do not depend on the image, or tell little more than one number of it."""


@torch.no_grad()
def collapse_indicators(
    targets: Float[Tensor, "2 b k"], features: Float[Tensor, "n d"], dino: Tensor | None, weight: float
) -> dict[str, Tensor]:
    """Return how the teacher's targets and features are spread.

    ``teacher_entropy`` (nats) is the mean entropy of a target. ``information`` (nats) is the entropy of the
    mean target minus that: the mutual information of target and crop, 0 in either kind of collapse. ``kl``
    is the loss ``dino`` without its ``weight``, minus the entropy (Caron et al. 2021, eq. 5).
    ``feature_rank`` is the effective rank of the teacher's class tokens.
    """
    entropy = torch.special.entr(targets).sum(dim=-1).mean()
    marginal = torch.special.entr(targets.mean(dim=(0, 1))).sum()
    indicators = {"teacher_entropy": entropy, "information": marginal - entropy}
    if dino is not None:
        indicators["kl"] = dino / weight - entropy
    return indicators | {"feature_rank": effective_rank(features)}


class CollapseWatch:
    """Warns once if the targets of a run no longer depend on the image, or still do not after an epoch.

    Without a teacher there are no targets; after the first epoch, projections are judged in their place.
    """

    def __init__(self, prototypes: int) -> None:
        self.prototypes = prototypes
        self._begun: float | None = None
        self._said = False

    def warning(self, indicators: Mapping[str, Any], epoch: int) -> str:
        """Return a warning, if there is one, after ``epoch`` epochs.

        In the first epoch a run may lie on the plateau it begins on: only one that had left it can collapse.
        """
        if self._said:
            return ""
        text = ""
        if "projection_spread" in indicators and epoch:
            text = collapsed_projections(indicators)
        elif "information" in indicators:
            begun = self._begun = indicators["information"] if self._begun is None else self._begun
            if epoch or begun >= collapse_limit(self.prototypes):
                text = collapsed(indicators, self.prototypes, begun)
        self._said = bool(text)
        return text


def collapsed_projections(indicators: Mapping[str, Any]) -> str:
    """Return a warning if projections are all on one point or on one line, else an empty text."""
    spread, rank = indicators["projection_spread"], indicators["projection_rank"]
    if spread >= _LEAST_SPREAD and rank >= _LEAST_RANK:
        return ""
    return (
        f"collapse: projections of all images are on one {'point' if spread < _LEAST_SPREAD else 'line'} "
        f"(spread {spread:.2g} of at most 1, effective rank {rank:.3g})"
    )


def collapsed(indicators: Mapping[str, Any], prototypes: int, begun: float = 0.0) -> str:
    """Return a warning if the targets do not depend on the image, else an empty text.

    ``begun`` is the information in the first steps, in nats.
    """
    if indicators.get("information", log(prototypes)) >= collapse_limit(prototypes, begun):
        return ""
    entropy, most = indicators["teacher_entropy"], log(prototypes)
    kind = "uniform" if entropy > most / 2 else "one prototype for everything"
    return (
        f"collapse: the teacher gives every image the same assignment ({kind}; entropy {entropy:.3g} of at "
        f"most {most:.3g}, information {indicators['information']:.2g} nats, at first {begun:.2g})"
    )


def evaluator_of_teachers(dataset: str, options: DatasetOptions, limit: int) -> Evaluator:
    """Return what measures k-NN and spectrum on ``limit`` images a split, in the geometry of the card."""
    tasks = {task: {"preprocessing": "card"} for task in ("knn", "spectrum")}
    return Evaluator([*tasks], dataset, settings=tasks, limit=limit, options=options, jsonl=None, log=())


def evaluate_teacher(
    evaluator: Callable[[], Evaluator], teacher: Network, card: BackboneCard
) -> dict[str, dict[str, Any]]:
    """Return ``value``, ``ci95`` and ``n`` of every metric.

    One process evaluates alone, while the others of its group wait.
    """
    return {
        name: {"value": score.value, "ci95": list(score.ci95), "n": score.n}
        for result in evaluator().measure(as_backbone(teacher, card))
        for name, score in result.metrics.items()
    }
