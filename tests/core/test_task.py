from dataclasses import replace

import numpy as np
import pytest

from ssleval.core import DatasetCard, FeatureTable
from ssleval.core.task import Inputs, Needs, refuse_dataset
from ssleval.errors import ConfigError, ContractError, NotApplicableError
from tests.tasks.feature_tables import CONTEXT, blobs, dataset

CARD = DatasetCard("d", lengths={"train": 3, "test": 2})
FITTED = Needs(("label", "multilabel"), training_split=True)


def test_what_cannot_be_fitted_and_scored_is_refused() -> None:
    refuse_dataset("t", FITTED, CARD)
    refuse_dataset("t", FITTED, replace(CARD, target="multilabel"))
    with pytest.raises(
        NotApplicableError, match=r"t needs one label per image or several .*; d has target 'mask'"
    ):
        refuse_dataset("t", FITTED, replace(CARD, target="mask"))
    with pytest.raises(NotApplicableError, match="fits on a training split; d has test"):
        refuse_dataset("t", FITTED, replace(CARD, lengths={"test": 2}))
    with pytest.raises(ConfigError, match="one split, 'train'"):
        refuse_dataset("t", FITTED, replace(CARD, test_split="train"))
    refuse_dataset("t", Needs(), replace(CARD, target="mask", lengths={"test": 2}))


@pytest.mark.parametrize(
    ("train", "test", "shared"),
    [
        ("train", "trainval", True),
        ("trainval", "val", True),
        ("trainval", "train", True),
        ("trainval", "test", False),
        ("train", "val", False),
    ],
)
def test_trainval_is_not_scored_by_a_head_of_its_parts(train: str, test: str, shared: bool) -> None:
    card = replace(CARD, lengths={train: 3, test: 2}, train_split=train, test_split=test)
    if not shared:
        refuse_dataset("t", FITTED, card)
        return
    with pytest.raises(ConfigError, match=f"fitted on '{train}' and scored on '{test}', which share images"):
        refuse_dataset("t", FITTED, card)
    refuse_dataset("t", Needs(), card)


def test_labels_that_are_not_there_are_the_datasets_fault() -> None:
    inputs = Inputs(blobs(), dataset(blobs()), (), CONTEXT)
    table = FeatureTable(["a"], None, {}, np.arange(1))
    with pytest.raises(ContractError, match="blobs opened without the labels"):
        inputs.labels(table)
    assert inputs.labels(replace(table, targets=np.array([4]))).tolist() == [4]
