"""In tests, calls are refused whose arrays are not of the shapes that annotations state."""

from typing import Optional

import pytest
import torch
from jaxtyping import Float, TypeCheckError
from torch import Tensor

from ssleval.core.backbone import Tokens
from ssleval.train.gram import gram_loss
from ssleval.train.sections import GramConfig
from tests.conftest import states_arrays


def test_an_array_of_another_shape_is_refused() -> None:
    crops = torch.zeros(2, 5, 4)
    gram_loss(crops, crops, None, GramConfig())
    for student, teacher in ((crops[0], crops), (crops, crops[:, :3]), (crops.int(), crops)):
        with pytest.raises(TypeCheckError):
            gram_loss(student, teacher, None, GramConfig())
    with pytest.raises(TypeCheckError):
        Tokens(patches=torch.zeros(5, 4))


@pytest.mark.parametrize(
    ("annotation", "stated"),
    [
        (Float[Tensor, "n"], True),
        (list[Float[Tensor, "n"]], True),
        (Optional[Float[Tensor, "n"]], True),  # noqa: UP045
        ("Float[Tensor, 'n']", True),
        (Tensor, False),
        (list[int], False),
        ("Tensor", False),
    ],
)
def test_arrays_are_found_within_annotations(annotation: object, stated: bool) -> None:
    assert states_arrays(annotation) is stated
