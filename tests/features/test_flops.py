from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ssleval.backbones.zoo import load
from ssleval.core import (
    BackboneCard,
    Context,
    Dataset,
    DatasetCard,
    FeatureRequest,
    Geometry,
    RandomView,
    Readout,
    Split,
)
from ssleval.core.backbone import Backbone, Features
from ssleval.features import FeatureSource
from ssleval.features.price import forward_flops
from tests.features.feature_fakes import Tiny


def transformer(tokens: int, dim: int, depth: int, hidden: int) -> int:
    """By hand: two for a multiplication with its addition."""
    projections = 2 * tokens * dim * (3 * dim + dim)
    attention = 2 * (2 * tokens * tokens * dim)
    feed_forward = 2 * (2 * tokens * dim * hidden)
    return depth * (projections + attention + feed_forward)


@pytest.mark.parametrize("side", [224, 96])
def test_a_vision_transformer_costs_what_its_formula_says(side: int) -> None:
    patches, dim = (side // 16) ** 2, 192
    embedding = 2 * patches * (3 * 16 * 16) * dim
    want = embedding + transformer(patches + 1, dim, 12, 4 * dim)
    assert forward_flops(load("random:vit_tiny"), side, "cpu") == want


class Fused(Backbone):
    """PyTorch's own layer, which in evaluation runs as one fused operation."""

    def __init__(self) -> None:
        super().__init__(BackboneCard("fused", "none", "fused", 16, 8), num_blocks=1)
        self.embed = nn.Conv2d(3, 16, 8, 8)
        self.layer = nn.TransformerEncoderLayer(16, 2, 40, batch_first=True)

    def extract(self, images: Tensor, blocks: Sequence[int], *, norm: bool) -> Features:
        return Features(self.layer(self.embed(images).flatten(2).transpose(1, 2)).mean(1), ())


def test_fused_layers_are_counted_too() -> None:
    assert forward_flops(Fused().eval(), 32, "cpu") == 2 * 16 * (3 * 64) * 16 + transformer(16, 16, 1, 40)
    assert torch.backends.mha.get_fastpath_enabled(), "left as it was"


def cost(tmp_path: Path, *geometries: Geometry | RandomView | None) -> dict[str, float]:
    card = DatasetCard("d", target="none", lengths={"train": 0})
    dataset = Dataset(card, lambda _: Split([], lambda _: pytest.fail("opened"), None, "f"))
    requests = [FeatureRequest(dataset, "train", one, (Readout("pooled"),)) for one in geometries]
    source = FeatureSource(Tiny(cls=False), Context(cache=tmp_path, progress=False))
    return source.cost(source.passes(requests))


def test_the_cost_is_at_the_geometry_used_and_none_where_sizes_differ(tmp_path: Path) -> None:
    small, large = (Geometry(side, "square") for side in (16, 32))
    one, two = cost(tmp_path, small), cost(tmp_path, large, RandomView(0, size=32))
    assert (one["image_side"], two["image_side"]) == (16, 32)
    a_patch = 2 * (3 * 4 * 4) * 8 + 3 * 2 * 8 * 8
    assert two["flops_per_image"] - one["flops_per_image"] == (8 * 8 - 4 * 4) * a_patch
    assert cost(tmp_path, small, large) == {}
    assert cost(tmp_path, Geometry(32, "short")) == {}
    assert cost(tmp_path) == {}
