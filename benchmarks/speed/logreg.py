"""The whole path of 45 logistic regressions against scikit-learn called once per C.

The bound: an evaluation of objective and gradient is two products with the features, 4 x 10,000 x 384 x
100 = 1.5 GFLOP, 0.03 s in float64 on two cores of 25 GFLOP/s each; a Hessian product costs the same in
float32, half as much. Neither can be made cheaper, only fewer: scikit-learn's L-BFGS needs 30 to 100
evaluations from a cold start at every C; here a C takes 3 to 4 evaluations and about 15 Hessian products.
"""

import sys
import time
import warnings

import numpy as np
from scipy.special import logsumexp
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from ssleval.heads.logistic import fit_path

IMAGES, CHANNELS, CLASSES = 10_000, 384, 100
STRENGTHS = np.geomspace(1e-6, 1e5, 45).tolist()
COMPARED = range(0, 45, 4)
"""Positions in the path of those scikit-learn fits too; its time for all is scaled up from them."""
TOLERANCE, MOST_ITERATIONS = 1e-12, 1000
"""Of scikit-learn, as DINOv2 and DINOv3 set them."""
SPEED_BAR = 5.0
"""Times as fast, at least."""
OBJECTIVE_BAR = 1e-6
"""By which fraction an objective may be worse, at most."""


def clusters() -> tuple[np.ndarray, np.ndarray]:
    """Return overlapping classes whose channels decay like those of a trained model."""
    random = np.random.default_rng(0)
    scale = np.arange(1, CHANNELS + 1) ** -0.5
    labels = random.integers(0, CLASSES, IMAGES)
    centres = random.standard_normal((CLASSES, CHANNELS))
    return (centres[labels] + 1.5 * random.standard_normal((IMAGES, CHANNELS))) * scale, labels


def objective(
    features: np.ndarray, labels: np.ndarray, weight: np.ndarray, bias: np.ndarray, strength: float
) -> float:
    """Return what both minimise, in float64."""
    logits = features @ weight.T + bias
    loss = np.asarray(logsumexp(logits, axis=1)) - logits[np.arange(len(labels)), labels]
    return float(strength * loss.sum() + 0.5 * (weight**2).sum())


def main() -> int:
    """Print the comparison and its bars; return 1 where one falls short."""
    features, labels = clusters()
    path = fit_path(features, labels, STRENGTHS, num_classes=CLASSES)
    ours = theirs = 0.0
    worst = -np.inf
    for position, strength in enumerate(STRENGTHS):
        start = time.perf_counter()
        fit = next(path)
        ours += time.perf_counter() - start
        if position not in COMPARED:
            continue
        peer = LogisticRegression(C=strength, tol=TOLERANCE, max_iter=MOST_ITERATIONS)
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            peer.fit(features, labels)
        theirs += time.perf_counter() - start
        reached = objective(features, labels, fit.weight.numpy(), fit.bias.numpy(), strength)
        bound = objective(features, labels, peer.coef_, np.asarray(peer.intercept_), strength)
        worst = max(worst, reached / bound - 1)
    per_fit = theirs / len(COMPARED)
    faster = per_fit * len(STRENGTHS) / ours
    print(
        f"logreg: {len(STRENGTHS)} values of C, {IMAGES:,} x {CHANNELS}, {CLASSES} classes, in {ours:.1f} s; "
        f"scikit-learn {per_fit:.1f} s a fit ({len(COMPARED)} fits, interleaved): {faster:.1f} x as fast, "
        f"bar {SPEED_BAR}"
    )
    print(f"logreg: objective worse than scikit-learn's by at most {worst:.1e} of it, bar {OBJECTIVE_BAR:g}")
    return int(faster < SPEED_BAR or worst > OBJECTIVE_BAR)


if __name__ == "__main__":
    sys.exit(main())
