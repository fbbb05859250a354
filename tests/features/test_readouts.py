from collections.abc import Sequence

import pytest
import torch
from torch.nn.functional import avg_pool2d

from ssleval.core import Geometry, Readout
from ssleval.core.backbone import Features, Tokens
from ssleval.errors import ConfigError, NotApplicableError
from ssleval.features.readouts import blocks_of, by_norm, canonical, read, row_shape
from tests.features.feature_fakes import CARD, CLS, GEM, MEAN, PATCHES, POOLED, SQUARE, Tiny


def features() -> Features:
    torch.manual_seed(0)
    blocks = tuple(Tokens(torch.randn(2, 4, 4, 8), torch.randn(2, 8)) for _ in range(2))
    return Features(torch.randn(2, 8), blocks)


def test_each_kind_against_a_plain_formula():
    given = features()
    second = given.blocks[1]
    kept = {kind: read(Readout(kind, 2), given, (0, 2), CARD) for kind in ("cls", "mean", "gem", "patches")}
    torch.testing.assert_close(read(POOLED, given, (0, 2), CARD), given.pooled)
    assert second.cls is not None
    torch.testing.assert_close(kept["cls"], second.cls)
    torch.testing.assert_close(kept["patches"], second.patches)
    torch.testing.assert_close(kept["mean"], second.patches.reshape(2, 16, 8).mean(1))
    pooled = avg_pool2d(second.patches.permute(0, 3, 1, 2).clamp(min=1e-6) ** 4, 4) ** 0.25
    torch.testing.assert_close(kept["gem"], pooled.flatten(1))


@pytest.mark.parametrize(("name", "value"), [("GEM_POWER", 3.0), ("GEM_FLOOR", 0.1)])
def test_constants_of_gem_move_it(monkeypatch: pytest.MonkeyPatch, name: str, value: float):
    before = read(Readout("gem", 0), features(), (0, 2), CARD)
    monkeypatch.setattr(f"ssleval.features.readouts.{name}", value)
    assert not torch.allclose(before, read(Readout("gem", 0), features(), (0, 2), CARD))


def test_means_are_taken_in_float32():
    tokens = Tokens(torch.linspace(1, 2, 2 * 16 * 8).reshape(2, 4, 4, 8).bfloat16())
    for kind in ("mean", "gem"):
        assert (
            read(Readout(kind, 0), Features(torch.zeros(2, 8), (tokens,)), (0,), CARD).dtype == torch.float32
        )


def test_no_class_token_is_one_line():
    bare = Features(torch.zeros(2, 8), (Tokens(torch.zeros(2, 4, 4, 8)),))
    with pytest.raises(NotApplicableError, match=r"tiny has no class token for cls\[0\]"):
        read(Readout("cls", 0), bare, (0,), CARD)


@pytest.mark.parametrize(
    ("count", "ends"),
    [(12, range(12)), (24, range(1, 24, 2)), (6, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5])],
    ids=["12", "24", "6"],
)
def test_a_twelfth_ends_in_a_block_of_any_model(count: int, ends: Sequence[int]):
    model = Tiny()
    model.num_blocks = count
    found = [canonical(Readout("mean", twelfth=twelfth), model) for twelfth in range(1, 13)]
    assert found == [Readout("mean", block) for block in ends]
    with pytest.raises(NotApplicableError, match=r"no block for mean\[twelfth 13\]"):
        canonical(Readout("mean", twelfth=13), model)


def test_blocks_are_counted_from_zero():
    assert canonical(CLS, Tiny()) == Readout("cls", 2)
    assert canonical(Readout("cls", 0, norm=False), Tiny()) == Readout("cls", 0, norm=False)
    assert canonical(Readout("pooled", -3, norm=False), Tiny()) == POOLED
    for block in (3, -4):
        with pytest.raises(NotApplicableError, match="it has 3"):
            canonical(Readout("cls", block), Tiny())


def test_one_forward_pass_for_each_norm():
    bare = Readout("patches", 1, norm=False)
    assert by_norm([CLS, bare, MEAN, POOLED]) == {True: (POOLED, CLS, MEAN), False: (bare,)}
    assert by_norm([bare, POOLED]) == {False: (POOLED, bare)}
    assert by_norm([POOLED]) == {True: (POOLED,)}
    assert by_norm([]) == {}
    assert blocks_of([Readout("cls", 2), Readout("gem", 0), Readout("mean", 2), POOLED]) == (0, 2)


def test_row_shapes_are_those_of_the_card():
    assert row_shape(PATCHES, Tiny(), SQUARE) == (4, 4, 8)
    assert row_shape(POOLED, Tiny(), SQUARE) == row_shape(GEM, Tiny(), Geometry(16)) == (8,)
    with pytest.raises(ConfigError, match="one size"):
        row_shape(PATCHES, Tiny(), Geometry(16))


@pytest.mark.parametrize(
    ("count", "blocks"),
    [(12, [2, 5, 8, 11]), (24, [4, 11, 17, 23]), (40, [9, 19, 29, 39]), (4, [0, 1, 2, 3])],
)
def test_quarters_are_the_blocks_that_dinov2_publishes(count: int, blocks: list[int]):
    backbone = Tiny()
    backbone.num_blocks = count
    quarters = [canonical(Readout("patches", norm=False, quarter=q), backbone) for q in (1, 2, 3, 4)]
    assert quarters == [Readout("patches", block, norm=False) for block in blocks]


def test_a_model_without_quarters_has_none():
    backbone = Tiny()
    backbone.num_blocks = 3
    with pytest.raises(NotApplicableError, match=r"no block for patches\[quarter 2\]; it has 3"):
        canonical(Readout("patches", quarter=2), backbone)
    backbone.num_blocks = 12
    with pytest.raises(NotApplicableError, match="quarter 5"):
        canonical(Readout("patches", quarter=5), backbone)
