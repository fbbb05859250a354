"""L2-regularised logistic regression along a path of strengths, by preconditioned Newton-CG.

For every ``C`` it minimises ``C * sum of cross-entropies + 0.5 * ||W||^2``, the intercept unpenalised:
the objective of scikit-learn and cuML. As in those libraries, two classes are one sigmoid problem,
multi-labels are one sigmoid problem per class, and everything else is a softmax.

An evaluation costs two products with the ``n x d`` features, so there are as few as possible. Features are
centred and rotated onto their principal axes, where the Hessian is nearly diagonal; each fit starts from the
two before it, extrapolated in log C. Only the products inside a Newton step are float32, all else float64.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import log

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from ssleval.errors import ConfigError

_CHUNK_VALUES = 1 << 19
_CACHED_VALUES = 1 << 28
_NEWTON_STEPS = 100
_CG_STEPS = 200
_CG_FRACTION = 0.1


@dataclass(frozen=True, slots=True)
class Logistic:
    """A fitted classifier, in the features' own coordinates."""

    weight: Float[Tensor, "c d"]
    bias: Float[Tensor, " c"]
    strength: float
    """The C it was fitted with: larger is less regularised."""
    objective: float
    """The value reached of ``C * sum of cross-entropies + 0.5 * ||W||^2``."""

    def scores(self, features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n c"]:
        """Return logits, in float64; for two classes the first column is zero."""
        logits = np.empty((len(features), len(self.weight)))
        for start in range(0, len(features), 8192):
            rows = torch.from_numpy(np.asarray(features[start : start + 8192], np.float64))
            block = torch.addmm(self.bias, rows.to(self.weight.device), self.weight.T)
            logits[start : start + 8192] = block.cpu().numpy()
        return logits


def fit_path(
    features: Float[np.ndarray, "n d"],
    targets: Shaped[np.ndarray, "n ..."],
    strengths: Sequence[float],
    *,
    num_classes: int,
    tolerance: float = 1e-7,
    device: str = "cpu",
    start: Logistic | None = None,
) -> Iterator[Logistic]:
    """Yield the fit of every strength C, weakest (most regularised) first.

    ``targets`` are labels ``[n]``, or ``[n c]`` bool for one problem per class. A fit ends when the decrease
    predicted for a Newton step is under ``tolerance`` times the objective; what remains is smaller. The first
    fit begins at ``start`` if given, else at zero. Needs ``4 n (d + 1)`` bytes, and up to 1 GiB more for
    probabilities; features may be memory-mapped and of any float type.

    Raises:
        ConfigError: strengths not positive and increasing, or no feature rows.
    """
    if not strengths or min(strengths) <= 0 or list(strengths) != sorted(set(strengths)):
        raise ConfigError(
            f"logistic regression: strengths {tuple(strengths)} must be positive and increasing"
        )
    if not len(features):
        raise ConfigError("logistic regression: no training rows; it needs at least one")
    problem = _Problem(features, targets, num_classes, device)
    theta, before = problem.initial(start), None
    for index, strength in enumerate(strengths):
        guess = theta
        if before is not None:
            ratio = log(strength / strengths[index - 1]) / log(strengths[index - 1] / strengths[index - 2])
            guess = theta + ratio * (theta - before)
        before = theta if index else None
        theta, objective = _newton(problem, guess, strength, tolerance)
        yield problem.classifier(theta, strength, objective)


def accuracy(scores: Float[np.ndarray, "m c"], labels: Shaped[np.ndarray, " m"]) -> float:
    """Return how often the class of largest score is the label."""
    return float((scores.argmax(axis=1) == labels).mean())


def fit_best(
    features: Float[np.ndarray, "n d"],
    targets: Shaped[np.ndarray, "n ..."],
    held_out: Bool[np.ndarray, " n"],
    strengths: Sequence[float],
    score: Callable[[Float[np.ndarray, "m c"], Shaped[np.ndarray, "m ..."]], float] = accuracy,
    *,
    num_classes: int,
    tolerance: float = 1e-7,
    device: str = "cpu",
) -> Logistic:
    """Choose C on held-out rows, then fit on all rows with it; other arguments are those of `fit_path`.

    ``score`` takes the logits of held-out rows and their targets; of equal scores the smaller C is taken.
    """
    kept, judged = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    path = partial(fit_path, num_classes=num_classes, tolerance=tolerance, device=device)
    fits = path(features[kept], targets[kept], strengths)
    best = max(fits, key=lambda model: score(model.scores(features[judged]), targets[judged]))
    return next(path(features, targets, (best.strength,), start=best))


class _Problem:
    """Objective, gradient and Hessian products; parameters are ``[r + 1, c]``, the intercept last."""

    def __init__(
        self,
        features: Float[np.ndarray, "n d"],
        targets: Shaped[np.ndarray, "n ..."],
        num_classes: int,
        device: str,
    ) -> None:
        # The accelerators of Apple have no float64.
        device = "cpu" if device == "mps" else device
        self.binary = targets.ndim == 1 and num_classes == 2
        self.softmax = targets.ndim == 1 and not self.binary
        # Multi-labels below 0 say that nobody is sure: VISSL fits such images as images without the label.
        self.targets = torch.from_numpy(targets > 0 if targets.ndim > 1 else np.array(targets)).to(device)
        if self.binary:
            self.targets = self.targets[:, None].bool()
        self.columns = 1 if self.binary else num_classes
        self.mean, self.axes, self.spread = _principal_axes(features, device)
        self.rows = max(256, _CHUNK_VALUES // max(self.columns, len(self.mean)))
        self.design = torch.ones(len(features), self.axes.shape[1] + 1, device=device)
        for part in self._parts():
            self.design[part, :-1] = _centred(features[part], self.mean) @ self.axes
        self.penalty = torch.ones(self.design.shape[1], 1, dtype=torch.float64, device=device)
        self.penalty[-1] = 0
        self.theta = torch.zeros(self.design.shape[1], self.columns, device=device)
        self.loss_at_zero = len(features) * (log(num_classes) if self.softmax else self.columns * log(2))
        self.caches = len(features) * self.columns <= _CACHED_VALUES

    def initial(self, start: Logistic | None) -> Float[Tensor, "p c"]:
        if start is None:
            return self.theta.double()
        weight, bias = start.weight[-self.columns :], start.bias[-self.columns :]
        return torch.cat([self.axes.T @ weight.T, (bias + weight @ self.mean)[None]])

    def classifier(self, theta: Float[Tensor, "p c"], strength: float, objective: float) -> Logistic:
        weight = (self.axes @ theta[:-1]).T
        bias = theta[-1] - weight @ self.mean
        if self.binary:
            weight, bias = torch.cat([0 * weight, weight]), torch.cat([0 * bias, bias])
        return Logistic(weight, bias, strength, objective)

    def evaluate(self, theta: Float[Tensor, "p c"], strength: float) -> tuple[float, Float[Tensor, "p c"]]:
        """Return the objective and its gradient in float64, and keep the point for Hessian products."""
        loss = torch.zeros((), dtype=torch.float64, device=theta.device)
        gradient = torch.zeros_like(theta)
        curvature = torch.zeros(self.columns, dtype=torch.float64, device=theta.device)
        self.theta, self.cached = theta.float(), list[Tensor]()
        for part in self._parts():
            rows = self.design[part].double()
            losses, residual, probabilities = self._losses(rows @ theta, self.targets[part])
            loss += losses
            gradient.addmm_(rows.T, residual)
            curvature += (probabilities * (1 - probabilities)).sum(0)
            if self.caches:
                self.cached.append(probabilities.float())
        self.diagonal = (strength * self.spread[:, None] * curvature + self.penalty).float().clamp_min(1e-20)
        value = strength * loss + 0.5 * (self.penalty * theta * theta).sum()
        return float(value), strength * gradient + self.penalty * theta

    def curve(self, direction: Float[Tensor, "p c"], strength: float) -> Float[Tensor, "p c"]:
        """Return the product of ``direction`` with the Hessian at the last evaluated point, in float32."""
        total = torch.zeros_like(direction)
        for index, part in enumerate(self._parts()):
            rows = self.design[part]
            probabilities = self.cached[index] if self.caches else self._probabilities(rows @ self.theta)
            moved = rows @ direction
            if self.softmax:
                moved.mul_(probabilities)
                moved.addcmul_(probabilities, moved.sum(1, keepdim=True), value=-1)
            else:
                moved.mul_(probabilities).mul_(1 - probabilities)
            total.addmm_(rows.T, moved)
        return total.mul_(strength).add_(self.penalty.float() * direction)

    def _losses(
        self, logits: Float[Tensor, "n c"], targets: Shaped[Tensor, "n ..."]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the summed loss, its derivative by the logits, and the probabilities."""
        if not self.softmax:
            probabilities, truth = logits.sigmoid(), targets.double()
            losses = torch.nn.functional.softplus(logits) - truth * logits
            return losses.sum(), probabilities - truth, probabilities
        shifted = logits.log_softmax(1)
        probabilities = shifted.exp()
        residual = probabilities.clone()
        residual[torch.arange(len(targets), device=targets.device), targets] -= 1
        return -shifted.gather(1, targets[:, None]).sum(), residual, probabilities

    def _probabilities(self, logits: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        return logits.softmax(1) if self.softmax else logits.sigmoid()

    def _parts(self) -> Iterator[slice]:
        return (slice(start, start + self.rows) for start in range(0, len(self.design), self.rows))


def _centred(features: Float[np.ndarray, "n d"], mean: Float[Tensor, " d"]) -> Float[Tensor, "n d"]:
    return torch.from_numpy(np.asarray(features, np.float64)).to(mean.device) - mean


def _principal_axes(
    features: Float[np.ndarray, "n d"], device: str
) -> tuple[Float[Tensor, " d"], Float[Tensor, "d r"], Float[Tensor, " p"]]:
    """Return the mean, the axes of nonzero variance, and mean squares along them and of the intercept."""
    mean = torch.from_numpy(np.mean(features, axis=0, dtype=np.float64)).to(device)
    scatter = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=device)
    for start in range(0, len(features), 8192):
        rows = _centred(features[start : start + 8192], mean)
        scatter.addmm_(rows.T, rows)
    values, axes = torch.linalg.eigh(scatter / len(features))
    kept = values > 1e-12 * values[-1]
    return mean, axes[:, kept], torch.cat([values[kept], values.new_ones(1)])


def _newton(
    problem: _Problem, theta: Float[Tensor, "p c"], strength: float, tolerance: float
) -> tuple[Float[Tensor, "p c"], float]:
    value, gradient = problem.evaluate(theta, strength)
    if not value <= strength * problem.loss_at_zero:
        # So far off, probabilities are 0 or 1: their curvature vanishes, and Newton steps lead nowhere.
        theta = torch.zeros_like(theta)
        value, gradient = problem.evaluate(theta, strength)
    for _ in range(_NEWTON_STEPS):
        step = _solve(problem, gradient.float(), strength).double()
        slope = float((gradient * step).sum())
        size = 1.0
        moved, moved_gradient = problem.evaluate(theta + step, strength)
        while moved > value + 1e-4 * size * slope and size > 1e-6:
            size /= 2
            moved, moved_gradient = problem.evaluate(theta + size * step, strength)
        if moved >= value:
            break
        theta, value, gradient = theta + size * step, moved, moved_gradient
        if -slope / 2 <= tolerance * value:
            break
    return theta, value


def _solve(problem: _Problem, gradient: Float[Tensor, "p c"], strength: float) -> Float[Tensor, "p c"]:
    """Return an approximate Newton step, by conjugate gradients from zero."""
    step, residual = torch.zeros_like(gradient), -gradient
    scaled = residual / problem.diagonal
    direction, energy = scaled, float((residual * scaled).sum())
    decrease = 0.0
    for taken in range(1, _CG_STEPS + 1):
        curved = problem.curve(direction, strength)
        bend = float((direction * curved).sum())
        if bend <= 0:
            break
        step.add_(direction, alpha=energy / bend)
        decrease += energy * energy / bend
        # The gain of the last step estimates what is left to gain, whatever the conditioning.
        if taken * energy * energy / bend <= _CG_FRACTION * decrease:
            break
        residual.sub_(curved, alpha=energy / bend)
        scaled = residual / problem.diagonal
        last, energy = energy, float((residual * scaled).sum())
        direction = scaled + energy / last * direction
    return step
