import pytest

from ssleval.heads.linear_recipes import BLOCKS, RATES, RECIPES


def test_readouts_and_rates_of_dinov2_are_the_published_ones() -> None:
    assert [str(readout) for readout in BLOCKS] == ["cls[-4]", "cls[-3]", "cls[-2]", "cls[-1]", "mean[-1]"]
    expected = [digit * 10.0**power for power in range(-5, -1) for digit in (1, 2, 5)]
    assert list(RATES) == pytest.approx([*expected, 0.1])


def test_recipes_differ_as_the_papers_do() -> None:
    """DINOv2 app. B.3, DINO's eval_linear.py and table 10 of MAE."""
    two, one, mae = (RECIPES[name] for name in ("dinov2", "dino", "mae"))
    assert (two.rates, one.rates, mae.rates) == (RATES, (1e-3,), (0.1,))
    assert [recipe.warmup_epochs for recipe in (two, one, mae)] == [0, 0, 10]
    assert [recipe.by_epoch for recipe in (two, one, mae)] == [False, True, False]
    assert [recipe.standardise for recipe in (two, one, mae)] == [False, False, True]
    assert [recipe.readouts for recipe in (two, one, mae)] == [BLOCKS, BLOCKS, (BLOCKS[3],)]


@pytest.mark.parametrize(
    ("recipe", "count", "expected"),
    [
        # Batches hold at most an eighth of the images; their size is a power of two, from 16 on.
        ("dinov2", 40, (500, 16)),
        ("dinov2", 2047, (500, 128)),
        ("dinov2", 2048, (500, 256)),
        ("dinov2", 100_001, (10 * 100_001 // 1024, 1024)),
        ("dinov2", 10**7, (12_500, 1024)),
        ("dino", 2048, (2000, 256)),
        ("dino", 50_000, (100 * 50_000 // 1024, 1024)),
        ("dino", 10**8, (10**6, 1024)),
        ("mae", 2047, (2000, 1024)),
        ("mae", 2048, (2000, 2048)),
        ("mae", 10**6, (90 * 10**6 // 16_384, 16_384)),
    ],
)
def test_length_is_the_papers_number_of_epochs_within_bounds(
    recipe: str, count: int, expected: tuple[int, int]
) -> None:
    assert RECIPES[recipe].length(count) == expected
    assert all(isinstance(number, int) for number in RECIPES[recipe].length(count))


def test_iterations_and_batch_size_that_are_given_are_kept() -> None:
    assert RECIPES["dinov2"].length(100_001, iterations=7) == (7, 1024)
    assert RECIPES["dinov2"].length(100_001, batch_size=100) == (10_000, 100)


def test_heads_see_one_block_or_all_without_the_mean_or_with_it() -> None:
    two, one = RECIPES["dinov2"], RECIPES["dino"]
    assert two.columns([4] * 5) == ((12, 16), (12, 20), (0, 16), (0, 20))
    assert two.columns([4, 4]) == ((0, 4), (0, 8))
    assert two.columns([7]) == one.columns([7]) == ((0, 7),)
    # DINO: four blocks of ViT-S, the last block and the mean of ViT-B.
    assert one.columns([384] * 5) == ((0, 4 * 384),)
    assert one.columns([385] * 5) == ((3 * 385, 5 * 385),)
