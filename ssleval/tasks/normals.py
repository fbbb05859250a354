"""Surface normals: how much of a scene's shape can be read off patch tokens?

Every patch token, before the final norm, with the class token of its block beside it; `lin1` reads the last
block, `lin4` the ends of the four quarters of the model. `head=linear` is batch normalisation and a 1x1
convolution, `head=dpt` probe3d's convolutional head on the four blocks.
Four numbers for every pixel, a vector and its concentration, trained with the uncertainty-weighted angular
loss and AdamW on stored tokens of images squashed to 448 x 448, without augmentation, at pixels drawn from
every map. Scored at the resolution of the maps, image by image: the fractions of pixels less than 11.25, 22.5
and 30 degrees off, and the root mean square of angles; means over images.

Source: El Banani et al. 2024, arXiv:2404.08636, sec. 3.1; Bae et al. 2021, arXiv:2109.09881; Fouhey et al.
2013.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ssleval.core import Dataset, Metric, Samples
from ssleval.core.image_level import SquareImages, fitting_amounts
from ssleval.core.settings import Count, NonNegative, Positive, ProperFraction
from ssleval.core.task import Inputs, Needs, Task, tasks
from ssleval.heads.dense.grid import Fit, channels_of, outputs_of
from ssleval.heads.dense.labelled import labelled
from ssleval.heads.dense.normals import OUTPUTS, fit_normals, normal_map
from ssleval.heads.dense.quarters import QuarterFields
from ssleval.metrics.normals import ERRORS, angular_errors
from ssleval.metrics.stats import mean_of


@tasks.register("normals")
@dataclass(frozen=True)
class Normals(QuarterFields, SquareImages, Task):
    """Surface normals on frozen patch tokens."""

    needs: ClassVar[Needs] = Needs(("normals",), training_split=True)
    iterations: Count = 1000
    batch_size: Count = 16
    learning_rate: Positive = 1e-3
    weight_decay: NonNegative = 0.01
    warmup: ProperFraction = 0.15
    """Fraction of the iterations: 1.5 of 10 epochs in probe3d."""
    pixels: Count = 256
    """Pixels drawn from every image of a batch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.refuse_idle("normals")

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Shares of pixels below angles, and RMSE in degrees; means over images."""
        return tuple(
            Metric(name, mean_of(name), name != "rmse", "degrees" if name == "rmse" else "fraction")
            for name in ERRORS
        )

    def amounts(self, dataset: Dataset) -> dict[str, tuple[int, int]]:
        """Return the iterations, and the images of both splits."""
        return {**super().amounts(dataset), **fitting_amounts(dataset, self.iterations, self.batch_size)}

    def evaluate(self, inputs: Inputs) -> Samples:
        """Fit the head on the training split; one row of shares and RMSE per scored image."""
        train, test = labelled(inputs)
        channels, seed = channels_of(train.grids), inputs.context.seed
        head = self.unfitted(channels, OUTPUTS, normalise=True, seed=seed)
        fitted = fit_normals(head, train.examples, Fit.of(self), inputs.context)
        errors: list[tuple[float, ...]] = []
        for row, outputs in enumerate(outputs_of(fitted, test.grids, len(test.ids))):
            normals = test.targets(row)
            height, width, _ = normals.shape
            errors.append(angular_errors(normal_map(outputs, (height, width)).cpu().numpy(), normals))
        return Samples(test.ids, dict(zip(ERRORS, np.array(errors).T, strict=True)))
