"""How often does `ssleval compare` call two equal models different, and how large a difference does it find?

Both models of a simulated comparison draw their outcomes from one distribution given the item, so that no
true difference exists: every p-value below 0.05 is a false alarm. What makes an item hard is shared. Rare
classes are in 8 % of the images. In clusters, all items of one are hard or easy for a model.

    python -m benchmarks.calibration                      # 2,000 comparisons of each kind
    python -m benchmarks.calibration --power FILE.json    # and how often true differences are found

Exits with 1 if any kind has more than 6 % false alarms at the 5 % level.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ssleval.core import Metric, Samples
from ssleval.metrics.multilabel import mean_average_precision_of
from ssleval.metrics.paired import Difference, mcnemar_exact, mcnemar_outcomes, paired_test
from ssleval.metrics.stats import mean_of, mean_ratio_of

ITEMS, CLUSTERS = 300, 40
LEVEL, TOLERATED = 0.05, 0.06
_FREQUENCIES = np.linspace(0.6, 0.08, 4)

Draw = Callable[[np.random.Generator, float], tuple[Samples, Samples]]


def accuracy(random: np.random.Generator, effect: float) -> tuple[Samples, Samples]:
    """Right with a probability that both share; the second is right ``effect`` more often."""
    chance = random.beta(2, 1, ITEMS)
    return _samples(x=random.random(ITEMS) < chance), _samples(
        x=random.random(ITEMS) < np.clip(chance + effect, 0, 1)
    )


def rmse(random: np.random.Generator, effect: float) -> tuple[Samples, Samples]:
    """Skewed errors in metres around one that both share; those of the second are lower by ``effect``."""
    hard = random.gamma(2, 0.3, ITEMS)
    first, second = (hard * random.lognormal(0, 0.3, ITEMS) for _ in range(2))
    return _samples(x=first), _samples(x=second - effect)


def miou(random: np.random.Generator, effect: float) -> tuple[Samples, Samples]:
    """Intersections and unions of classes with exponential areas, some of them rare."""
    present = random.random((ITEMS, 4)) < _FREQUENCIES
    area, hard = present * random.exponential(1000, (ITEMS, 4)), random.normal(0, 0.7, (ITEMS, 4))
    quality = [1 / (1 + np.exp(-(hard + random.normal(gain + 1, 0.7, (ITEMS, 4))))) for gain in (0, effect)]
    first, second = (_samples(above=area * q, below=area * (1 + 0.3 * (1 - q))) for q in quality)
    return first, second


def mean_ap(random: np.random.Generator, effect: float) -> tuple[Samples, Samples]:
    """Scores of four labels, some of them rare."""
    targets, hard = random.random((ITEMS, 4)) < _FREQUENCIES, random.normal(0, 0.7, (ITEMS, 4))
    scores = [targets * (1.2 + gain) + hard + random.normal(0, 0.7, (ITEMS, 4)) for gain in (0, effect)]
    first, second = (_samples(scores=score, targets=targets) for score in scores)
    return first, second


def clusters(random: np.random.Generator, effect: float) -> tuple[Samples, Samples]:
    """Outcomes of items in clusters of unequal size; a model is better or worse on a whole cluster."""
    cluster = np.sort(
        random.choice(CLUSTERS, ITEMS, p=np.arange(1, CLUSTERS + 1) / (CLUSTERS * (CLUSTERS + 1) / 2))
    )
    hard = random.normal(1, 1, CLUSTERS)
    first, second = (
        _samples(
            "cluster",
            x=random.random(ITEMS) < 1 / (1 + np.exp(-(hard + random.normal(gain, 0.7, CLUSTERS))[cluster])),
            cluster=cluster,
        )
        for gain in (0, effect)
    )
    return first, second


KINDS: dict[str, tuple[Draw, Metric]] = {
    "accuracy": (accuracy, Metric("accuracy", mean_of("x"))),
    "mIoU": (miou, Metric("mIoU", mean_ratio_of("above", "below"))),
    "mAP": (mean_ap, Metric("mAP", mean_average_precision_of("scores", "targets"))),
    "RMSE": (rmse, Metric("RMSE", mean_of("x"), higher_is_better=False)),
    "clusters": (clusters, Metric("accuracy", mean_of("x"))),
}


_DETECTED = {"accuracy": 0.094, "mIoU": 0.2, "mAP": 0.25, "RMSE": 0.054, "clusters": 0.75}
"""Effects near the smallest detectable one."""
_STEPS = (0.0, 0.33, 0.67, 1.0, 1.33, 1.67)


class Found(NamedTuple):
    """What repeated comparisons of two models found."""

    share: float
    """Comparisons with p below 0.05."""
    relative: float
    """The true difference over the smallest detectable one that `ssleval compare` states, both averaged."""


def comparisons(kind: str, effect: float, runs: int) -> Found:
    """Compare two simulated models ``runs`` times, each time on new items."""
    draw, metric = KINDS[kind]
    tests = [_test(metric, *draw(np.random.default_rng([7, run]), effect)) for run in range(runs)]
    true = abs(np.mean([difference.value for _, difference in tests]))
    detectable = np.mean([difference.detectable() for _, difference in tests])
    return Found(float(np.mean([p < LEVEL for p, _ in tests])), float(true / detectable))


def _test(metric: Metric, first: Samples, second: Samples) -> tuple[float, Difference]:
    difference = paired_test(metric, second, first)
    outcomes = mcnemar_outcomes(metric, first, second)
    return difference.pvalue() if outcomes is None else mcnemar_exact(*outcomes), difference


def _samples(cluster: str = "", /, **columns: np.ndarray) -> Samples:
    return Samples([str(item) for item in range(ITEMS)], columns, cluster)


def main() -> int:
    """Print false alarms, store the power curve if asked to; 1 if any kind has too many false alarms."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--power", type=Path, help="write the power curve, of a quarter as many runs, here")
    options = parser.parse_args()
    alarms = {kind: comparisons(kind, 0.0, options.runs).share for kind in KINDS}
    for kind, share in alarms.items():
        print(f"{kind:10} {100 * share:5.2f} % false alarms in {options.runs} comparisons of {ITEMS} items")
    if options.power:
        curve = {
            kind: [comparisons(kind, step * _DETECTED[kind], options.runs // 4) for step in _STEPS]
            for kind in KINDS
        }
        options.power.write_text(
            json.dumps({"alarms": alarms, "power": curve}, indent=1) + "\n", encoding="utf-8"
        )
    return int(max(alarms.values()) > TOLERATED)


if __name__ == "__main__":
    sys.exit(main())
