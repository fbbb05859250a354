import numpy as np
import pytest
import torch

from ssleval.heads.attention import mass_mask


@pytest.mark.parametrize("mass", [0.2, 0.6, 0.95])
def test_the_fewest_patches_that_hold_the_mass(mass: float) -> None:
    attention = torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(0)).pow(3)
    found = mass_mask(attention, mass)
    for image in range(2):
        for head in range(3):
            values = attention[image, head].double().numpy().ravel()
            order = np.argsort(-values)
            total, kept = 0.0, np.zeros(35, dtype=bool)
            for patch in order:
                if total >= mass * values.sum():
                    break
                total += values[patch]
                kept[patch] = True
            assert found[image, head].numpy().ravel().tolist() == kept.tolist()


def test_a_map_may_come_alone() -> None:
    attention = torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    found = mass_mask(attention, 0.6)
    assert torch.equal(mass_mask(attention[1], 0.6), found[1])
    assert torch.equal(mass_mask(attention[1, 2], 0.6), found[1, 2])


def test_scale_does_not_matter_and_mass_does() -> None:
    attention = torch.rand(1, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    assert torch.equal(mass_mask(attention, 0.6), mass_mask(attention * 0.01, 0.6))
    assert mass_mask(attention, 0.6).sum() < mass_mask(attention, 0.7).sum()


def test_of_equal_patches_those_further_down_count() -> None:
    found = mass_mask(torch.ones(1, 1, 8, 8), 0.5)
    assert found.flatten().tolist() == [False] * 32 + [True] * 32
