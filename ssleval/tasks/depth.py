"""Monocular depth: how much of a scene's geometry can a head read off patch tokens.

The linear head of DINOv2: every patch token, before the final norm, with the class token of its block beside
it; one 1x1 convolution to 256 logits; metres are the mean of 256 even bins, weighted by rectified
logits, on a grid four times finer than the patches. `lin1` reads the last block, `lin4` the ends of the
four quarters of the model. `head=dpt` has probe3d's convolutional head on these four in place of the 1x1
convolution. Trained with the scale-invariant SigLoss and AdamW on stored tokens of
images squashed to 448 x 448, without augmentation, at pixels drawn from every map. Scored at the
resolution of the maps, image by image: predictions of the image and of its mirror image, averaged.
Which pixels count (Eigen's crop, unknown depth) is said by the dataset.

Source: Oquab et al. 2023, arXiv:2304.07193, sec. 7.4 and app. B; Eigen et al. 2014; El Banani et al. 2024,
arXiv:2404.08636.
"""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np
from msgspec import Meta

from ssleval.core import Dataset, FeatureRequest, Metric, Samples
from ssleval.core.image_level import SquareImages, fitting_amounts, fitting_set
from ssleval.core.settings import Count, NonNegative, Positive, ProperFraction
from ssleval.core.task import Inputs, Needs, Task, refuse_dataset, tasks
from ssleval.errors import ConfigError
from ssleval.heads.dense.depth import UNCENTRED, Bins, fit_bins
from ssleval.heads.dense.dpt import FINER
from ssleval.heads.dense.grid import Fit, channels_of
from ssleval.heads.dense.labelled import depth_maps, labelled
from ssleval.heads.dense.quarters import QuarterFields
from ssleval.metrics.depth import ERRORS, depth_errors
from ssleval.metrics.stats import mean_of

_UNITS = {"rmse": "m", "sq_rel": "m", "log10": "log10", "rmse_log": "log", "silog": "1/100 log"}


@tasks.register("depth")
@dataclass(frozen=True)
class Depth(QuarterFields, SquareImages, Task):
    """Depth on frozen patch tokens."""

    version = 2
    needs: ClassVar[Needs] = Needs(("depth",))
    flip: bool = True
    """Average with the prediction for the mirror image."""
    min_depth: Positive = 0.001
    max_depth: NonNegative = 0.0
    """Metres of the first and of the last bin, between which depth is scored; 0: the dataset's."""
    bins: Annotated[int, Meta(ge=2)] = 256
    upsample: Count = 4
    """How much finer than the patches the grid is on which bins are mixed by ``head=linear``."""
    iterations: Annotated[int, Meta(gt=UNCENTRED)] = 1000
    """More than the first 100, in which the loss is of the mean alone."""
    batch_size: Count = 16
    learning_rate: Positive = 1e-3
    weight_decay: NonNegative = 0.01
    warmup: ProperFraction = 1 / 3
    """Fraction of the iterations: 12,800 of 38,400 in the published recipe."""
    clip: NonNegative = 35.0
    """Largest norm of the gradient."""
    pixels: Count = 256
    """Pixels drawn from every image of a batch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.refuse_idle("depth", upsample=Depth.upsample)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The usual errors, RMSE first; means over images."""
        units = {name: _UNITS.get(name, "fraction") for name in ERRORS}
        return tuple(Metric(name, mean_of(name), name.startswith("delta"), units[name]) for name in ERRORS)

    def resolved(self, dataset: Dataset) -> "Depth":
        """Return the task with the depth that heads are fitted up to; refuse data without training images."""
        card = fitting_set(dataset).card
        refuse_dataset("depth", Needs(training_split=True), card)
        farthest = self.max_depth or card.max_depth
        if not farthest > self.min_depth:
            raise ConfigError(
                f"depth: {card.name} is fitted from {self.min_depth} to {farthest} m; set "
                "--set depth.max_depth to the largest depth that counts"
            )
        return replace(self, max_depth=farthest)

    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        """Return patch grids of the training and of the scored split, and of the latter's mirror images."""
        fitted = fitting_set(dataset)
        train = FeatureRequest(fitted, fitted.card.train_split, self.geometry, self.readouts)
        test = FeatureRequest(dataset, dataset.card.test_split, self.geometry, self.readouts)
        mirrored = replace(test, geometry=replace(self.geometry, flip=True))
        return (train, test, mirrored) if self.flip else (train, test)

    def amounts(self, dataset: Dataset) -> dict[str, tuple[int, int]]:
        """Return the iterations, and the images of both splits."""
        fitting = fitting_amounts(dataset, self.iterations, self.batch_size, UNCENTRED + 1)
        return {**super().amounts(dataset), **fitting}

    def evaluate(self, inputs: Inputs) -> Samples:
        """Fit the head on the training split; one row of errors per scored image."""
        train, test, *mirrored = labelled(inputs)
        finer = self.upsample if self.head == "linear" else 16 // FINER
        bins = Bins(self.min_depth, self.max_depth, self.bins, finer)
        channels, seed = channels_of(train.grids), inputs.context.seed
        unfitted = self.unfitted(channels, self.bins, normalise=False, seed=seed)
        head = fit_bins(unfitted, train.examples, Fit.of(self), bins, inputs.context)
        maps = depth_maps(head, (test, *mirrored), bins)
        depths = {"nearest": self.min_depth, "farthest": self.max_depth}
        # A set that is only tested may cut depth nearer than heads were fitted up to, predictions as well.
        transferred = inputs.requests[0].dataset is not inputs.dataset
        cut = inputs.card.max_depth if transferred else self.max_depth
        errors = [
            depth_errors(np.minimum(metres, cut), test.targets(row), **depths)
            for row, metres in enumerate(maps)
        ]
        return Samples(test.ids, dict(zip(ERRORS, np.array(errors).T, strict=True)))
