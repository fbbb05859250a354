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
from ssleval.core.image_level import train_and_test
from ssleval.core.settings import Count
from ssleval.core.task import Inputs, Needs, Task, tasks
from ssleval.errors import ConfigError
from ssleval.heads.linear_recipes import BLOCKS, RECIPES
from ssleval.heads.probes import GridFields
from ssleval.metrics.classification import both_by_rules, chosen_by_rules


@tasks.register("video_classification")
@dataclass(frozen=True)
class VideoClassification(GridFields, Task):
    """Linear heads on the frames of clips."""

    needs: ClassVar[Needs] = Needs(("clips",), training_split=True)
    published_precision = "fp16"
    frames: Count = 8
    fusion: Literal["mean", "concat"] = "mean"
    """What heads see of the features of frames: their mean, or all of them in order."""
    inputs: Literal["blocks", "pooled"] = "blocks"
    """Class tokens of the last four blocks and the mean patch, as in `linear`; or the model's own descriptor,
    where it has no class token."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The accuracy by both rules of choosing the head, then the one over classes, or over clips."""
        return both_by_rules(self.metric)

    def resolved(self, dataset: Dataset) -> "VideoClassification":
        """Return the task with what it left to the dataset filled in."""
        return self.filled(RECIPES["dinov2"], dataset.card)

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
        clips = inputs.dataset.split(inputs.card.train_split), inputs.test_split
        tables = [self._fused(table, own) for table, own in zip(inputs.tables(), clips, strict=True)]
        judged = self.tried_and_final(RECIPES["dinov2"], self._readouts, tables, inputs)
        return Samples(tables[1].ids, chosen_by_rules(self.metric, *judged, "head"))

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
