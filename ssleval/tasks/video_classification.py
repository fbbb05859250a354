"""Video classification: linear classifiers on the frames of a clip, each seen by itself.

Of every clip 8 frames are taken, from the middles of as many equal parts, at one size. Their features are
averaged, or with `fusion=concat` put side by side in order, which tells what moves where. On them the grid of
`linear` is fitted twice, and a head is chosen on held-out training clips (``top1@heldout``, which leads) or
on the scored split itself (``top1@paper``), as there. Papers average on Kinetics-400 and UCF101 and
concatenate on Something-Something v2.

Source: Oquab et al. 2023, arXiv:2304.07193, sec. 7.2 and table 7.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Float

from ssleval.core import Dataset, FeatureRequest, FeatureTable, Metric, Readout, Samples, Split
from ssleval.core.clips import frames_of
from ssleval.core.image_level import ImageGeometry, accuracy_kind, train_and_test
from ssleval.core.settings import Count, Natural, OpenFraction, Positive
from ssleval.core.task import Inputs, Needs, Task, tasks
from ssleval.errors import ConfigError
from ssleval.heads.linear_recipes import BLOCKS, RECIPES
from ssleval.heads.probes import GridFit
from ssleval.heads.selection import hold_out
from ssleval.metrics.classification import both_by_rules, chosen_by_rules


@tasks.register("video_classification")
@dataclass(frozen=True)
class VideoClassification(ImageGeometry, Task):
    """Linear heads on the frames of clips."""

    needs: ClassVar[Needs] = Needs(("clips",), training_split=True)
    published_precision = "fp16"
    frames: Count = 8
    fusion: Literal["mean", "concat"] = "mean"
    """What heads see of the features of frames: their mean, or all of them in order."""
    inputs: Literal["blocks", "pooled"] = "blocks"
    """Class tokens of the last four blocks and the mean patch, as in `linear`; or the model's own descriptor,
    where it has no class token."""
    learning_rates: tuple[Positive, ...] = ()
    """Base rates for a batch of 256; none: those of `linear`."""
    iterations: Natural = 0
    """0: 10 epochs, at least 500 and at most 12,500; the number it comes to is recorded."""
    batch_size: Natural = 0
    """0: 1,024, or the largest power of two within an eighth of a small training set."""
    held_out: OpenFraction = 0.1
    """Fraction of every training class that heads are chosen on."""
    metric: Literal["card", "top1", "mean_per_class"] = "card"
    """Card: the convention of the dataset."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The accuracy by both rules of choosing the head, then the one over classes, or over clips."""
        return both_by_rules(self.metric)

    def resolved(self, dataset: Dataset) -> "VideoClassification":
        """Return the task with what it left to the dataset filled in."""
        recipe, count = RECIPES["dinov2"], dataset.card.lengths[dataset.card.train_split]
        steps, batch = recipe.length(count, self.iterations, self.batch_size)
        rates, metric = self.learning_rates or recipe.rates, accuracy_kind(self.metric, dataset.card)
        return replace(self, learning_rates=rates, batch_size=batch, iterations=steps, metric=metric)

    def suited(self, gives: Callable[[Readout], bool]) -> "VideoClassification":
        """Return the task on the model's descriptor where it lacks a class token or four blocks."""
        return self if all(map(gives, self._readouts)) else replace(self, inputs="pooled")

    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        """Return the frames of the training split and of the scored one."""
        return train_and_test(frames_of(dataset, self.frames), self.geometry, self._readouts)

    def amounts(self, dataset: Dataset) -> dict[str, tuple[int, int]]:
        """Return the iterations and the scored clips."""
        return {**super().amounts(dataset), "iterations": (1, self.iterations)}

    def evaluate(self, inputs: Inputs) -> Samples:
        """Fit all heads twice, without and with the held-out clips, and choose by both rules."""
        card, dataset = inputs.card, inputs.dataset
        train_clips, test_clips = dataset.split(card.train_split), inputs.test_split
        train, test = (
            self._fused(table, clips)
            for table, clips in zip(inputs.tables(), (train_clips, test_clips), strict=True)
        )
        labels, truth = inputs.labels(train_clips), inputs.labels(test_clips)
        held = hold_out(labels, self.held_out, inputs.context.seed)
        schedule = self.learning_rates, self.iterations, self.batch_size
        fit = GridFit(RECIPES["dinov2"], self._readouts, *schedule, card.num_classes, inputs.context)
        tried = fit.predictions([train], labels, ~held, train, held)
        final = fit.predictions([train], labels, held | True, test, np.ones(len(truth), bool))
        columns = chosen_by_rules(self.metric, (tried, labels[held]), (final, truth), "head")
        return Samples(test.ids, columns)

    def _fused(self, table: FeatureTable, clips: Split) -> FeatureTable:
        """Return one row per clip; a clip of which a frame is missing is refused."""
        if len(table.ids) != len(clips) * self.frames:
            raise ConfigError(
                "video_classification: frames cannot be left out; run it without --skip-corrupt"
            )

        def fused(frames: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "n c"]:
            each = frames.reshape(len(clips), self.frames, -1)
            if self.fusion == "mean":
                return each.mean(axis=1, dtype=np.float32)
            return each.reshape(len(clips), -1)

        arrays = {readout: fused(array) for readout, array in table.arrays.items()}
        return FeatureTable(clips.ids, clips.targets, arrays, np.arange(len(clips)))

    @property
    def _readouts(self) -> tuple[Readout, ...]:
        return (Readout("pooled"),) if self.inputs == "pooled" else BLOCKS
