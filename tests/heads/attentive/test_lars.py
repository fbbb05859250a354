"""LARS against timm's, and against its formula."""

from typing import Any

import pytest
import torch
from timm.optim.lars import Lars as Theirs
from torch import nn

from ssleval.heads.attentive.lars import Lars


def steps(
    kind: Any, settings: dict[str, Any], scaled: dict[str, Any], plain: dict[str, Any]
) -> list[torch.Tensor]:
    """Return the weights of a layer after ten steps on the same gradients."""
    generator = torch.Generator().manual_seed(0)
    matrix, bias = (nn.Parameter(torch.randn(*shape, generator=generator)) for shape in ((4, 3), (4,)))
    optimizer = kind([{"params": [matrix], **scaled}, {"params": [bias], **plain}], lr=0.3, **settings)
    for place in range(10):
        for group in optimizer.param_groups:
            group["lr"] = 0.3 / (1 + place)
        for parameter in (matrix, bias):
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    return [matrix.detach(), bias.detach()]


@pytest.mark.parametrize("momentum", [0.9, 0.5])
@pytest.mark.parametrize("trust", [0.001, 0.1])
def test_equals_timm_that_scales_matrices_alone(momentum: float, trust: float) -> None:
    ours = steps(Lars, {"momentum": momentum, "trust": trust}, {}, {})
    theirs = steps(
        Theirs,
        {"momentum": momentum, "trust_coeff": trust, "nesterov": False},
        {"always_adapt": True},
        {"always_adapt": False},
    )
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)


def test_where_weights_or_gradients_are_zero_the_gradient_is_taken_as_it_is() -> None:
    zero, still = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.ones(2, 2))
    optimizer = Lars([zero, still], lr=0.5)
    zero.grad, still.grad = torch.full((2, 2), 3.0), torch.zeros(2, 2)
    optimizer.step()
    assert zero.tolist() == [[-1.5, -1.5], [-1.5, -1.5]]
    assert still.tolist() == [[1.0, 1.0], [1.0, 1.0]]
