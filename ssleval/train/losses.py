"""Losses of DINO, iBOT and DINOv2, and the two ways to keep the teacher's assignments spread out.

Shapes: ``v`` student crops, ``b`` images, ``k`` prototypes, ``m`` masked patches, ``d`` channels.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, distributed
from torch.nn import functional

from ssleval.train.chunks import rows_at_once


class _CrossEntropy(torch.autograd.Function):
    """Soft cross-entropy whose gradient is made with it, in one buffer.

    With lse the log of the sum of exponentials of the logits s, and targets q that sum to n, the loss of a
    row is n lse - q.s and its gradient n softmax(s) - q: no log-softmax is kept, and none is made twice for
    two targets of one row, as their sum is a target too.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, weights: Tensor | None, masses: Sequence[float], *targets: Tensor
    ) -> Tensor:
        gradient = torch.empty_like(logits)
        total = logits.new_zeros((), dtype=torch.float64)
        rows = rows_at_once(logits.shape[-1], logits.device)
        for view, (mass, target) in enumerate(zip(masses, targets, strict=True)):
            for start in range(0, logits.shape[1], rows):
                part = slice(start, start + rows)
                scores, goal, out = logits[view, part], target[part], gradient[view, part]
                torch.softmax(scores, dim=-1, out=out)
                # softmax at the largest score is never 0, so that its log is finite.
                lse = scores.amax(-1) - out.amax(-1).log()
                losses = mass * lse - torch.linalg.vecdot(goal, scores)
                out.mul_(mass).sub_(goal)
                if weights is not None:
                    losses = losses * weights[part]
                    out.mul_(weights[part].unsqueeze(-1))
                total += losses.sum(dtype=torch.float64)
        ctx.save_for_backward(gradient)
        return total.to(logits.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        # Made for this alone and used once: scaled where it lies.
        count = len(ctx.needs_input_grad)
        return gradient.mul_(grad_outputs[0]), *([None] * (count - 1))


def cross_entropy(
    logits: Float[Tensor, "v b k"],
    targets: Sequence[Float[Tensor, "b k"]],
    masses: Sequence[float],
    weights: Float[Tensor, " b"] | None = None,
) -> Float[Tensor, ""]:
    """Return the sum over rows of the cross-entropy between targets and the softmax of logits.

    Differentiable once, in ``logits`` alone.

    Args:
        logits: already divided by the student's temperature.
        targets: one tensor for every leading row of ``logits``; they may be the same object.
        masses: what each row of that target sums to.
        weights: factor of every row.
    """
    return _CrossEntropy.apply(logits.float(), weights, tuple(masses), *targets)


def dino_loss(student: Float[Tensor, "v b k"], teacher: Float[Tensor, "2 b k"]) -> Float[Tensor, ""]:
    """Return the cross-entropy averaged over images and over pairs of a teacher crop and another crop.

    Args:
        student: logits divided by the student's temperature; the two global crops first.
        teacher: probabilities for the two global crops.

    Source:
        Caron et al. 2021, eq. 3; the mean over 2 v - 2 pairs as in `main_dino.py`.
    """
    views, batch, _ = student.shape
    both = teacher.sum(dim=0) if views > 2 else teacher[0]
    targets = [teacher[1], teacher[0], *[both] * (views - 2)]
    masses = [1.0, 1.0, *[2.0] * (views - 2)]
    return cross_entropy(student, targets, masses) / (batch * (2 * views - 2))


def ibot_loss(
    student: Float[Tensor, "m k"], teacher: Float[Tensor, "m k"], weights: Float[Tensor, " m"]
) -> Float[Tensor, ""]:
    """Return the weighted sum of cross-entropies of masked patches.

    ``weights`` are 1 / (masked patches of the crop x crops), so that crops count alike.

    Source:
        Zhou et al. 2021, eq. 2; weights as in DINOv2's `ibot_patch_loss.py`, over all global crops.
    """
    return cross_entropy(student.unsqueeze(0), [teacher], [1.0], weights)


def koleo(features: Float[Tensor, "b d"], eps: float = 1e-8) -> Float[Tensor, ""]:
    """Return minus the mean log distance of unit vectors to their nearest neighbour in the batch.

    Source:
        Sablayrolles et al. 2019; DINOv2's `koleo_loss.py`.
    """
    unit = functional.normalize(features.float(), dim=-1, eps=eps)
    with torch.no_grad():
        cosines = unit @ unit.T
        nearest = cosines.fill_diagonal_(-1).argmax(dim=1)
    # eps inside the distance as well, as torch's pairwise distance has it.
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
    """Move the centre, in place, towards the mean of the teacher's logits over all processes.

    Processes may hold different numbers of rows, as they do of masked patches; without any it stays.
    """
    total = _summed(logits.float().sum(dim=0))
    rows = _summed(torch.tensor(float(len(logits)), device=logits.device))
    center.lerp_(torch.where(rows > 0, total / rows.clamp(min=1), center), 1 - momentum)


@torch.no_grad()
def sinkhorn(logits: Float[Tensor, "n k"], temperature: float, iterations: int) -> Float[Tensor, "n k"]:
    """Return probabilities whose sums per prototype are nearly equal, over the batches of all processes.

    Rows sum to 1 exactly (the last half-step).

    Source:
        Caron et al. 2020, arXiv:2006.09882, as used by DINOv2 in place of centring.
    """
    scores = logits.float() / temperature
    # One number taken from all scores leaves the result as it is, and exp finite; the floor of 1e-35 keeps a
    # prototype that no sample is near from a sum of zero.
    largest = scores.max() if len(scores) else scores.new_tensor(float("-inf"))
    if _world() > 1:
        distributed.all_reduce(largest, distributed.ReduceOp.MAX)
    q = scores.sub_(largest).clamp_(min=-80).exp_()
    prototypes = q.shape[1]
    samples = float(_summed(torch.tensor(float(len(q)), device=q.device)))
    q /= _summed(q.sum())
    for _ in range(iterations):
        q /= _summed(q.sum(dim=0)) * prototypes
        q /= q.sum(dim=1, keepdim=True) * samples
    return q.mul_(samples)


def _world() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def _summed(tensor: Tensor) -> Tensor:
    if _world() > 1:
        distributed.all_reduce(tensor)
    return tensor
