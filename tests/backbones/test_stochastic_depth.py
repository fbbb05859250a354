"""Which branches are dropped, how many, and how the others make up for them."""

from typing import Any

import pytest
import torch
from torch import Tensor

from ssleval.backbones.stochastic_depth import Drops, StochasticDepth
from ssleval.backbones.vit import Vit, VitConfig


def factors(drops: Drops, images: int) -> list[list[float]]:
    """Return what multiplies the branches of every image."""
    assert drops is not None
    ones, none = torch.ones(images, 2, 3), torch.zeros(images, 2, 3)
    added = [drop.add(none, torch.ones_like, None) for drop in drops]
    assert all(torch.equal(part, part[:, :1, :1] * ones) for part in added)
    return [part[:, 0, 0].tolist() for part in added]


def test_images_are_dropped_at_the_rate_and_the_mean_is_kept() -> None:
    torch.manual_seed(0)
    depth = StochasticDepth([0.0, 0.4], by="image")
    none, some = depth.draw(torch.zeros(20_000, 1, 1), training=True)
    assert {value for branch in factors(none, 20_000) for value in branch} == {1.0}
    one, two = factors(some, 20_000)
    assert sorted(set(one)) == pytest.approx([0.0, 1 / 0.6])
    assert sum(value == 0 for value in one) / len(one) == pytest.approx(0.4, abs=0.02)
    assert one != two


def test_factors_are_exact_where_tokens_have_16_bits() -> None:
    torch.manual_seed(0)
    (drops,) = StochasticDepth([0.1], by="image").draw(torch.zeros(500, 1, 1).bfloat16(), training=True)
    assert drops is not None

    def branch(tokens: Tensor) -> Tensor:
        return torch.full_like(tokens, 1.0234375)

    added = drops[0].add(torch.zeros(500, 1, 1).bfloat16(), branch, None)
    # 1.0234375 / 0.9 rounds to this; times the rounded factor, it would be 1.1328125.
    assert {float(value) for value in added.flatten()} == {0.0, 1.140625}


def test_an_exact_share_of_every_batch_is_dropped() -> None:
    torch.manual_seed(0)
    depth = StochasticDepth([0.3], by="batch")
    drawn = [factors(depth.draw(torch.zeros(10, 1, 1), training=True)[0], 10) for _ in range(20)]
    # int(10 x 0.7) images stay, times 10 / 7, as drop_add_residual_stochastic_depth scales them.
    for branch in (branch for branches in drawn for branch in branches):
        assert sorted(branch) == pytest.approx([0.0] * 3 + [10 / 7] * 7)
    assert len({tuple(value > 0 for value in branches[0]) for branches in drawn}) > 10
    assert factors(depth.draw(torch.zeros(1, 1, 1), training=True)[0], 1) == [[1.0], [1.0]]


def test_the_branch_of_a_dropped_image_is_not_computed() -> None:
    seen: list[int] = []

    def branch(tokens: Tensor) -> Tensor:
        seen.append(len(tokens))
        return tokens

    (drops,) = StochasticDepth([0.3], by="batch").draw(torch.zeros(10, 1, 1), training=True)
    assert drops is not None
    drops[0].add(torch.zeros(10, 1, 1), branch, None)
    assert seen == [7]


@pytest.mark.parametrize(("rates", "training"), [([0.4, 0.4], False), ([0.0, 0.0], True)])
def test_nothing_is_dropped_at_a_rate_of_zero_or_outside_of_training(
    rates: list[float], training: bool
) -> None:
    depth = StochasticDepth(rates, by="image")
    assert depth.draw(torch.zeros(4, 1, 1), training=training) == [None, None]
    assert depth.draw_packed([(4, 1)], torch.zeros(4, 1), training=training) == ([None], [None])


@pytest.mark.parametrize(("rule", "rates"), [("linear", [0, 0.15, 0.3]), ("uniform", [0.3, 0.3, 0.3])])
def test_rates_grow_linearly_from_the_first_block_or_are_the_same_for_all(
    rule: Any, rates: list[float]
) -> None:
    config = VitConfig(8, 3, 2, 4, 8, drop_path=0.3, drop_path_rule=rule)
    assert config.drop_path_rates == pytest.approx(rates)
    assert Vit(config).stochastic_depth.rates == config.drop_path_rates


@pytest.mark.parametrize("by", ["image", "batch"])
@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_crops_of_several_sizes_in_one_pass_are_those_of_several_passes(by: Any, rate: float) -> None:
    config = VitConfig(16, 3, 2, 4, 16, drop_path=rate, drop_path_draw=by, mask_token=True, num_registers=2)
    torch.manual_seed(0)
    vit = Vit(config).train().double()
    crops = [torch.randn(6, 3, 16, 16).double(), torch.randn(8, 3, 8, 8).double()]
    masks = torch.rand(6, 16) < 0.4

    def gradients(outputs: list[Tensor]) -> list[Tensor]:
        vit.zero_grad()
        torch.cat([part.square().flatten() for part in outputs]).sum().backward()
        return [weight.grad.clone() for weight in vit.parameters() if weight.grad is not None]

    torch.manual_seed(1)
    apart = [vit(crops[0], masks), vit(crops[1], None, 1)]
    torch.manual_seed(1)
    together = vit.packed(crops, masks, [None, 1])
    for one, two in zip(apart, together, strict=True):
        torch.testing.assert_close(one, two)
    torch.testing.assert_close(gradients(apart), gradients(together))


@pytest.mark.parametrize("by", ["image", "batch"])
def test_recomputing_blocks_keeps_less_and_changes_no_gradient(by: Any) -> None:
    torch.manual_seed(0)
    vit = Vit(VitConfig(16, 4, 2, 4, 16, drop_path=0.4, drop_path_draw=by)).train()
    images = torch.randn(6, 3, 16, 16)

    def run(*, recompute: bool) -> tuple[int, list[Tensor]]:
        vit.recompute, sizes = recompute, list[int]()

        def kept(tensor: Tensor) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        vit.zero_grad()
        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(kept, lambda tensor: tensor):
            loss = vit(images, None, 1).square().sum()
        saved = sum(sizes)
        loss.backward()
        return saved, [weight.grad.clone() for weight in vit.parameters() if weight.grad is not None]

    (much, before), (little, after) = run(recompute=False), run(recompute=True)
    torch.testing.assert_close(before, after)
    assert little < much / 4
