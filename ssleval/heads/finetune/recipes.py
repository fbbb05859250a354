"""Published recipes of fine-tuning, and a short one for small sets."""

from dataclasses import dataclass
from typing import Literal

from ssleval.core import Readout


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a network is fine-tuned. The task `finetune` has these fields too, and says what they mean.

    Rates are for a batch of 256 and grow with the batch; steps are those of the published epochs.
    """

    learning_rates: tuple[float, ...]
    iterations: int
    batch_size: int
    layer_decay: float
    weight_decay: float
    drop_path: float
    mixup: float
    cutmix: float
    smoothing: float
    randaugment: int
    erasing: float
    smallest_crop: float
    warmup: float
    min_rate: float
    ema: float
    clip: float
    deviation: float
    readout: Literal["pooled", "cls", "mean"]

    @property
    def vector(self) -> Readout:
        """What the linear layer reads."""
        return Readout(self.readout, norm=self.readout != "mean")

    def step_rate(self, rate: float) -> float:
        """Return the rate of a step for a base rate."""
        return rate * self.batch_size / 256


EPOCHS = {"short": 20, "mae": 100, "deit": 300}
FEWEST, MOST = 500, 5_000
"""Iterations of the short recipe, whatever the epochs come to."""
RECIPES = {
    "short": Recipe(
        (1e-3,), 0, 64, layer_decay=0.75, weight_decay=0.05, drop_path=0.0, mixup=0.0, cutmix=0.0,
        smoothing=0.1, randaugment=0, erasing=0.0, smallest_crop=0.5, warmup=0.1, min_rate=0.0, ema=0.0,
        clip=1.0, deviation=2e-5, readout="pooled",
    ),
    "mae": Recipe(
        (5e-4,), 0, 1024, layer_decay=0.65, weight_decay=0.05, drop_path=0.1, mixup=0.8, cutmix=1.0,
        smoothing=0.1, randaugment=9, erasing=0.25, smallest_crop=0.08, warmup=5 / 100, min_rate=1e-6,
        ema=0.0, clip=0.0, deviation=2e-5, readout="mean",
    ),
    "deit": Recipe(
        (2.5e-4,), 0, 1024, layer_decay=1.0, weight_decay=0.05, drop_path=0.1, mixup=0.8, cutmix=1.0,
        smoothing=0.1, randaugment=9, erasing=0.25, smallest_crop=0.08, warmup=5 / 300, min_rate=1e-5,
        ema=0.0, clip=0.0, deviation=2e-5, readout="pooled",
    ),
}  # fmt: skip
"""``mae``: facebookresearch/mae, FINETUNE.md, of a ViT-B. ``deit``: DINO's, which is facebookresearch/deit's
main.py at its defaults with a head that begins near zero (facebookresearch/dino, issues 31 and 171)."""


def iterations(recipe: str, count: int, batch_size: int) -> int:
    """Return the steps of a recipe's epochs over so many images, each without its last, smaller batch."""
    steps = max(1, EPOCHS[recipe] * max(1, count // batch_size))
    return min(max(steps, FEWEST), MOST) if recipe == "short" else steps
