"""probe3d's head against a reference that is written out."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, relu

from ssleval.errors import ConfigError
from ssleval.heads.dense.dpt import DPT
from ssleval.heads.dense.grid import LinearHead
from ssleval.heads.dense.quarters import QuarterFields

GRIDS = torch.randn(2, 3, 4, 4 * 5, generator=torch.Generator().manual_seed(0))


def published(weights: dict[str, Tensor], grids: Tensor) -> Tensor:
    """The forward pass of probe3d's DPT, layer by layer, up to its last doubling."""

    def layer(name: str, maps: Tensor, padding: int = 1) -> Tensor:
        return conv2d(maps, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=padding)

    def unit(name: str, maps: Tensor) -> Tensor:
        return relu(layer(f"{name}.2", relu(layer(f"{name}.0", maps)))) + maps

    def larger(maps: Tensor, factor: int) -> Tensor:
        return interpolate(maps, scale_factor=factor, mode="bilinear", align_corners=True)

    blocks = [grids[..., 5 * k : 5 * k + 5].permute(0, 3, 1, 2) for k in range(4)]
    maps = [larger(layer(f"inputs.{k}", block, 0), 2) for k, block in enumerate(blocks)]
    out = unit("after.3.layers", maps[3])
    out = unit("after.2.layers", unit("before.2.layers", maps[2]) + out)
    out = unit("after.1.layers", unit("before.1.layers", maps[1]) + out)
    out = unit("after.0.layers", unit("before.0.layers", maps[0]) + out)
    return layer("last.2", relu(layer("last.0", larger(out, 4))))


def test_it_computes_what_the_published_head_computes() -> None:
    head = DPT(20, 6, 7, seed=1)
    found = head(GRIDS)
    assert found.shape == (2, 6, 24, 32)
    torch.testing.assert_close(found, published(dict(head.named_parameters()), GRIDS))


def test_it_has_the_parameters_of_the_published_head() -> None:
    """Per block a 1x1 convolution, seven residual units of two 3x3 convolutions, two at the end."""
    square = 512 * 512 * 9 + 512
    expected = 4 * (1536 * 512 + 512) + 14 * square + square + 4 * 512 * 9 + 4
    with torch.device("meta"):
        head = DPT(4 * 1536, 4, 512, seed=0)
    assert sum(weights.numel() for weights in head.parameters()) == expected


def test_the_seed_decides_the_first_weights_and_no_other_draw() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, same, other = (DPT(20, 6, 7, seed=seed)(GRIDS) for seed in (1, 1, 2))
    assert torch.rand(1) == expected
    assert torch.equal(one, same)
    assert not torch.allclose(one, other)


def test_many_patches_are_refused_before_anything_is_computed() -> None:
    head = DPT(4, 1, 1, seed=0)
    assert head(torch.zeros(1, 64, 64, 4)).shape == (1, 1, 512, 512)
    with pytest.raises(ConfigError, match="64x65 patches, it takes at most 4,096; set a smaller size"):
        head(torch.zeros(1, 64, 65, 4))


def test_readouts_go_block_by_block_as_the_head_cuts_them() -> None:
    names = [str(readout) for readout in QuarterFields(inputs="lin4").readouts]
    assert names == [f"{kind}[quarter {q}]:unnormed" for q in (1, 2, 3, 4) for kind in ("patches", "cls")]
    assert [str(one) for one in QuarterFields(class_token=False).readouts] == ["patches[-1]:unnormed"]


def test_the_head_that_is_asked_for() -> None:
    assert isinstance(QuarterFields().unfitted(8, 2, normalise=False, seed=0), LinearHead)
    head = QuarterFields(head="dpt", inputs="lin4", hidden=3).unfitted(8, 2, normalise=False, seed=0)
    assert isinstance(head, DPT)
    assert head(torch.zeros(1, 1, 1, 8)).shape == (1, 2, 8, 8)


def test_results_of_linear_heads_say_what_they_said_before_there_was_another() -> None:
    assert QuarterFields().recorded() == {"inputs": "lin1", "class_token": True}
    dpt = QuarterFields(head="dpt", inputs="lin4", hidden=64).recorded()
    assert dpt == {"head": "dpt", "hidden": 64, "inputs": "lin4", "class_token": True}
