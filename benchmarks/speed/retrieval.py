"""Ranks of all answers among a million images, against the bare matrix product of the same arrays.

The bound: 2 x 70 x 1,000,000 x 384 = 54 GFLOP, half a second on two cores that do 50 GFLOP/s each, in which
the gallery of 1.5 GB is read once, at 3 GB/s. The bare product writes 0.28 GB of similarities to new memory,
about a third of its time, which blocks that stay in a cache save. Counting compares each similarity with the
first cut (two nanoseconds). Where cuts lie in the thick of the gallery it goes into a bin, and one in
seventy, in a bin with a cut, is compared with all cuts (eight nanoseconds in all): 0.14 to 0.6 s of one
core, shared by all. Then one in five hundred lies too close to a cut, and is computed again in float64: 0.15
s. So a ranking costs four fifths of a product to a little more than one, as long as no core waits for
another.

Two galleries are timed: answers among the nearest thousands, as descriptors find them, and answers anywhere,
as if descriptors were blind. An index of approximate neighbours has nothing to offer: of answers in the
middle of a ranking it returns none.
"""

import resource
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from ssleval.heads.ranking import ranks, unit
from ssleval.metrics.retrieval import average_precision

QUERIES, GALLERY, CHANNELS, ANSWERS = 70, 1_000_000, 384, 50
REPEATS = 5
AT_ONCE = 50_000
PRODUCT_BAR = 1.5
"""Times the bare product, at most."""
MEMORY_BAR_GB = 4.0
ERROR_BAR = 1e-9
"""Of mean average precision, against a sort of every query's similarities in float64."""


def vectors() -> tuple[np.ndarray, np.ndarray, dict[str, list[np.ndarray]]]:
    """Return queries, a gallery, and rows of the gallery that answer each query, found and lost."""
    random = np.random.default_rng(0)
    queries = unit(random.standard_normal((QUERIES, CHANNELS), np.float32))
    gallery = np.empty((GALLERY, CHANNELS), np.float32)
    for start in range(0, GALLERY, AT_ONCE):
        gallery[start : start + AT_ONCE] = unit(random.standard_normal((AT_ONCE, CHANNELS), np.float32))
    rows = random.permutation(GALLERY)[: 2 * QUERIES * ANSWERS].reshape(2, QUERIES, ANSWERS)
    # The last answers are hard ones: a cosine of 0.2 is that of the thousandth of a million strangers.
    distance = np.linspace(0.5, 5.0, ANSWERS)[:, None] / CHANNELS**0.5
    for query, own in zip(queries, rows[0], strict=True):
        gallery[own] = unit(query + distance * random.standard_normal((ANSWERS, CHANNELS)))
    return queries, gallery, {"found": list(rows[0]), "lost": list(rows[1])}


def sorted_map(queries: np.ndarray, gallery: np.ndarray, answers: list[np.ndarray]) -> float:
    """Return mean average precision the plain way: all similarities in float64, sorted query by query."""
    exact = queries.astype(np.float64)
    parts = [
        gallery[start : start + AT_ONCE].astype(np.float64) @ exact.T for start in range(0, GALLERY, AT_ONCE)
    ]
    precisions: list[float] = []
    for query, own in enumerate(answers):
        order = np.argsort(-np.concatenate([part[:, query] for part in parts]), kind="stable")
        right = np.isin(order, own)
        precision = np.cumsum(right) / np.arange(1, GALLERY + 1)
        precisions.append(float(precision[right].mean()))
    return statistics.mean(precisions)


def ranked_map(queries: np.ndarray, gallery: np.ndarray, answers: list[np.ndarray]) -> float:
    """Return mean average precision as the task computes it."""
    found = ranks(queries, gallery, answers)
    return statistics.mean(average_precision(np.sort(places)) for places in found)


def interleaved(contenders: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Return the seconds of each contender, all of them in turn, so that other load hits all."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(REPEATS):
        for name, call in contenders.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return times


def main() -> int:
    """Print ratios, errors and memory with their bars; return 1 when one falls short."""
    queries, gallery, answers = vectors()
    print(f"retrieval: {QUERIES} x {GALLERY:,} x {CHANNELS}; {torch.get_num_threads()} threads")
    times = interleaved(
        {
            "product, numpy": lambda: queries @ gallery.T,
            "product, torch": lambda: torch.from_numpy(queries) @ torch.from_numpy(gallery).T,
            **{name: lambda own=own: ranked_map(queries, gallery, own) for name, own in answers.items()},
        }
    )
    for name, seconds in times.items():
        print(f"retrieval: {name:15} {statistics.median(seconds):7.2f} s, median of {len(seconds)}")
    # Kilobytes on Linux; before the plain way, which holds more.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    product = min(("product, numpy", "product, torch"), key=lambda name: statistics.median(times[name]))
    ratios = {
        name: statistics.median(own / bare for own, bare in zip(times[name], times[product], strict=True))
        for name in answers
    }
    errors = {
        name: abs(ranked_map(queries, gallery, own) - sorted_map(queries, gallery, own))
        for name, own in answers.items()
    }
    for name, ratio in ratios.items():
        print(f"retrieval: answers {name}: ours / {product}: {ratio:.2f}, bar {PRODUCT_BAR} at most")
        print(f"retrieval: answers {name}: mAP off by {errors[name]:.1e}, bar {ERROR_BAR:.0e} at most")
    print(f"retrieval: peak memory {peak:.2f} GB, bar {MEMORY_BAR_GB} at most")
    slow, wrong = max(ratios.values()) > PRODUCT_BAR, max(errors.values()) > ERROR_BAR
    return int(slow or wrong or peak > MEMORY_BAR_GB)


if __name__ == "__main__":
    sys.exit(main())
