from typing import Any

import numpy as np

from ssleval.core import Dataset, DatasetCard, Split
from ssleval.core.answers import distractors, group_names
from ssleval.core.targets import Groups


def grouped(class_names: tuple[str, ...], answers: Any) -> Dataset:
    card = DatasetCard("d", target="groups", class_names=class_names, lengths={"test": 2})
    return Dataset(card, lambda _: Split(["x", "y"], answers, None, "f", answers))


def test_distractors_answer_nobody() -> None:
    def rows(*numbers: int) -> np.ndarray:
        return np.array(numbers, np.int64)

    answers = [Groups(rows(1), rows(2), rows(4), group=1), Groups(rows(), rows(), rows(3))]
    assert np.flatnonzero(distractors(answers, 6)).tolist() == [0, 3, 5]
    assert group_names(grouped(("a", "b"), answers.__getitem__)) == ("b",)
    assert group_names(grouped((), None)) == ()
