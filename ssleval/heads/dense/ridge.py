"""Ridge regression from moments, so that rows come in chunks and are not kept."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(slots=True)
class Moments:
    """Sums over rows of inputs and targets, in float64."""

    inputs: Float[np.ndarray, "d d"]
    products: Float[np.ndarray, "d t"]
    means: tuple[Float[np.ndarray, " d"], Float[np.ndarray, " t"]]
    count: int = 0

    @classmethod
    def empty(cls, width: int, targets: int) -> "Moments":
        """Return the moments of no rows."""
        means = np.zeros(width), np.zeros(targets)
        return cls(np.zeros((width, width)), np.zeros((width, targets)), means)

    def add(self, inputs: Float[np.ndarray, "n d"], targets: Float[np.ndarray, "n t"]) -> None:
        """Count some more rows."""
        x, y = inputs.astype(np.float64), targets.astype(np.float64)
        self.inputs += x.T @ x
        self.products += x.T @ y
        self.means = self.means[0] + x.sum(axis=0), self.means[1] + y.sum(axis=0)
        self.count += len(x)


@dataclass(frozen=True, slots=True)
class Ridge:
    """A fitted regression with an intercept, which is not penalised."""

    weight: Float[np.ndarray, "d t"]
    bias: Float[np.ndarray, " t"]

    @classmethod
    def fit(cls, moments: Moments, strength: float) -> "Ridge":
        """Minimise the squared error, plus ``strength`` times the mean variance of an input a row."""
        x, y = (sums / moments.count for sums in moments.means)
        covariance = moments.inputs / moments.count - np.outer(x, x)
        penalty = strength * max(float(covariance.trace()) / len(x), 1e-12)
        products = moments.products / moments.count - np.outer(x, y)
        weight = np.linalg.solve(covariance + penalty * np.eye(len(x)), products)
        return cls(weight, y - x @ weight)

    def predict(self, inputs: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n t"]:
        """Return what is predicted of each row."""
        return inputs @ self.weight + self.bias
