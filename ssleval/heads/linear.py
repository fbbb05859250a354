"""A grid of linear classifiers trained jointly: every set of input columns with every learning rate.

Heads that see the same columns are stacked into one matrix, so that a step is one forward and one
weight-gradient product per column set, whatever the number of heads. The gradient (softmax minus one-hot,
written out: no autograd) adds straight into the momentum buffer.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import cos, pi
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn import functional

from ssleval.core.batches import batches
from ssleval.core.settings import Count, Natural, check
from ssleval.core.stated import stated
from ssleval.errors import ConfigError, ContractError

Rows: TypeAlias = Callable[[Int[np.ndarray, " b"]], Float[Tensor, "b d"]]
"""Reads float32 feature rows by index, from wherever they are stored."""


@dataclass(frozen=True, slots=True)
class HeadGrid:
    """Which heads there are. Head ``i * len(rates) + j`` has columns i and rate j."""

    columns: tuple[tuple[int, int], ...]
    """First and last + 1 input column of each set."""
    rates: tuple[float, ...]
    """Base learning rates: the rate used is ``base * batch_size / 256``."""

    def __len__(self) -> int:
        return len(self.columns) * len(self.rates)


@dataclass(frozen=True, slots=True)
class Training:
    """Optimiser and schedule of linear heads."""

    iterations: Count
    batch_size: Count = 1024
    """Rows repeat within a batch that is larger than the training set."""
    momentum: float = 0.9
    warmup: Natural = 0
    """Iterations of linear warm-up from zero, counted in ``iterations``."""
    stair: Count = 1
    """Iterations between changes of the cosine learning rate: 1, or an epoch."""
    optimizer: Literal["sgd", "lars"] = "sgd"
    trust: float = 0.001
    """Trust coefficient of LARS."""
    standardise: bool = False
    """Whether inputs first pass a batch normalisation without affine parameters (eps 1e-6)."""

    def __post_init__(self) -> None:
        check(self, "linear heads")
        if self.warmup >= self.iterations:
            raise ConfigError(f"linear heads: warm-up of {self.warmup} in {self.iterations} iterations")

    def rate(self, iteration: int) -> float:
        """Return the fraction of the full learning rate used at an iteration from zero."""
        if iteration < self.warmup:
            return iteration / self.warmup
        progress = (iteration - self.warmup) // self.stair * self.stair / (self.iterations - self.warmup)
        return 0.5 * (1 + cos(pi * progress))


class LinearHeads:
    """The heads of a grid and their optimiser state."""

    def __init__(self, grid: HeadGrid, num_classes: int, *, seed: int = 0, device: str = "cpu") -> None:
        generator = torch.Generator().manual_seed(seed)
        self.grid, self.num_classes = grid, num_classes
        stacked = len(grid.rates) * num_classes
        widths = [stop - start for start, stop in grid.columns]
        drawn = (0.01 * torch.randn(stacked, width, generator=generator) for width in widths)
        self.weights = [weight.to(device) for weight in drawn]
        self.biases = [torch.zeros(stacked, device=device) for _ in widths]
        pairs = zip(self.weights, self.biases, strict=True)
        self.moving = [(torch.zeros_like(weight), torch.zeros_like(bias)) for weight, bias in pairs]
        width = max(stop for _, stop in grid.columns)
        self.running = torch.zeros(width, device=device), torch.ones(width, device=device)
        self.rates = torch.tensor(grid.rates, device=device).repeat_interleave(num_classes)

    def logits(self, inputs: Float[Tensor, "b d"], index: int) -> Float[Tensor, "b heads classes"]:
        """Return the logits of the heads of one column set, for inputs already standardised."""
        start, stop = self.grid.columns[index]
        flat = torch.addmm(self.biases[index], inputs[:, start:stop], self.weights[index].T)
        return flat.view(len(inputs), len(self.grid.rates), self.num_classes)

    @torch.no_grad()
    def predict(
        self, rows: Rows, truth: Int[np.ndarray, " n"], training: Training, chunk: int = 2048
    ) -> Shaped[np.ndarray, "n heads"]:
        """Return what each head has `stated` of rows 0 .. n - 1; ties go to the smaller class."""
        parts: list[Shaped[np.ndarray, "b heads"]] = []
        mean, variance = self.running
        for start in range(0, len(truth), chunk):
            inputs = rows(np.arange(start, min(start + chunk, len(truth))))
            labels = torch.from_numpy(np.array(truth[start : start + chunk], dtype=np.int64))
            if training.standardise:
                inputs = (inputs[:, : len(mean)] - mean) * torch.rsqrt(variance + 1e-6)
            heads = (stated(self.logits(inputs, index), labels) for index in range(len(self.grid.columns)))
            parts.append(np.concatenate(list(heads), axis=1))
        return np.concatenate(parts)

    @torch.no_grad()
    def step(
        self, inputs: Float[Tensor, "b d"], labels: Int[Tensor, " b"], training: Training, iteration: int
    ) -> None:
        """Take one optimiser step of every head on one batch, each on its own mean cross-entropy."""
        if training.standardise:
            mean, variance = self.running
            used = inputs[:, : len(mean)]
            inputs = functional.batch_norm(used, mean, variance, training=True, momentum=0.1, eps=1e-6)
        rates = self.rates * (training.rate(iteration) * training.batch_size / 256)
        at = torch.arange(len(labels), device=labels.device)
        for index, (start, stop) in enumerate(self.grid.columns):
            residual = self.logits(inputs, index).softmax(2)
            residual[at, :, labels] -= 1
            error = residual.div_(len(labels)).view(len(labels), -1)
            weight, bias = self.moving[index]
            bias.mul_(training.momentum).add_(error.sum(0))
            if training.optimizer == "sgd":
                weight.addmm_(error.T, inputs[:, start:stop], beta=training.momentum)
            else:
                gradient = self._trusted(error.T @ inputs[:, start:stop], index, training.trust)
                weight.mul_(training.momentum).add_(gradient)
            self.weights[index].addcmul_(rates[:, None], weight, value=-1)
            self.biases[index].addcmul_(rates, bias, value=-1)

    def _trusted(self, gradient: Float[Tensor, "s w"], index: int, trust: float) -> Float[Tensor, "s w"]:
        # LARS scales by the norms of a head's whole weight; its bias, a vector, is left alone.
        heads = (len(self.grid.rates), -1)
        weight, update = (part.view(heads).norm(dim=1) for part in (self.weights[index], gradient))
        scale = torch.where((weight > 0) & (update > 0), trust * weight / update, 1.0)
        return gradient * scale.repeat_interleave(self.num_classes)[:, None]


def fit_heads(
    rows: Rows,
    labels: Int[np.ndarray, " n"],
    grid: HeadGrid,
    training: Training,
    *,
    num_classes: int,
    every: int = 0,
    seed: int = 0,
    device: str = "cpu",
) -> Iterator[LinearHeads]:
    """Train all heads; yield them after each ``every`` iterations and at the end (0: only at the end).

    The same object is yielded each time and trained further afterwards: use it before the next one. All
    heads see the same batches (`batches`).
    """
    heads = LinearHeads(grid, num_classes, seed=seed, device=device)
    truth = torch.from_numpy(np.array(labels, dtype=np.int64)).to(device)
    stream = batches(len(labels), training.batch_size, training.iterations, seed)
    for iteration, batch in enumerate(stream, start=1):
        heads.step(rows(batch), truth[torch.from_numpy(batch).to(device)], training, iteration - 1)
        if iteration == training.iterations or (every and iteration % every == 0):
            if not all(bool(weight.isfinite().all()) for weight in heads.weights):
                raise ContractError("linear heads: weights are not finite; are the features?")
            yield heads
