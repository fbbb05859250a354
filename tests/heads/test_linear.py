from dataclasses import replace

import numpy as np
import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ssleval.core.batches import batches
from ssleval.errors import ConfigError, ContractError
from ssleval.heads.linear import HeadGrid, LinearHeads, Training, fit_heads

CLASSES = 5
GRID = HeadGrid(((18, 24), (18, 30), (0, 24), (0, 30)), (0.01, 0.1, 1.0))
SGD = Training(iterations=500, batch_size=64)
LARS = Training(60, 64, warmup=6, optimizer="lars", trust=0.02, standardise=True)


@pytest.fixture(scope="module")
def data() -> tuple[Float[Tensor, "n d"], Int[np.ndarray, " n"]]:
    random = np.random.default_rng(0)
    labels = random.integers(0, CLASSES, 300)
    features = random.standard_normal((300, 30)) + 0.7 * random.standard_normal((CLASSES, 30))[labels]
    return torch.from_numpy(features.astype(np.float32)), labels


def trained(
    data: tuple[Tensor, np.ndarray], grid: HeadGrid, training: Training, seed: int = 3
) -> LinearHeads:
    features, labels = data
    stages = fit_heads(lambda rows: features[rows], labels, grid, training, num_classes=CLASSES, seed=seed)
    return next(stages)


def test_heads_equal_torch_linear_layers_trained_one_by_one(data: tuple[Tensor, np.ndarray]) -> None:
    features, labels = data
    heads = trained(data, GRID, SGD)
    start = LinearHeads(GRID, CLASSES, seed=3)
    for index, head in ((1, 2), (3, 1)):
        low, high = GRID.columns[index]
        place = slice(head * CLASSES, (head + 1) * CLASSES)
        layer = nn.Linear(high - low, CLASSES)
        layer.weight.data.copy_(start.weights[index][place])
        layer.bias.data.zero_()
        optimizer = torch.optim.SGD(layer.parameters(), GRID.rates[head] * 64 / 256, momentum=0.9)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 500)
        for batch in batches(len(labels), 64, 500, 3):
            logits = layer(features[batch, low:high])
            loss = nn.functional.cross_entropy(logits, torch.from_numpy(labels[batch]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        torch.testing.assert_close(heads.weights[index][place], layer.weight.data, atol=1e-5, rtol=0)
        torch.testing.assert_close(heads.biases[index][place], layer.bias.data, atol=1e-5, rtol=0)


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_batch_norm_head_with_lars_equals_a_plain_loop(data: tuple[Tensor, np.ndarray], scale: float) -> None:
    features, labels = data[0] * scale, data[1]
    grid = HeadGrid(((0, 12),), (2.0,))
    heads = trained((features, labels), grid, LARS)
    norm = nn.BatchNorm1d(12, affine=False, eps=1e-6)
    weight = LinearHeads(grid, CLASSES, seed=3).weights[0].clone().requires_grad_()
    bias = torch.zeros(CLASSES, requires_grad=True)
    moving = [torch.zeros_like(weight), torch.zeros_like(bias)]
    for step, batch in enumerate(batches(len(labels), 64, 60, 3)):
        fraction = step / 6 if step < 6 else 0.5 * (1 + np.cos(np.pi * (step - 6) / 54))
        logits = norm(features[batch, :12]) @ weight.T + bias
        loss = nn.functional.cross_entropy(logits, torch.from_numpy(labels[batch]))
        gradients = list(torch.autograd.grad(loss, [weight, bias]))
        gradients[0] = gradients[0] * 0.02 * weight.detach().norm() / gradients[0].norm()
        for parameter, gradient, buffer in zip([weight, bias], gradients, moving, strict=True):
            buffer.mul_(0.9).add_(gradient)
            parameter.data -= 2.0 * 64 / 256 * fraction * buffer
    torch.testing.assert_close(heads.weights[0], weight.data, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(heads.biases[0], bias.data, atol=1e-5, rtol=1e-4)
    norm.eval()
    expected = (norm(features[:, :12]) @ weight.T + bias).argmax(1)
    found = heads.predict(lambda rows: features[rows], labels[:300], LARS)[:, 0]
    assert np.array_equal(found["class"], expected.numpy())


def test_a_head_does_not_depend_on_its_company(data: tuple[Tensor, np.ndarray]) -> None:
    alone = trained(data, HeadGrid(GRID.columns[:1], GRID.rates), replace(SGD, iterations=30))
    together = trained(data, GRID, replace(SGD, iterations=30))
    torch.testing.assert_close(alone.weights[0], together.weights[0])


@pytest.mark.parametrize(
    "change",
    [
        {"iterations": 31},
        {"batch_size": 32},
        {"momentum": 0.5},
        {"warmup": 10},
        {"stair": 10},
        {"standardise": True},
        {"optimizer": "lars"},
    ],
)
def test_every_setting_changes_the_weights(
    data: tuple[Tensor, np.ndarray], change: dict[str, int | float | str]
) -> None:
    base = replace(SGD, iterations=30)
    one, other = trained(data, GRID, base), trained(data, GRID, replace(base, **change))  # pyright: ignore[reportArgumentType]
    assert not torch.allclose(one.weights[3], other.weights[3], atol=1e-5)


def test_trust_and_seed_change_the_weights(data: tuple[Tensor, np.ndarray]) -> None:
    one = trained(data, GRID, LARS)
    assert not torch.allclose(one.weights[0], trained(data, GRID, replace(LARS, trust=0.01)).weights[0])
    assert not torch.allclose(one.weights[0], trained(data, GRID, LARS, seed=4).weights[0])
    assert torch.equal(one.weights[0], trained(data, GRID, LARS).weights[0])


def test_rate_by_epoch_is_the_cosine_of_whole_epochs() -> None:
    training = Training(100, stair=10)
    optimizer = torch.optim.SGD([torch.zeros(1)], 1.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    for epoch in range(10):
        expected = optimizer.param_groups[0]["lr"]
        assert [training.rate(10 * epoch + i) for i in range(10)] == pytest.approx([expected] * 10)
        optimizer.step()
        schedule.step()


def test_stages_come_every_so_often_and_at_the_end(data: tuple[Tensor, np.ndarray]) -> None:
    features, labels = data
    training = replace(SGD, iterations=25)
    stages = fit_heads(lambda rows: features[rows], labels, GRID, training, num_classes=CLASSES, every=10)
    norms = [float(heads.weights[0].norm()) for heads in stages]
    assert len(norms) == len(set(norms)) == 3


def test_no_more_rows_are_read_than_a_batch(data: tuple[Tensor, np.ndarray]) -> None:
    features, labels = data
    sizes: list[int] = []

    def read(rows: np.ndarray) -> Tensor:
        sizes.append(len(rows))
        return features[rows]

    heads = next(fit_heads(read, labels, GRID, replace(SGD, iterations=5), num_classes=CLASSES))
    whole = heads.predict(read, labels[:300], SGD, chunk=300)
    parts = heads.predict(read, labels[:300], SGD, chunk=17)
    assert np.array_equal(parts["class"], whole["class"])
    for name in ("confidence", "nll"):
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-4, atol=1e-6)
    assert sizes[:5] == [64] * 5
    assert max(sizes[6:]) == 17


def test_impossible_training_is_refused(data: tuple[Tensor, np.ndarray]) -> None:
    features, labels = data
    with pytest.raises(ConfigError, match="iterations=0"):
        Training(0)
    with pytest.raises(ConfigError, match="warm-up"):
        Training(10, warmup=10)
    with pytest.raises(ConfigError, match="no training rows"):
        next(fit_heads(lambda rows: features[rows], labels[:0], GRID, SGD, num_classes=CLASSES))
    with pytest.raises(ContractError, match="not finite"):
        trained((features * float("nan"), labels), GRID, replace(SGD, iterations=2))


def test_one_set_of_columns_or_one_rate_that_is_not_finite_is_enough(
    data: tuple[Tensor, np.ndarray],
) -> None:
    features, labels = data
    broken = features.clone()
    broken[:, 20] = float("nan")
    with pytest.raises(ContractError, match="not finite"):
        trained((broken, labels), HeadGrid(((0, 10), (18, 24)), (0.1,)), replace(SGD, iterations=2))
    with pytest.raises(ContractError, match="not finite"):
        trained((features * 1e4, labels), HeadGrid(((0, 10),), (1e-6, 1e38)), replace(SGD, iterations=1))


def test_lars_trusts_neither_a_weight_nor_a_gradient_of_zero() -> None:
    """Such a gradient is taken as it is: the scale of one would be 0, that of the other 0 / 0."""
    how = Training(1, 4, momentum=0.0, optimizer="lars")
    heads = LinearHeads(HeadGrid(((0, 3),), (64.0,)), 2)
    before = heads.weights[0].clone()
    heads.step(torch.zeros(4, 3), torch.tensor([0, 1, 0, 1]), how, 0)
    assert torch.equal(heads.weights[0], before)
    heads.weights[0].zero_()
    heads.biases[0].zero_()
    inputs, labels = torch.eye(4)[:, :3], torch.tensor([0, 1, 0, 1])
    heads.step(inputs, labels, how, 0)
    error = torch.full((4, 2), 0.5) - nn.functional.one_hot(labels, 2)
    torch.testing.assert_close(heads.weights[0], -(error.T @ inputs) / 4)


def test_defaults_are_those_of_the_papers() -> None:
    how = Training(1)
    assert (how.momentum, how.trust, how.warmup, how.stair) == (0.9, 0.001, 0, 1)
    assert (how.optimizer, how.standardise) == ("sgd", False)


def test_first_weights_are_drawn_as_in_the_papers() -> None:
    """From N(0, 0.01), one set of columns after the other; biases are zero."""
    heads, random = LinearHeads(GRID, CLASSES, seed=5), torch.Generator().manual_seed(5)
    for (start, stop), weight, bias in zip(GRID.columns, heads.weights, heads.biases, strict=True):
        torch.testing.assert_close(weight, 0.01 * torch.randn(15, stop - start, generator=random))
        assert not bias.any()
