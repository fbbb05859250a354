"""Monocular depth: how much of a scene's geometry can a linear head read off patch tokens.

The head of DINOv2: every patch token, before the final norm, with the class token of its block beside
it; one 1x1 convolution to 256 logits; metres are the mean of 256 even bins, weighted by rectified
logits, on a grid four times finer than the patches. `lin1` reads the last block, `lin4` the ends of the
four quarters of the model. Trained with the scale-invariant SigLoss and AdamW on stored tokens of
images squashed to 448 x 448, without augmentation, at pixels drawn from every map. Scored at the
resolution of the maps, image by image: predictions of the image and of its mirror image, averaged.
Which pixels count (Eigen's crop, unknown depth) is said by the dataset.

Source: Oquab et al. 2023, arXiv:2304.07193, sec. 7.4 and app. B; Eigen et al. 2014.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float

from ssleval.core import (
    Context,
    Dataset,
    FeatureRequest,
    Geometry,
    Interpolation,
    Metric,
    Readout,
    Samples,
)
from ssleval.core.task import Source, Task, refuse_one_split, tasks
from ssleval.errors import ConfigError, NotApplicableError
from ssleval.heads.dense.depth import UNCENTRED, Bins, depth_map, fit_depth
from ssleval.heads.dense.grid import Fit, LinearHead, Targets, grids_of, outputs_of, targets_of
from ssleval.metrics.depth import ERRORS, depth_errors
from ssleval.metrics.stats import mean_of

_UNITS = {"rmse": "m", "sq_rel": "m", "log10": "log10", "rmse_log": "log", "silog": "1/100 log"}


@tasks.register("depth")
@dataclass(frozen=True)
class Depth(Task):
    """Linear depth on frozen patch tokens."""

    version = 2

    inputs: Literal["lin1", "lin4"] = "lin1"
    """The last block, or the last of every quarter, before the model's final norm."""
    class_token: bool = True
    """Whether the class token stands beside every patch token, as in DINOv2."""
    size: int = 448
    """Both sides in pixels; a multiple of every usual patch size (14, 16, 28, 32)."""
    interpolation: Interpolation = "bicubic"
    flip: bool = True
    """Average with the prediction for the mirror image."""
    min_depth: float = 0.001
    max_depth: float = 0.0
    """Metres of the first and of the last bin, between which depth is scored; 0: the dataset's."""
    bins: int = 256
    upsample: int = 4
    """How much finer than the patches the grid is on which bins are mixed."""
    iterations: int = 1000
    batch_size: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup: float = 1 / 3
    """Fraction of the iterations: 12,800 of 38,400 in the published recipe."""
    clip: float = 35.0
    """Largest norm of the gradient."""
    pixels: int = 256
    """Pixels drawn from every image of a batch."""

    def __post_init__(self) -> None:
        """Refuse settings that no run could honour."""
        self._how()
        if self.iterations <= UNCENTRED:
            raise ConfigError(
                f"depth: iterations={self.iterations}; in the first {UNCENTRED} the loss is of the mean "
                "alone, ask for more"
            )
        if not 0 <= self.warmup < 1:
            raise ConfigError(f"depth: warmup={self.warmup}; expected a fraction from 0 to below 1")
        if self.bins < 2 or self.upsample < 1 or not self.min_depth > 0:
            raise ConfigError(
                f"depth: bins={self.bins}, upsample={self.upsample}, min_depth={self.min_depth}; needs two "
                "bins, an upsampling of at least 1 and a positive depth"
            )

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The usual errors, RMSE first; means over images."""
        return tuple(
            Metric(name, mean_of(name), name.startswith("delta"), _UNITS.get(name, "fraction"))
            for name in ERRORS
        )

    def resolved(self, dataset: Dataset) -> "Depth":
        """Return the task with the depth that the dataset is fitted up to."""
        farthest = self.max_depth or dataset.card.max_depth
        if dataset.card.target == "depth" and not farthest > self.min_depth:
            raise ConfigError(
                f"depth: {dataset.card.name} is fitted from {self.min_depth} to {farthest} m; set "
                "--set depth.max_depth to the largest depth that counts"
            )
        return replace(self, max_depth=farthest)

    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        """Return patch grids of the training and of the scored split, and of the latter's mirror images.

        Raises:
            NotApplicableError: the target is not depth.
            ConfigError: the two splits are one.
        """
        card = dataset.card
        if card.target != "depth":
            raise NotApplicableError(f"depth needs metres; {card.name} has target {card.target!r}")
        refuse_one_split("depth", card)
        geometry = Geometry(self.size, "square", None, self.interpolation)
        views = [(card.train_split, geometry), (card.test_split, geometry)]
        if self.flip:
            views.append((card.test_split, replace(geometry, flip=True)))
        readouts = self._readouts()
        return tuple(FeatureRequest(dataset, split, view, readouts) for split, view in views)

    def evaluate(self, source: Source, dataset: Dataset, context: Context) -> Samples:
        """Fit the head on the training split; one row of errors per scored image."""
        task = self.resolved(dataset)
        bins = Bins(task.min_depth, task.max_depth, task.bins, task.upsample)
        first, *views = task.requests(dataset)
        train = source.load(first)
        head = fit_depth(
            grids_of(train, first.readouts, context.device),
            targets_of(dataset, first.split, train.rows),
            len(train.ids),
            self._how(),
            bins,
            warmup=round(self.warmup * self.iterations),
            seed=context.seed,
            device=context.device,
        )
        test = source.load(views[0])
        truth = targets_of(dataset, views[0].split, test.rows)
        maps = zip(*(_maps(source, view, head, bins, truth, context) for view in views), strict=True)
        rows = [
            depth_errors(np.mean(both, axis=0), truth(row), nearest=bins.nearest, farthest=bins.farthest)
            for row, both in enumerate(maps)
        ]
        return Samples(test.ids, dict(zip(ERRORS, np.array(rows).T, strict=True)))

    def _readouts(self) -> tuple[Readout, ...]:
        kinds = ("patches", "cls") if self.class_token else ("patches",)
        quarters = (0,) if self.inputs == "lin1" else (1, 2, 3, 4)
        return tuple(Readout(kind, -1, False, quarter) for quarter in quarters for kind in kinds)

    def _how(self) -> Fit:
        return Fit(
            self.iterations, self.batch_size, self.learning_rate, self.weight_decay, self.pixels, self.clip
        )


def _maps(
    source: Source, view: FeatureRequest, head: LinearHead, bins: Bins, truth: Targets, context: Context
) -> Iterator[Float[np.ndarray, "H W"]]:
    """Yield metres for the images of a view at the size of their targets, mirrored back where need be."""
    table = source.load(view)
    outputs = outputs_of(head, grids_of(table, view.readouts, context.device), len(table.ids))
    for row, logits in enumerate(outputs):
        metres = depth_map(logits, bins, truth(row).shape).cpu().numpy()
        yield metres[:, ::-1] if isinstance(view.geometry, Geometry) and view.geometry.flip else metres
