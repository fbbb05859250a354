"""How often does the 95 % interval of a score hold the true score?

Test sets are drawn from models whose true score is known. For each, the interval of
`ssleval.metrics.intervals` and the percentile bootstrap over items are checked. "below" is how often the true
score lies below the interval; of the misses, half should.

    python -m benchmarks.coverage                        # 2,000 test sets a case, 10 minutes on a core
    python -m benchmarks.coverage --simulations 200 --case mIoU
    python -m benchmarks.coverage --timing               # and what an interval costs

Exits with 1 if a case covers less than 93 % or more than 98.5 % and gives no reason.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
from scipy.special import expit
from scipy.stats import norm

from ssleval.core import Metric, Samples, Statistic
from ssleval.metrics.corruption import ALEXNET_ERRORS, mean_corruption_error_of
from ssleval.metrics.intervals import estimates
from ssleval.metrics.micro_ap import micro_average_precision_of
from ssleval.metrics.multilabel import mean_average_precision_of
from ssleval.metrics.segmentation import matched_mean_iou_of
from ssleval.metrics.stats import mean_of, mean_per_class_of, mean_ratio_of, ratio_of

LEAST, MOST = 0.93, 0.985
RESAMPLES = 500
"""Draws of the percentile bootstrap, which takes long and is checked on a quarter of the test sets."""

Draw = Callable[[np.random.Generator], Samples]


@dataclass(frozen=True)
class Case:
    """A statistic of test sets of one kind."""

    name: str
    size: str
    draw: Draw
    statistic: Statistic
    truth: float
    unit: str = "fraction"
    reason: str = ""
    """Why no interval of this kind can hold the truth as often as it says; '' where it must."""


# Models of test sets ------------------------------------------------------------------------------


def _samples(cluster: str = "", /, **columns: np.ndarray) -> Samples:
    return Samples([""] * len(next(iter(columns.values()))), columns, cluster)


def outcomes(random: np.random.Generator, items: int, share: float) -> Samples:
    """Right and wrong answers."""
    return _samples(x=random.random(items) < share)


def fractions(random: np.random.Generator, items: int, above: float, below: float) -> Samples:
    """Values of a beta distribution, such as the average precisions of queries."""
    return _samples(x=random.beta(above, below, items))


def errors(random: np.random.Generator, items: int) -> Samples:
    """Skewed errors in metres, with mean 0.6."""
    return _samples(x=random.gamma(2, 0.3, items))


def ratios(random: np.random.Generator, items: int) -> Samples:
    """Right answers among those of an image, more where it has many."""
    count = random.poisson(4, items) + 1
    return _samples(right=random.binomial(count, expit(0.2 * count)), count=count)


def masks(random: np.random.Generator, images: int, classes: int, rarest: float, clips: int = 0) -> Samples:
    """Intersections and unions of classes; rare ones are smaller and worse, images differ in difficulty."""
    clip = np.arange(images) * clips // images if clips else np.arange(images)
    prevalence, quality = np.geomspace(0.95, rarest, classes), np.linspace(2, 0, classes)
    present = random.random((images, classes)) < prevalence
    area = present * np.exp(np.linspace(8, 6, classes) + random.normal(0, 1, (images, classes)))
    hard = random.normal(0, 0.5, clip[-1] + 1)[clip][:, None]
    share = expit(quality + hard + random.normal(0, 0.7, (images, classes)))
    spurious = (random.random((images, classes)) < 0.05) * np.exp(4 + random.normal(0, 1, (images, classes)))
    union = area * (1.2 - 0.2 * share) + spurious
    return _samples("clip" if clips else "", intersection=area * share, union=union, clip=clip)


def confusions(random: np.random.Generator, images: int, classes: int) -> Samples:
    """Confusion matrices of clusters whose numbers are those of the classes, shifted by one."""
    area = random.poisson(300 * random.random((images, classes)) ** 2)
    share = np.clip(expit(1 + random.normal(0, 0.7, (images, classes))), 0, 1)
    right = random.binomial(area, share)
    wrong = random.multinomial(area - right, np.full(classes, 1 / classes))
    wrong[:, np.arange(classes), (np.arange(classes) + 1) % classes] += right
    return _samples(confusion=wrong)


def labels(random: np.random.Generator, items: int, classes: int, skew: float, share: float) -> Samples:
    """Outcomes of classes with unequal numbers of items; rare classes are wrong more often."""
    frequency = np.geomspace(1, skew, classes)
    label = random.choice(classes, items, p=frequency / frequency.sum())
    return _samples(right=random.random(items) < _accuracies(classes, share)[label], label=label)


def balanced(random: np.random.Generator, each: int, classes: int, share: float) -> Samples:
    """Outcomes of classes with equally many items."""
    label = np.repeat(np.arange(classes), each)
    return _samples(right=random.random(len(label)) < _accuracies(classes, share)[label], label=label)


def _accuracies(classes: int, share: float) -> np.ndarray:
    return share + (1 - share) * np.linspace(0.5, -0.5, classes)


def label_scores(
    random: np.random.Generator, items: int, gains: np.ndarray, prevalence: np.ndarray, scenes: int = 0
) -> Samples:
    """Scores of labels; items, or scenes of them, differ in how high all of theirs are."""
    scene = np.arange(items) * scenes // items if scenes else np.arange(items)
    targets = random.random((items, len(gains))) < prevalence
    hard = random.normal(0, 0.5**0.5, scene[-1] + 1)[scene][:, None]
    noise = random.normal(0, 0.5**0.5, targets.shape)
    return _samples(
        "scene" if scenes else "", scores=targets * gains + hard + noise, targets=targets, scene=scene
    )


def answers(random: np.random.Generator, queries: int, share: float, gain: float) -> Samples:
    """One scored answer of each query; a tenth of the queries has none that is right."""
    known = random.random(queries) < 0.9
    right = known & (random.random(queries) < share / 0.9)
    return _samples(
        scores=(right * gain + random.normal(0, 1, queries))[:, None], right=right[:, None], known=known
    )


def corrupted(random: np.random.Generator, images: int) -> Samples:
    """Errors on corrupted images; hard images are wrong under most corruptions."""
    hard = random.normal(0, 1.5, (images, 1, 1))
    return _samples(wrong=random.random((images, 15, 5)) < expit(hard - 0.5))


def clustered(random: np.random.Generator, clusters: int, each: int, share: float, spread: float) -> Samples:
    """Outcomes of clusters of 1 to 2 ``each`` - 1 items that differ in how often they are right."""
    sizes = random.integers(1, 2 * each, clusters)
    chance = random.beta(share * spread, (1 - share) * spread, clusters)
    cluster = np.repeat(np.arange(clusters), sizes)
    return _samples("cluster", x=random.random(len(cluster)) < chance[cluster], cluster=cluster)


def clips(random: np.random.Generator, clusters: int, each: int) -> Samples:
    """Mean Jaccard indices of the objects of clips."""
    cluster = np.repeat(np.arange(clusters), each)
    hard = random.normal(1, 1, clusters)[cluster]
    return _samples("cluster", x=expit(hard + random.normal(0, 0.7, len(cluster))), cluster=cluster)


def groups(random: np.random.Generator, number: int) -> Samples:
    """Average precisions of the queries of some groups, 10 to 40 a group."""
    group = np.repeat(np.arange(number), random.integers(10, 41, number))
    hard = random.normal(0.5, 1, number)[group]
    return _samples("group", ap=expit(hard + random.normal(0, 0.8, len(group))), group=group)


# True scores --------------------------------------------------------------------------------------


def _logistic_mean(mean: float, deviation: float) -> float:
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    return float((weights * expit(mean + deviation * nodes)).sum() / weights.sum())


def _average_precision(gain: float, prevalence: float) -> float:
    """Return the average precision of scores N(gain, 1) of positives among N(0, 1) of negatives."""
    cuts = np.linspace(gain - 9, gain + 9, 20_001)
    hits, false = prevalence * norm.sf(cuts - gain), (1 - prevalence) * norm.sf(cuts)
    return float(np.trapezoid(hits / (hits + false) * norm.pdf(cuts - gain), cuts))


def _of_sums(statistic: Statistic, draw: Callable[..., Samples], *sizes: float) -> float:
    """Return a statistic of sums of columns on 1,000,000 items."""
    total: dict[str, np.ndarray] = {}
    for block in range(50):
        samples = draw(np.random.default_rng([1, block]), 20_000, *sizes)
        for name, column in samples.columns.items():
            total[name] = total.get(name, 0) + column.sum(axis=0, keepdims=True)
    return Metric("", statistic).score(_samples(**total))


# Cases --------------------------------------------------------------------------------------------


def cases() -> Iterator[Case]:
    """Yield all cases: statistic, number of items, and prevalence or difficulty."""
    yield from _means()
    yield from _means_over_classes()
    yield from _rankings()
    yield from _clusters()


def _means() -> Iterator[Case]:
    mean = mean_of("x")
    discrete = "outcomes are discrete: with 50 items an interval covers 91.1 or 98.6 %"
    for items, share in (
        (50, 0.9),
        (50, 0.99),
        (100, 0.5),
        (100, 0.95),
        (100, 0.99),
        (1000, 0.95),
        (1000, 0.999),
    ):
        reason = discrete if (items, share) == (50, 0.99) else ""
        yield Case(
            f"accuracy {share}",
            f"{items}",
            partial(outcomes, items=items, share=share),
            mean,
            share,
            reason=reason,
        )
    for items, above, below in ((50, 2, 1), (70, 4, 0.3), (500, 0.5, 0.5)):
        draw = partial(fractions, items=items, above=above, below=below)
        yield Case(f"mean AP, beta({above}, {below})", f"{items}", draw, mean, above / (above + below))
    for items in (60, 300):
        yield Case("mean RMSE, gamma", f"{items}", partial(errors, items=items), mean, 0.6, "m")
    ratio = ratio_of("right", "count")
    yield Case("ratio of sums", "80", partial(ratios, items=80), ratio, _of_sums(ratio, ratios))
    alexnet = float(np.mean(1 / np.array([*ALEXNET_ERRORS.values()])))
    yield Case(
        "mCE",
        "200",
        partial(corrupted, images=200),
        mean_corruption_error_of("wrong"),
        alexnet * _logistic_mean(-0.5, 1.5),
    )


def _means_over_classes() -> Iterator[Case]:
    mean_iou = mean_ratio_of("intersection", "union")
    for images, classes, rarest in (
        (60, 11, 0.04), (60, 11, 0.1), (60, 11, 0.3), (100, 21, 0.04), (233, 11, 0.04), (500, 21, 0.02),
    ):  # fmt: skip
        draw = partial(masks, images=images, classes=classes, rarest=rarest)
        truth = _of_sums(mean_iou, masks, classes, rarest)
        yield Case(f"mIoU, {classes} classes, rarest {rarest}", f"{images}", draw, mean_iou, truth)
    matched = matched_mean_iou_of("confusion")
    yield Case(
        "matched mIoU, 8 classes",
        "100",
        partial(confusions, images=100, classes=8),
        matched,
        _of_sums(matched, confusions, 8),
    )
    per_class = mean_per_class_of("right", "label")
    for each, classes, share in ((10, 99, 0.9), (5, 20, 0.95)):
        yield Case(
            f"mean per class, {classes} x {each}",
            f"{each * classes}",
            partial(balanced, each=each, classes=classes, share=share),
            per_class,
            share,
        )
    yield Case(
        "mean per class, 10, 1 : 20",
        "500",
        partial(labels, items=500, classes=10, skew=0.05, share=0.8),
        per_class,
        0.8,
    )


def _rankings() -> Iterator[Case]:
    statistic = mean_average_precision_of("scores", "targets")
    for items, classes, rarest, gain in (
        (60, 4, 0.1, 1.5),
        (200, 8, 0.03, 1.5),
        (200, 8, 0.03, 3.0),
        (1000, 20, 0.01, 2.0),
        (100, 2, 0.5, 2.0),
    ):
        gains, prevalence = (
            gain + np.linspace(-0.5, 0.5, classes),
            np.geomspace(max(0.3, rarest), rarest, classes),
        )
        truth = float(np.mean([_average_precision(*pair) for pair in zip(gains, prevalence, strict=True)]))
        draw = partial(label_scores, items=items, gains=gains, prevalence=prevalence)
        yield Case(f"mAP {truth:.2f}, {classes} labels, rarest {rarest}", f"{items}", draw, statistic, truth)
    for queries, share, gain in ((100, 0.7, 1.5), (400, 0.3, 2.5)):
        truth = share / 0.9 * _average_precision(gain, share)
        yield Case(
            f"micro-AP {truth:.2f}",
            f"{queries}",
            partial(answers, queries=queries, share=share, gain=gain),
            micro_average_precision_of("scores", "right", "known"),
            truth,
        )


def _clusters() -> Iterator[Case]:
    mean = mean_of("x")
    for number, each, share, spread in (
        (12, 20, 0.7, 5),
        (20, 25, 0.8, 5),
        (60, 8, 0.95, 10),
        (200, 3, 0.9, 5),
    ):
        draw = partial(clustered, clusters=number, each=each, share=share, spread=spread)
        yield Case(f"accuracy {share}, clusters", f"{number} x {each}", draw, mean, share)
    truth = _logistic_mean(1, 1.49**0.5)
    yield Case("mean J of objects in clips", "30 x 2", partial(clips, clusters=30, each=2), mean, truth)
    truth = _logistic_mean(0.5, 1.64**0.5)
    for number in (12, 40):
        yield Case(
            "macro mAP over groups",
            f"{number} x 25",
            partial(groups, number=number),
            mean_per_class_of("ap", "group"),
            truth,
        )
    mean_iou = mean_ratio_of("intersection", "union")
    truth = _of_sums(mean_iou, masks, 8, 0.2)
    yield Case(
        "mIoU of clips, 8 classes",
        "30 x 10",
        partial(masks, images=300, classes=8, rarest=0.2, clips=30),
        mean_iou,
        truth,
    )
    gains, prevalence = np.full(4, 1.5), np.full(4, 0.3)
    draw = partial(label_scores, items=300, gains=gains, prevalence=prevalence, scenes=60)
    yield Case(
        "mAP of scenes, 4 labels",
        "60 x 5",
        draw,
        mean_average_precision_of("scores", "targets"),
        _average_precision(1.5, 0.3),
    )


# Measuring ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Coverage:
    """How often intervals of one method held the truth, and how they missed it."""

    held: float
    below: float
    """How often the truth was below the interval."""
    width: float


@lru_cache(maxsize=4)
def _resamples(items: int, resamples: int) -> np.ndarray:
    drawn = np.random.default_rng(0).integers(0, items, (resamples, items))
    drawn += np.arange(resamples)[:, None] * items
    return np.bincount(drawn.reshape(-1), minlength=resamples * items).reshape(resamples, items).astype(float)


def percentile_bootstrap(statistic: Statistic, samples: Samples, resamples: int) -> tuple[float, float]:
    """Return the percentile interval over draws of items (Efron & Tibshirani 1993, sec. 13.3)."""
    scores = statistic(samples, _resamples(len(samples), resamples))
    low, high = np.nanquantile(scores, [0.025, 0.975])
    return float(low), float(high)


def measure(case: Case, simulations: int, seed: int = 2) -> tuple[Coverage, Coverage]:
    """Return the coverage of the package's intervals and of the percentile bootstrap."""
    metric, ends = Metric(case.name, case.statistic, unit=case.unit), []
    drawn = []
    for run in range(simulations):
        samples = case.draw(np.random.default_rng([seed, run]))
        estimate = estimates([metric], samples)[case.name]
        ends.append((estimate.low, estimate.high))
        if run % 4 == 0:
            drawn.append(percentile_bootstrap(case.statistic, samples, RESAMPLES))
    return _coverage(ends, case.truth), _coverage(drawn, case.truth)


def _coverage(ends: list[tuple[float, float]], truth: float) -> Coverage:
    low, high = np.array(ends).T
    held = (low <= truth) & (truth <= high)
    return Coverage(float(held.mean()), float((truth < low).mean()), float((high - low).mean()))


def timings() -> Iterator[tuple[str, float, float]]:
    """Yield what an interval and a percentile bootstrap of 2,000 draws take, in milliseconds."""
    random, rows = np.random.default_rng(0), 4_000_000
    mean_ap = mean_average_precision_of("scores", "targets")
    micro_ap = micro_average_precision_of("scores", "right", "known")
    scored = partial(label_scores, random, 5000, np.full(20, 2.0), np.full(20, 0.1))
    for name, samples, statistic in (
        ("accuracy, n = 1,000", outcomes(random, 1000, 0.8), mean_of("x")),
        ("accuracy, n = 50,000", outcomes(random, 50_000, 0.8), mean_of("x")),
        ("mIoU, 21 x 1,449", masks(random, 1449, 21, 0.05), mean_ratio_of("intersection", "union")),
        ("mAP, 5,000 x 20", scored(), mean_ap),
        ("micro-AP, n = 5,000", answers(random, 5000, 0.5, 2.0), micro_ap),
        ("mAP in clusters, 5,000 x 20", scored(500), mean_ap),
    ):  # fmt: skip
        started = time.process_time()
        estimates([Metric(name, statistic)], samples)
        own, started = time.process_time() - started, time.process_time()
        block = max(1, rows // len(samples))
        for first in range(0, 2000, block):
            draws = min(block, 2000 - first)
            _resamples.cache_clear()
            statistic(samples, _resamples(len(samples), draws))
        yield name, 1000 * own, 1000 * (time.process_time() - started)


def main() -> int:
    """Print a row per case; 1 if an interval covers too seldom or too often without a reason."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--simulations", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=2, help="of the test sets")
    parser.add_argument("--case", default="", help="only cases whose name contains this")
    parser.add_argument("--timing", action="store_true", help="measure what an interval costs, too")
    options = parser.parse_args()
    failed = 0
    print("| statistic | n | true score | interval | below | bootstrap | below | width ratio | |")
    print("|:---|---:|---:|---:|---:|---:|---:|---:|:---|")
    for case in cases():
        if options.case not in case.name:
            continue
        own, old = measure(case, options.simulations, options.seed)
        ratio = f"{own.width / old.width:.2f}" if old.width else "-"
        print(
            f"| {case.name} | {case.size} | {case.truth:.3f} | {100 * own.held:.1f} | {100 * own.below:.1f} "
            f"| {100 * old.held:.1f} | {100 * old.below:.1f} | {ratio} | {case.reason} |",
            flush=True,
        )
        failed += not case.reason and not LEAST <= own.held <= MOST
    if options.timing:
        for name, own, old in timings():
            print(f"{name:30} interval {own:8.1f} ms, percentile bootstrap of 2,000 draws {old:8.1f} ms")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
