"""Training of a whole grid against head by head, and what it promises."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ssleval.core import Context, FeatureTable, Readout
from ssleval.core.batches import batches
from ssleval.errors import ContractError
from ssleval.heads.attentive.fit import AttentiveFit, parameters_of_heads, total_loss
from ssleval.heads.attentive.recipes import RECIPES, Head
from tests.heads.attentive.test_pooling import capi_by_hand

CLASSES, WIDTH, SIDE, ROWS = 3, 64, 2, 48
PATCHES = Readout("patches")


def table(rows: int = ROWS, noise: float = 1.0, seed: int = 0) -> FeatureTable:
    """One patch of four shows the class, the others are noise."""
    random = np.random.default_rng(seed)
    labels = np.arange(rows) % CLASSES
    grids = noise * random.standard_normal((rows, SIDE, SIDE, WIDTH))
    centres = np.random.default_rng(9).standard_normal((CLASSES, WIDTH))
    grids[np.arange(rows), random.integers(0, SIDE, rows), random.integers(0, SIDE, rows)] = (
        3 * centres[labels]
    )
    cls = random.standard_normal((rows, WIDTH))
    arrays = {PATCHES: grids.astype(np.float16), Readout("cls"): cls.astype(np.float16)}
    return FeatureTable([str(row) for row in range(rows)], labels, arrays, np.arange(rows))


def fit(protocol: str, heads: tuple[Head, ...] = (Head(1.0),), **changes: Any) -> AttentiveFit:
    recipe = RECIPES[protocol]
    context = Context("cpu", progress=False)
    made = AttentiveFit(protocol, recipe, heads, 32, 12, 16, 1, (PATCHES,), CLASSES, context)
    return replace(made, **changes)


def predictions(made: AttentiveFit, found: FeatureTable) -> np.ndarray:
    every = np.ones(len(found.ids), bool)
    assert found.targets is not None
    return made.predictions([found], found.targets, every, [(found, every)])[0]


@pytest.mark.parametrize("protocol", ["ep", "capi", "vjepa"])
def test_a_grid_trains_each_head_as_if_it_were_alone(protocol: str) -> None:
    """Two heads at once, and each of them by itself with its own optimiser from the same start."""
    decays = (0.0, 0.0) if protocol == "ep" else (0.0, 0.3)
    heads = (
        (Head(1.0, decays[0]), Head(0.01, decays[1]))
        if protocol == "ep"
        else (Head(1e-2, 0.0), Head(1e-3, 0.3))
    )
    together = fit(protocol, heads)
    source = table()
    assert source.targets is not None
    read = together.reader([source], np.arange(ROWS))
    module = together._module(WIDTH)  # pyright: ignore[reportPrivateUsage]
    start = {name: value.clone() for name, value in module.state_dict().items()}
    list(together.stages_of(module, read, source.targets))
    for place, head in enumerate(heads):
        alone = fit(protocol, (head,))
        single = alone._module(WIDTH)  # pyright: ignore[reportPrivateUsage]
        if isinstance(single, nn.ModuleList):
            kept = {
                name.partition(".")[2]: value for name, value in start.items() if name.startswith(f"{place}.")
            }
            single[0].load_state_dict(kept)
        else:
            for name, parameter in single.named_parameters():
                parameter.data.copy_(start[name][place : place + 1])
        list(alone.stages_of(single, read, source.targets))
        (expected,) = parameters_of_heads(single)
        for name, parameter in parameters_of_heads(module)[place].items():
            torch.testing.assert_close(parameter, expected[name], atol=1e-5, rtol=1e-5, msg=name)


def test_capi_heads_are_those_of_torchs_attention_and_adamw() -> None:
    """The published loop, written out: MultiheadAttention, AdamW with two groups, the schedule of numpy."""
    heads, iterations = (Head(1e-2, 0.5), Head(3e-3, 5e-2)), 40
    made = fit("capi", heads, iterations=iterations)
    source = table()
    assert source.targets is not None
    read = made.reader([source], np.arange(ROWS))
    module = made._module(WIDTH)  # pyright: ignore[reportPrivateUsage]
    copies = [capi_start(module, place) for place in range(2)]
    list(made.stages_of(module, read, source.targets))
    warmup = np.linspace(0.0, 1.0, 4)
    decay = (np.cos(np.linspace(0, np.pi, iterations - 4)) + 1) / 2
    for place, (head, copy) in enumerate(zip(heads, copies, strict=True)):
        biases = [copy["values_bias"], copy["bias"]]
        others = [copy[name] for name in ("query", "keys", "values", "weight")]
        groups = [{"params": others, "weight_decay": head.decay}, {"params": biases, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95))
        stream = batches(ROWS, 16, iterations, 0)
        for scale, rows in zip(np.concatenate([warmup, decay]), stream, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = head.rate * 16 / 256 * scale
            stand_in = nn.Module()
            for name, value in copy.items():
                setattr(stand_in, name, value[None])
            logits, fresh = capi_by_hand(stand_in, 0, read(rows).double())  # pyright: ignore[reportArgumentType]
            gradients = torch.autograd.grad(
                cross_entropy(logits, torch.from_numpy(source.targets[rows])), fresh
            )
            for parameter, gradient in zip(copy.values(), gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()
        for name, parameter in parameters_of_heads(module)[place].items():
            torch.testing.assert_close(parameter.double(), copy[name], atol=2e-4, rtol=1e-3, msg=name)


def capi_start(module: nn.Module, place: int) -> dict[str, torch.Tensor]:
    return {name: value[place].detach().double().clone() for name, value in module.named_parameters()}


@pytest.mark.parametrize("protocol", ["ep", "capi", "vjepa"])
def test_two_runs_agree_to_the_bit(protocol: str) -> None:
    source, heads = table(), (Head(0.3, 0.0 if protocol == "ep" else 0.01),)
    found: list[bytes] = []
    for seed in (0, 0, 1):
        made = fit(protocol, heads, context=Context("cpu", progress=False, seed=seed))
        read = made.reader([source], np.arange(ROWS))
        module = made._module(WIDTH)  # pyright: ignore[reportPrivateUsage]
        assert source.targets is not None
        list(made.stages_of(module, read, source.targets))
        found.append(b"".join(value.detach().numpy().tobytes() for value in module.parameters()))
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(("protocol", "rate"), [("ep", 5.0), ("capi", 0.05), ("vjepa", 1e-3)])
def test_heads_find_the_patch_that_shows_the_class(protocol: str, rate: float) -> None:
    made = fit(protocol, (Head(rate),), iterations=40 if protocol == "vjepa" else 100)
    train, test = table(), table(60, seed=1)
    assert train.targets is not None
    every = np.ones(ROWS, bool)
    (found,) = made.predictions([train], train.targets, every, [(test, np.ones(60, bool))])
    assert float((found["class"][:, 0] == test.targets).mean()) > 0.85


def test_candidates_are_heads_of_every_stage_and_the_last_comes_first() -> None:
    heads = (Head(5.0), Head(1e-9))
    long = predictions(fit("ep", heads, iterations=12, stages=3), table())
    assert long.shape == (ROWS, 6)
    whole = predictions(fit("ep", heads, iterations=12), table())
    assert np.array_equal(long[:, :2], whole)
    assert not np.array_equal(long[:, :2], long[:, 4:])


def test_only_rows_that_are_named_are_fitted_and_judged() -> None:
    source = table()
    assert source.targets is not None
    rows = np.arange(ROWS) < ROWS // 2
    made = fit("ep", (Head(5.0),), iterations=30)
    spoilt = np.where(rows, source.targets, (source.targets + 1) % CLASSES)
    honest = made.predictions([source], source.targets, rows, [(source, ~rows), (source, rows)])
    same = made.predictions([source], spoilt, rows, [(source, ~rows), (source, rows)])
    assert [len(part) for part in honest] == [ROWS // 2] * 2
    assert all(np.array_equal(one, other) for one, other in zip(honest, same, strict=True))


def test_views_are_read_after_one_another_and_the_class_token_comes_first() -> None:
    one, other = table(), table(seed=5)
    made = fit("ep", readouts=(Readout("cls"), PATCHES))
    read = made.reader([one, other], np.array([4, 7]))
    tokens = read(np.array([0, 3]))
    assert tokens.shape == (2, 1 + SIDE * SIDE, WIDTH)
    assert tokens.dtype == torch.float32
    expected = [
        np.concatenate([source[Readout("cls")][row][None], source[PATCHES][row].reshape(-1, WIDTH)])
        for source, row in ((one, 4), (other, 7))
    ]
    assert np.array_equal(tokens.numpy(), np.stack(expected).astype(np.float32))


def test_a_head_that_is_no_longer_finite_is_never_right() -> None:
    found = predictions(fit("capi", (Head(1e30), Head(1e-3))), table())
    assert set(found["class"][:, 0]) == {-1}
    assert set(found["class"][:, 1]) <= set(range(CLASSES))
    with pytest.raises(ContractError, match="no head is finite"):
        predictions(fit("capi", (Head(1e30),)), table())


def test_the_loss_is_the_sum_of_the_means_of_all_heads() -> None:
    logits, labels = torch.randn(3, 5, CLASSES), torch.tensor([0, 1, 2, 1, 1])
    expected = sum(float(cross_entropy(own, labels)) for own in logits)
    assert float(total_loss(logits, labels)) == pytest.approx(expected, rel=1e-6)
