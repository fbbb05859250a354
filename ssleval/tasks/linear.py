"""Linear classification: the best linear classifier on frozen features, over a grid of 52.

The protocol of DINOv2's ``eval/linear.py`` on stored features: of the images as they are, or of ``views``
random crops and flips of each (published runs draw a new one every epoch). Inputs are class tokens of the
last 1 or 4 blocks (of a model with fewer: all), with or without the mean patch of the last. Each input has a
head for each of 13 base learning rates. All heads see the same batches: SGD (momentum 0.9, no weight decay),
weights drawn from N(0, 0.01), biases zero, learning rate base * batch / 256, falling to zero by a cosine.

Every head is fitted twice: on the training split without a stratified 10 %, and on all of it. For
``top1@heldout``, which leads, the head is chosen by the first fit on that 10 %, and the second is scored.
``top1@paper`` is what papers print: the best head on the scored split itself. ``recipe=dino`` and
``recipe=mae`` change inputs, rates and schedule (``heads/linear_recipes.py``), and nothing else.

Source: Oquab et al. 2023, arXiv:2304.07193, app. B.3; Caron et al. 2021; He et al. 2021, app. A.1.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from ssleval.core import Dataset, FeatureRequest, Metric, Precision, Readout, Samples
from ssleval.core.image_level import random_views, train_and_test
from ssleval.core.settings import Natural
from ssleval.core.task import Inputs, Needs, Task, tasks
from ssleval.errors import ConfigError
from ssleval.heads.linear_recipes import BLOCKS, RECIPES
from ssleval.heads.probes import GridFields
from ssleval.metrics.classification import both_by_rules, chosen_by_rules

_FEWER: dict[str, int] = {"blocks3": 3, "blocks2": 2, "blocks1": 1}


@tasks.register("linear")
@dataclass(frozen=True)
class Linear(GridFields, Task):
    """Linear heads trained by gradient descent."""

    needs: ClassVar[Needs] = Needs(("label",), training_split=True)
    recipe: Literal["dinov2", "dino", "mae"] = "dinov2"
    inputs: Literal["blocks", "blocks3", "blocks2", "blocks1", "pooled"] = "blocks"
    """Class tokens and mean patch as the recipe says; the same of so many last blocks, where the model has no
    four; or the model's own descriptor alone, where it has no class token."""
    views: Natural = 0
    """Augmented views of every image that heads are fitted on, drawn by ``views_seed``; 0: the images."""
    views_seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.recipe == "mae" and self.inputs in _FEWER:
            raise ConfigError(
                f"linear: inputs={self.inputs} has no effect with recipe=mae, which reads one block"
            )

    @property
    def published_precision(self) -> Precision:  # pyright: ignore[reportIncompatibleVariableOverride]
        """DINOv2's (eval/setup.py) and MAE's linear probes run under autocast to fp16, DINO's does not."""
        return "fp32" if self.recipe == "dino" else "fp16"

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The accuracy by both rules of choosing the head, then the one over classes, or over items."""
        return both_by_rules(self.metric)

    def resolved(self, dataset: Dataset) -> "Linear":
        """Return the task with what it left to recipe and dataset filled in."""
        return self.filled(RECIPES[self.recipe], dataset.card)

    def suited(self, gives: Callable[[Readout], bool]) -> "Linear":
        """Return the task on the blocks that the model has, or on its descriptor if it has no class token."""
        if self.inputs != "blocks" or all(map(gives, self._readouts)):
            return self
        fewer = (replace(self, inputs=inputs) for inputs in _FEWER if self.recipe != "mae")
        fitting = (task for task in fewer if all(map(gives, task._readouts)))
        return next(fitting, replace(self, inputs="pooled"))

    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        """Return the training and the scored split, then the views of the former."""
        train, test = train_and_test(dataset, self.geometry, self._readouts)
        drawn = self.views, self.crop, self.views_seed, RECIPES[self.recipe].view_interpolation
        return train, test, *random_views(train, *drawn)

    def amounts(self, dataset: Dataset) -> dict[str, tuple[int, int]]:
        """Return the iterations and the scored images."""
        return {**super().amounts(dataset), "iterations": (1, self.iterations)}

    def evaluate(self, inputs: Inputs) -> Samples:
        """Fit all heads twice, without and with the held-out images, and choose by both rules."""
        tables, readouts = list(inputs.tables()), inputs.requests[0].readouts
        judged = self.tried_and_final(RECIPES[self.recipe], readouts, tables, inputs)
        return Samples(tables[1].ids, chosen_by_rules(self.metric, *judged, "head"))

    @property
    def _readouts(self) -> tuple[Readout, ...]:
        if self.inputs == "pooled":
            return (Readout("pooled"),)
        return BLOCKS[-_FEWER[self.inputs] - 1 :] if self.inputs in _FEWER else RECIPES[self.recipe].readouts
