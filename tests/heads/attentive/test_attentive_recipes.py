"""Schedules and grids of attentive probes against the published code, written out."""

from math import cos, pi

import numpy as np
import pytest

from ssleval.heads.attentive.recipes import RECIPES, Head

IMAGENET = 1_281_167


def length(name: str, count: int, batch: int = 0) -> tuple[int, int]:
    recipe = RECIPES[name].for_images(count)
    batch = batch or recipe.batch_size
    return recipe.iterations(count, batch), batch


def test_published_lengths_on_imagenet() -> None:
    """EP: 90 epochs without the last, smaller batch; CAPI: 12,500 iterations; V-JEPA: 20 epochs."""
    assert length("ep", IMAGENET) == (90 * 312, 4096)
    assert length("capi", IMAGENET) == (12_500, 1024)
    assert length("vjepa", IMAGENET) == (20 * 1251, 1024)
    assert RECIPES["ep"].for_images(IMAGENET) == RECIPES["ep"]


def test_small_sets_take_smaller_batches_and_enough_iterations() -> None:
    assert length("capi", 1980) == (500, 128)
    assert length("ep", 1980) == (1000, 32)
    assert length("ep", 20) == (1000, 16)
    small = RECIPES["ep"].for_images(1980)
    assert (small.rates, small.stages) == ((1.0, 10.0, 100.0), 10)
    assert RECIPES["vjepa"].for_images(1980).rates == RECIPES["vjepa"].rates


def heads(name: str) -> tuple[Head, ...]:
    return RECIPES[name].grid(RECIPES[name].rates, RECIPES[name].decays)


def test_published_grids() -> None:
    assert heads("ep") == (Head(0.1),)
    assert len(heads("capi")) == 30
    assert heads("capi")[:4] == (Head(1e-5, 5e-4), Head(1e-5, 1e-3), Head(1e-5, 5e-2), Head(2e-5, 5e-4))
    assert len(heads("vjepa")) == 21
    assert heads("vjepa")[:2] == (Head(1e-3, 1e-3, fades=True), Head(5e-4, 8e-3))
    assert heads("vjepa")[-1] == Head(2e-3, 5e-4)


def test_a_grid_is_every_rate_with_every_decay() -> None:
    recipe = RECIPES["vjepa"]
    assert recipe.grid((0.1,), (0.0, 1.0)) == (Head(0.1, 0.0), Head(0.1, 1.0))
    assert recipe.grid((0.1, 1.0), ()) == (Head(0.1), Head(1.0))


def efficient_probing(n: int) -> list[float]:
    """util/lr_sched.py, epochs counted in fractions: base 0.1 at a batch of 4,096."""
    found: list[float] = []
    for i in range(n):
        epoch = 90 * i / n
        ramp = epoch / 10 if epoch < 10 else 0.5 * (1 + cos(pi * (epoch - 10) / 80))
        found.append(0.1 * 4096 / 256 * ramp)
    return found


def capi(n: int) -> list[float]:
    """eval_classification.py: base 0.001 at a batch of 1,024."""
    warmup = np.linspace(0.0, 1.0, n // 10)
    decay = (np.cos(np.linspace(0, np.pi, n - n // 10)) + 1) / 2
    return (0.001 * 1024 / 256 * np.concatenate([warmup, decay])).tolist()


def vjepa(n: int, start: float, warmup: int) -> list[float]:
    """WarmupCosineLRSchedule: the step is counted up before it is used."""
    found: list[float] = []
    for step in range(1, n + 1):
        if step < warmup:
            found.append(start + step / max(1, warmup) * (0.001 - start))
        else:
            found.append(0.001 * 0.5 * (1 + cos(pi * (step - warmup) / (n - warmup))))
    return found


@pytest.mark.parametrize(
    ("name", "head", "batch", "expected"),
    [
        ("ep", Head(0.1), 4096, efficient_probing(900)),
        ("capi", Head(0.001), 1024, capi(1250)),
        ("vjepa", Head(0.001), 1024, vjepa(400, 2e-4, 100)),
        ("vjepa", Head(0.001, 0.001, fades=True), 1024, vjepa(400, 1e-3, 0)),
    ],
)
def test_published_schedules(name: str, head: Head, batch: int, expected: list[float]) -> None:
    n = len(expected)
    ours = [RECIPES[name].rate(head, i, n, batch) for i in range(n)]
    assert ours == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_the_decay_of_one_head_of_vjepa_fades() -> None:
    """CosineWDSchedule, from 0.001 to 0; that of all other heads stays."""
    recipe, grid = RECIPES["vjepa"], heads("vjepa")
    ours = [recipe.decay(grid[0], i, 10) for i in range(10)]
    assert ours == pytest.approx([0.001 * 0.5 * (1 + cos(pi * step / 10)) for step in range(1, 11)])
    assert {recipe.decay(head, 7, 10) for head in grid[1:]} == {8e-3, 4e-3, 2e-3, 1e-3, 5e-4}
