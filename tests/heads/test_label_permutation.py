"""Class numbers are names: with labels renamed, predictions are the same classes under their new numbers."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ssleval.heads.knn import knn_predict

CLASSES = 5


def clouds(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    centres = np.random.default_rng(7).standard_normal((CLASSES, 6))
    return (centres[labels] + 0.8 * random.standard_normal((count, 6))).astype(np.float32), labels


@given(names=st.permutations(range(CLASSES)), seed=st.integers(0, 20))
def test_knn_votes_for_the_renamed_class(names: list[int], seed: int) -> None:
    (train, labels), (test, _) = clouds(seed, 60), clouds(seed + 100, 30)
    renamed = np.array(names)
    predicted, again = (
        knn_predict(train, truth, test, ks=(7,), temperature=0.07, num_classes=CLASSES)[7][:, 0]
        for truth in (labels, renamed[labels])
    )
    np.testing.assert_array_equal(renamed[predicted], again)
