"""Open-set k-NN classification: class and confidence, where a query may belong to no class."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The nearest vectors of a database to every query, nearest first."""

    similarity: Float32[np.ndarray, "m k"]
    """Cosines."""
    labels: Int[np.ndarray, "m k"]
    num_classes: int
    """Of the whole database."""

    def classify(self, k: int, logit_scale: float) -> tuple[Int[np.ndarray, " m"], Float[np.ndarray, " m"]]:
        """Return the class of every query and its confidence, as log odds, by the ``k`` nearest.

        The similarity of a class is that of its nearest neighbour, or 0 if that is negative or there is none.
        Probabilities are the softmax over all classes of ``logit_scale`` (positive; t in the authors' code)
        times these similarities. Of equally near classes the smaller label wins. Log odds order queries as
        probabilities do, but do not saturate at 1; they are infinite only where there is no second class.

        Source:
            Ypsilantis et al. 2021, arXiv:2202.01747; nikosips/met, code/classifiers/knn_classifier.py.
        """
        near, labels = np.maximum(self.similarity[:, :k].astype(np.float64), 0.0), self.labels[:, :k]
        first = _first_of_class(labels)
        best = first & (near == near[:, :1])
        predicted = np.where(best, labels, np.iinfo(labels.dtype).max).min(axis=1)
        others = np.where(first & (labels != predicted[:, None]), logit_scale * near, -np.inf)
        unseen = (self.num_classes - first.sum(axis=1)).astype(np.float64)
        # Each class without a neighbour adds exp(0).
        rest = np.log(unseen, out=np.full(len(unseen), -np.inf), where=unseen > 0)
        against = np.logaddexp.reduce(np.concatenate([others, rest[:, None]], axis=1), axis=1)
        return predicted, logit_scale * near[:, 0] - against


def _first_of_class(labels: Int[np.ndarray, "m k"]) -> Bool[np.ndarray, "m k"]:
    """Return whether each neighbour is the first of its class."""
    order = np.argsort(labels, axis=1, kind="stable")
    ordered = np.take_along_axis(labels, order, axis=1)
    first = np.ones(labels.shape, bool)
    np.put_along_axis(first, order[:, 1:], ordered[:, 1:] != ordered[:, :-1], axis=1)
    return first
