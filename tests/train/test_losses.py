"""Losses against references written another way: values, and gradients by torch's own rules."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, local

import numpy as np
import pytest
import torch
from torch import Tensor, distributed

from ssleval.train.losses import centered, dino_loss, ibot_loss, koleo, sinkhorn, update_center


def drawn(*shape: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32) * scale


def pairwise_reference(student: Tensor, teacher: Tensor, local: float = 1.0) -> Tensor:
    terms = [
        -(probabilities * torch.log_softmax(crop, dim=-1)).sum(dim=-1).mean() * (1.0 if index < 2 else local)
        for seen, probabilities in enumerate(teacher)
        for index, crop in enumerate(student)
        if index != seen
    ]
    return torch.stack(terms).mean()


@pytest.mark.parametrize("local", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("views", [2, 3, 8])
def test_dino_loss_is_the_mean_over_pairs_of_different_crops(views: int, local: float) -> None:
    student, teacher = drawn(views, 5, 11).requires_grad_(), drawn(2, 5, 11, seed=1).softmax(dim=-1)
    ours, reference = dino_loss(student, teacher, local), pairwise_reference(student, teacher, local)
    torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-6)
    (expected,) = torch.autograd.grad(reference, student)
    # Scaled on the way back, as a weight or a gradient scaler does.
    (found,) = torch.autograd.grad(ours * 2.5, student)
    torch.testing.assert_close(found, expected * 2.5, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("images", "prototypes"), [(7, 16), (9, 4)])
def test_dino_loss_in_parts_is_the_same(
    monkeypatch: pytest.MonkeyPatch, images: int, prototypes: int
) -> None:
    student, teacher = drawn(3, images, prototypes), drawn(2, images, prototypes, seed=1).softmax(dim=-1)
    monkeypatch.setattr("ssleval.train.chunks._ON_CPU", 2 * prototypes)
    torch.testing.assert_close(dino_loss(student, teacher), pairwise_reference(student, teacher))


def test_dino_loss_stays_finite_at_extreme_logits() -> None:
    student = torch.tensor([[[1e4, 0.0, -1e4]], [[-1e4, 0.0, 1e4]]]).requires_grad_()
    loss = dino_loss(student, torch.full((2, 1, 3), 1 / 3))
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.isfinite()
    assert gradient.isfinite().all()


def test_ibot_loss_counts_crops_alike_whatever_is_masked() -> None:
    counts = torch.tensor([3, 1])
    owners = torch.repeat_interleave(torch.arange(2), counts)
    student, teacher = drawn(4, 9).requires_grad_(), drawn(4, 9, seed=1).softmax(dim=-1)
    rows = -(teacher * torch.log_softmax(student, dim=-1)).sum(dim=-1)
    reference = torch.stack([rows[owners == crop].mean() for crop in range(2)]).mean()
    loss = ibot_loss(student, teacher, 1 / (counts[owners] * 2))
    torch.testing.assert_close(loss, reference)
    (expected,) = torch.autograd.grad(reference, student)
    (found,) = torch.autograd.grad(loss, student)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_koleo_is_minus_the_mean_log_distance_to_the_nearest() -> None:
    features = drawn(6, 4).requires_grad_()
    unit = features / features.norm(dim=1, keepdim=True)
    distances = (unit[:, None] - unit[None]).square().sum(-1)
    nearest = (distances + 10 * torch.eye(6)).min(dim=1).values.sqrt()
    reference = -nearest.log().mean()
    ours = koleo(features)
    torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-5)
    (expected,) = torch.autograd.grad(reference, features)
    (found,) = torch.autograd.grad(ours, features)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_koleo_of_copies_and_of_opposites() -> None:
    # The distance of equal vectors of 9 channels is sqrt(9) eps in DINOv2, which adds eps once more.
    assert float(koleo(torch.ones(2, 9))) == pytest.approx(-np.log(4e-8))
    assert float(koleo(torch.ones(2, 9), eps=1e-6)) == pytest.approx(-np.log(4e-6))
    assert float(koleo(torch.tensor([[3.0, 0.0], [-2.0, 0.0]]))) == pytest.approx(-np.log(2))


def test_centering_subtracts_and_sharpening_divides() -> None:
    logits, center = drawn(3, 5), drawn(5, seed=2)
    exponentials = np.exp((logits.numpy() - center.numpy()).astype(np.float64) / 0.5)
    expected = exponentials / exponentials.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(centered(logits, center, 0.5).numpy(), expected, rtol=1e-5)
    assert not torch.allclose(centered(logits, center, 0.5), centered(logits, center, 0.4))


@pytest.mark.parametrize("rows", [1, 3])
def test_the_center_is_an_average_with_the_mean_of_the_batch(rows: int) -> None:
    logits, center = drawn(rows, 5), drawn(5, seed=2)
    expected = 0.9 * center + 0.1 * logits.mean(dim=0)
    update_center(center, logits, 0.9)
    torch.testing.assert_close(center, expected)


def test_without_a_masked_patch_the_center_stays_and_nothing_is_assigned() -> None:
    center = drawn(5)
    before = center.clone()
    update_center(center, torch.empty(0, 5), 0.9)
    assert torch.equal(center, before)
    assert sinkhorn(torch.empty(0, 5), 0.04, 3).shape == (0, 5)


@pytest.mark.parametrize("iterations", [1, 3, 200])
def test_sinkhorn_alternates_between_prototypes_and_samples(iterations: int) -> None:
    logits = drawn(8, 4, scale=1.0)
    q = np.exp(logits.numpy().astype(np.float64) / 0.5).T
    q /= q.sum()
    for _ in range(iterations):
        q /= q.sum(axis=1, keepdims=True) * q.shape[0]
        q /= q.sum(axis=0, keepdims=True) * q.shape[1]
    found = sinkhorn(logits, 0.5, iterations)
    np.testing.assert_allclose(found.numpy(), q.T * 8, rtol=1e-4)
    np.testing.assert_allclose(found.sum(dim=1).numpy(), 1, rtol=1e-5)
    if iterations == 200:
        np.testing.assert_allclose(found.sum(dim=0).numpy(), 2, rtol=1e-3)


def in_two_processes(
    monkeypatch: pytest.MonkeyPatch, function: Callable[[Tensor], Tensor], parts: Sequence[Tensor]
) -> list[Tensor]:
    """Return the function of each part, in two threads that reduce as two processes do."""
    meeting, own, given = Barrier(2, timeout=20), local(), [torch.empty(0)] * 2

    def all_reduce(tensor: Tensor, op: object = distributed.ReduceOp.SUM) -> None:
        given[own.rank] = tensor.clone()
        meeting.wait()
        both = torch.stack(given)
        meeting.wait()
        tensor.copy_(both.amax(dim=0) if op == distributed.ReduceOp.MAX else both.sum(dim=0))

    def run(rank: int) -> Tensor:
        own.rank = rank
        return function(parts[rank])

    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed, "all_reduce", all_reduce)
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(run, (0, 1)))


def test_sinkhorn_and_the_center_are_of_the_batches_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.cat([drawn(3, 4), drawn(5, 4, seed=1) + 6])
    center, whole = drawn(4, seed=2), sinkhorn(logits, 0.5, 3)

    def updated(part: Tensor) -> Tensor:
        own = center.clone()
        update_center(own, part, 0.9)
        return own

    expected, parts = updated(logits), logits.split([3, 5])
    shares = in_two_processes(monkeypatch, lambda part: sinkhorn(part, 0.5, 3), parts)
    torch.testing.assert_close(torch.cat(shares), whole)
    for found in in_two_processes(monkeypatch, updated, parts):
        torch.testing.assert_close(found, expected)


def test_sinkhorn_does_not_overflow() -> None:
    assert sinkhorn(drawn(4, 6, scale=2.0), 0.04, 3).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logits_in_16_bits_give_the_loss_of_their_values_and_its_gradient_rounded_once(
    dtype: torch.dtype,
) -> None:
    logits, teacher = drawn(4, 5, 300).to(dtype), drawn(2, 5, 300, seed=1).softmax(dim=-1)
    ours, exact = logits.clone().requires_grad_(), logits.float().requires_grad_()
    # As a gradient scaler does: gradients are too small for fp16 before.
    (dino_loss(ours, teacher) * 2**16).backward()
    (dino_loss(exact, teacher) * 2**16).backward()
    assert dino_loss(ours, teacher).dtype == torch.float32
    assert torch.equal(dino_loss(ours, teacher), dino_loss(exact, teacher))
    assert ours.grad is not None
    assert exact.grad is not None
    assert torch.equal(ours.grad, exact.grad.to(dtype))
