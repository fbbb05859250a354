"""Published recipes for attentive probes: which heads there are, how they are trained, on which widths."""

from dataclasses import dataclass, replace
from itertools import product
from math import cos, pi
from typing import Literal

from ssleval.core import Precision
from ssleval.errors import NotApplicableError

CHANNELS_PER_HEAD = 64
"""Of CAPI's multi-head attention."""
ATTENTION_HEADS = 16
"""Of V-JEPA's."""
_PARTS = {"capi": CHANNELS_PER_HEAD, "vjepa": ATTENTION_HEADS}


@dataclass(frozen=True, slots=True)
class Head:
    """Settings that the heads of a grid differ in."""

    rate: float
    decay: float = 0.0
    """Weight decay, constant."""
    fades: bool = False
    """Whether the decay falls to zero by a cosine, and the rate is not warmed up."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a laboratory trains its attentive probes on ImageNet, and what becomes of it on small sets."""

    rates: tuple[float, ...]
    batch_size: int
    epochs: int
    optimizer: Literal["lars", "adamw"]
    decays: tuple[float, ...] = ()
    extra: tuple[Head, ...] = ()
    """Heads beside every rate with every decay."""
    betas: tuple[float, float] = (0.9, 0.999)
    by_batch: bool = True
    """Rates are for a batch of 256 and grow with it; else they are used as they are."""
    start: float = 0.0
    """Rate that the warm-up begins with."""
    warmup: float = 0.1
    """Fraction of the iterations."""
    offset: int = 0
    """Iterations by which the schedule is ahead: 1 where it is counted from one."""
    closed: bool = False
    """Whether the ramps reach their ends within the iterations, as linspace does."""
    decays_biases: bool = False
    stages: int = 1
    """Parts of the training; heads can be chosen at the end of each."""
    refit: bool = True
    """Whether heads that were chosen on held-out images are trained again on all."""
    fewest: int = 1
    most: int = 1_000_000
    portion: int = 8
    """A batch holds at most this part of a small set (8: an eighth)."""
    small: int = 500
    """Iterations on small sets, whose epochs would be too few steps to converge."""
    small_rates: tuple[float, ...] = ()
    """In place of ``rates`` on small sets."""
    precision: Precision = "fp16"
    crops: Literal["torchvision", "tensorflow"] = "torchvision"
    """How random crops are drawn (`RandomView.drawn`)."""

    def for_images(self, count: int) -> "Recipe":
        """Return the recipe for so many training images: small sets do not fill the published batch."""
        fitting = 1 << (max(16, count // self.portion).bit_length() - 1)
        if fitting >= self.batch_size:
            return self
        rates, stages = self.small_rates or self.rates, min(self.stages, SMALL_STAGES)
        return replace(
            self, batch_size=fitting, fewest=self.small, most=self.small, rates=rates, stages=stages
        )

    def iterations(self, count: int, batch_size: int) -> int:
        """Return the iterations of the epochs, each without its last, smaller batch, within the bounds."""
        return min(max(self.epochs * (count // batch_size), self.fewest), self.most)

    def grid(self, rates: tuple[float, ...], decays: tuple[float, ...]) -> tuple[Head, ...]:
        """Return every rate with every decay, after the extra heads where both are the recipe's own."""
        own = tuple(Head(*pair) for pair in product(rates, decays or (0.0,)))
        return (*self.extra, *own) if (rates, decays) == (self.rates, self.decays) else own

    def rate(self, head: Head, iteration: int, iterations: int, batch_size: int) -> float:
        """Return the learning rate of a head at an iteration from zero."""
        full = head.rate * (batch_size / 256 if self.by_batch else 1.0)
        warmup = 0 if head.fades else round(self.warmup * iterations)
        place, closed = iteration + self.offset, int(self.closed)
        if place < warmup:
            return self.start + (full - self.start) * place / max(1, warmup - closed)
        return full * _cosine((place - warmup) / max(1, iterations - warmup - closed))

    def decay(self, head: Head, iteration: int, iterations: int) -> float:
        """Return the weight decay of a head at an iteration from zero."""
        return head.decay * _cosine((iteration + self.offset) / iterations) if head.fades else head.decay


def _cosine(progress: float) -> float:
    return 0.5 * (1 + cos(pi * progress))


SMALL_STAGES = 10
RECIPES = {
    # In the few iterations of a small set the published rate would hardly move the weights: three are tried.
    "ep": Recipe(
        (0.1,), batch_size=4096, epochs=90, optimizer="lars", warmup=10 / 90, stages=90, portion=32,
        small=1000, small_rates=(1.0, 10.0, 100.0), crops="tensorflow",
    ),
    "capi": Recipe(
        (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2), batch_size=1024, epochs=10, most=12_500,
        optimizer="adamw", decays=(5e-4, 1e-3, 5e-2), betas=(0.9, 0.95), closed=True, refit=False,
        precision="fp32",
    ),
    "vjepa": Recipe(
        (5e-4, 1e-3, 1.5e-3, 2e-3), batch_size=1024, epochs=20, optimizer="adamw",
        decays=(8e-3, 4e-3, 2e-3, 1e-3, 5e-4), extra=(Head(1e-3, 1e-3, fades=True),), by_batch=False,
        start=2e-4, warmup=0.25, offset=1, decays_biases=True, stages=20,
    ),
}  # fmt: skip
"""Of Psomas et al. 2025, Darcet et al. 2025 and Assran et al. 2025, by the configurations of their code."""


def refuse_width(protocol: str, width: int, queries: int = 32) -> None:
    """Refuse tokens of so many channels that the heads of a protocol cannot divide, and say which can.

    Raises:
        NotApplicableError: the channels are no multiple of the ``queries`` of ep, or of what others need.
    """
    parts = _PARTS.get(protocol, queries)
    if width % parts == 0:
        return
    fitting = max(number for number in range(1, queries + 1) if width % number == 0)
    needed = f"{queries} queries" if protocol == "ep" else f"{parts}, which protocol={protocol} needs"
    other = "" if protocol == "ep" else "--set attentive.protocol=ep "
    raise NotApplicableError(
        f"attentive: {width} channels of a token are no multiple of {needed}; "
        f"{other}--set attentive.queries={fitting}"
    )
