"""Losses of DINO, iBOT and DINOv2, and the two ways to avoid collapse: centring and Sinkhorn-Knopp.

Shapes: ``v`` student crops, ``b`` images, ``k`` prototypes, ``m`` masked patches, ``d`` channels.
"""

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, distributed
from torch.nn import functional

from ssleval.train.chunks import rows_per_chunk
from ssleval.train.processes import sum_over_processes, world_size

_Group: TypeAlias = tuple[slice, float]
"""Crops that have one target, whose rows sum to the number."""


class _CrossEntropy(torch.autograd.Function):
    """Soft cross-entropy, summed over rows, that computes its gradient in the forward pass, in one buffer.

    For logits s with lse = log sum exp(s), and targets q that sum to n, the loss of a row is n lse - q.s and
    its gradient n softmax(s) - q. No log-softmax is stored. Two targets of one row are added up first, and
    need one softmax.

    ``logits`` ``[v b k]`` are already divided by the temperature, and computed with in float32, a chunk at a
    time; ``weights`` ``[b]`` are factors of the rows; ``targets`` are ``[b k]``, one for each group of crops.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, weights: Tensor | None, groups: Sequence[_Group], *targets: Tensor
    ) -> Tensor:
        gradient = torch.empty_like(logits, dtype=torch.promote_types(logits.dtype, torch.float32))
        total = logits.new_zeros((), dtype=torch.float64)
        for (views, mass), target in zip(groups, targets, strict=True):
            for place in _chunks(logits, views):
                scores, goal, out = logits[place].to(gradient.dtype), target[place[1]], gradient[place]
                torch.softmax(scores, dim=-1, out=out)
                # The softmax of the largest score is never 0, so that its log is finite.
                lse = scores.amax(-1) - out.amax(-1).log()
                losses = mass * lse - torch.linalg.vecdot(goal, scores)
                out.mul_(mass).sub_(goal)
                if weights is not None:
                    losses = losses * weights[place[1]]
                    out.mul_(weights[place[1]].unsqueeze(-1))
                total += losses.sum(dtype=torch.float64)
        ctx.save_for_backward(gradient)
        ctx.dtype = logits.dtype
        return total.to(gradient.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        # The buffer is used once, so that it can be scaled in place, before small values are lost in fp16.
        return gradient.mul_(grad_outputs[0]).to(ctx.dtype), *[None] * (len(ctx.needs_input_grad) - 1)


def _chunks(logits: Float[Tensor, "v b k"], views: slice) -> Iterator[tuple[slice, slice]]:
    """Yield crops and images that are processed together: all of them, or some images of one crop."""
    _, batch, prototypes = logits.shape
    rows = rows_per_chunk(prototypes, logits.device)
    if rows >= (views.stop - views.start) * batch:
        yield views, slice(0, batch)
        return
    for view in range(views.start, views.stop):
        for start in range(0, batch, rows):
            yield slice(view, view + 1), slice(start, start + rows)


def dino_loss(
    student: Float[Tensor, "v b k"], teacher: Float[Tensor, "2 b k"], local: float = 1.0
) -> Float[Tensor, ""]:
    """Return the cross-entropy, averaged over images and over pairs of a teacher crop and a different crop.

    ``student`` are logits divided by its temperature, the two global crops first; ``teacher`` probabilities.
    ``local`` weighs the pairs with a local crop; the number of pairs that divides the sum stays.

    Source:
        Caron et al. 2021, eq. 3; the mean over 2 v - 2 pairs as in `main_dino.py`; ``local``: DINOv3's
        `ssl_meta_arch.py`.
    """
    views, batch, _ = student.shape
    groups: list[_Group] = [(slice(0, 1), 1.0), (slice(1, 2), 1.0)]
    targets = [teacher[1], teacher[0]]
    if views > 2:
        groups.append((slice(2, views), 2.0 * local))
        targets.append(teacher.sum(dim=0) * local)
    return _CrossEntropy.apply(student, None, groups, *targets) / (batch * (2 * views - 2))


def ibot_loss(
    student: Float[Tensor, "m k"], teacher: Float[Tensor, "m k"], weights: Float[Tensor, " m"]
) -> Float[Tensor, ""]:
    """Return the weighted sum of the cross-entropies of masked patches.

    ``weights`` are 1 / (masked patches of the crop x crops), so that all crops have equal weight.

    Source:
        Zhou et al. 2021, eq. 2; weights as in DINOv2's `ibot_patch_loss.py`, over all global crops.
    """
    return _CrossEntropy.apply(student.unsqueeze(0), weights, [(slice(0, 1), 1.0)], teacher)


def koleo(features: Float[Tensor, "b d"], eps: float = 1e-8) -> Float[Tensor, ""]:
    """Return minus the mean log distance of unit vectors to their nearest neighbour in the batch.

    Source:
        Sablayrolles et al. 2019; DINOv2's `koleo_loss.py`.
    """
    unit = functional.normalize(features.float(), dim=-1, eps=eps)
    with torch.no_grad():
        cosines = unit @ unit.T
        # Below every cosine: beside an opposite vector alone, -1 would make a vector its own neighbour.
        nearest = cosines.fill_diagonal_(-2).argmax(dim=1)
    # DINOv2 adds eps to the distance too, inside pairwise_distance.
    distance = functional.pairwise_distance(unit, unit[nearest], 2, eps)
    return -(distance + eps).log().mean()


@torch.no_grad()
def centered(
    logits: Float[Tensor, "n k"], center: Float[Tensor, " k"], temperature: float
) -> Float[Tensor, "n k"]:
    """Return the teacher's probabilities: centred, then sharpened (DINO sec. 3.1)."""
    return logits.float().sub(center).div_(temperature).softmax(dim=-1)


@torch.no_grad()
def update_center(center: Float[Tensor, " k"], logits: Float[Tensor, "n k"], momentum: float) -> None:
    """Update the centre, in place, as the EMA of the mean logit of the teacher over all processes.

    Processes may hold different numbers of rows (masked patches). Without any row, the centre is unchanged.
    """
    total = sum_over_processes(logits.float().sum(dim=0))
    rows = sum_over_processes(torch.tensor(float(len(logits)), device=logits.device))
    center.lerp_(torch.where(rows > 0, total / rows.clamp(min=1), center), 1 - momentum)


@torch.no_grad()
def sinkhorn(logits: Float[Tensor, "n k"], temperature: float, iterations: int) -> Float[Tensor, "n k"]:
    """Return probabilities whose sums per prototype are nearly equal, over the batches of all processes.

    Rows sum to 1 exactly, because the last half-step normalises them.

    Source:
        Caron et al. 2020, arXiv:2006.09882, as used by DINOv2 in place of centring.
    """
    scores = logits.float() / temperature
    # Subtracting the maximum keeps exp finite and cancels out. The floor of e^-80, 1e-35, keeps the sum of a
    # prototype far from all samples above zero.
    largest = scores.max() if len(scores) else scores.new_tensor(float("-inf"))
    if world_size() > 1:
        distributed.all_reduce(largest, distributed.ReduceOp.MAX)
    q = scores.sub_(largest).clamp_(min=-80).exp_()
    prototypes = q.shape[1]
    samples = float(sum_over_processes(torch.tensor(float(len(q)), device=q.device)))
    q /= sum_over_processes(q.sum())
    for _ in range(iterations):
        q /= sum_over_processes(q.sum(dim=0)) * prototypes
        q /= q.sum(dim=1, keepdim=True) * samples
    return q.mul_(samples)
