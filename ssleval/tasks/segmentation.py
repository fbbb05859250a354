"""Semantic segmentation: how much of a scene can be read off single patch tokens by a linear head.

The head of DINOv2: batch normalisation and a 1x1 convolution on frozen patch tokens, logits upsampled
bilinearly to the mask, cross-entropy averaged over all pixels (ignored ones add nothing), AdamW, a
linear warm-up and decay. `lin` reads the last block, `ms` the last four, concatenated.
``protocol=fast`` trains on stored tokens of images squashed to 448 x 448, without augmentation, on
pixels drawn at random from every mask. ``protocol=paper`` runs the backbone on augmented crops of 512
pixels for 40,000 iterations, and slides such a window over test images of that short side; `ms` does so
at 640 pixels, five scales and both ways round. Scored at the resolution of the masks: mean IoU of
intersections and unions summed over the split, over the classes that occur in masks or are predicted.

Source: Oquab et al. 2023, arXiv:2304.07193, sec. 7.4 and app. B; dinov2/eval/segmentation.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Literal, cast

import numpy as np
from jaxtyping import Int, Int64, UInt8

from ssleval.core import Context, Dataset, FeatureRequest, Geometry, Interpolation, Metric, Readout, Samples
from ssleval.core.backbone import Backbone
from ssleval.core.task import Source, Task, refuse_one_split, tasks
from ssleval.errors import ConfigError, NotApplicableError
from ssleval.features.decode import decoded_batches
from ssleval.features.live import live_patches
from ssleval.features.progress import progress
from ssleval.features.readouts import canonical
from ssleval.heads.dense.augment import Augmentation
from ssleval.heads.dense.crops import Batch, Crops, fit_on_crops
from ssleval.heads.dense.grid import Fit, batches, grids_of, outputs_of, targets_of
from ssleval.heads.dense.recipe import PUBLISHED, Choice, PaperFields
from ssleval.heads.dense.segmentation import classes_at, fit_classes
from ssleval.heads.dense.windows import classes_of_views
from ssleval.metrics.segmentation import confusion, overlap
from ssleval.metrics.stats import mean_ratio_of, ratio_of


@tasks.register("segmentation")
@dataclass(frozen=True)
class Segmentation(PaperFields, Task):
    """Linear segmentation on frozen patch tokens."""

    version = 2

    protocol: Literal["fast", "paper"] = "fast"
    inputs: Literal["lin", "ms"] = "lin"
    """The last block, or the last four, after the model's final norm."""
    size: int = 0
    """Pixels of both sides (fast; 448, a multiple of every usual patch size), or of the short one (paper)."""
    interpolation: Choice = "protocol"
    iterations: int = 0
    batch_size: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    warmup: float = 0.0375
    """Fraction of the iterations: 1,500 of 40,000 in the paper."""
    pixels: int = 0
    """Pixels drawn from every image of a batch (fast; 2,048). The paper's loss takes all of them."""

    def __post_init__(self) -> None:
        """Refuse settings that no run could honour, or that the protocol would not read."""
        paper = self.protocol == "paper"
        idle = {"pixels": 0} if paper else {one.name: one.default for one in fields(PaperFields)}
        for name, default in idle.items():
            if getattr(self, name) != default:
                raise ConfigError(
                    f"segmentation: {name}={getattr(self, name)} has no effect with protocol={self.protocol}"
                )
        if not 0 <= self.warmup < 1:
            raise ConfigError(f"segmentation: warmup={self.warmup}; expected a fraction from 0 to below 1")
        full = self._published()
        full._how()
        if paper:
            full._augmentation()
            if not 1 <= full.stride <= full.crop or min(full.test_ratios) <= 0:
                raise ConfigError(
                    f"segmentation: stride={full.stride} for windows of crop={full.crop}, test_ratios="
                    f"{full.test_ratios}; windows must touch, and ratios be positive"
                )

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Mean IoU, mean accuracy of classes, and accuracy of pixels."""
        return (
            Metric("mean_iou", mean_ratio_of("intersection", "union")),
            Metric("mean_accuracy", mean_ratio_of("intersection", "area")),
            Metric("pixel_accuracy", ratio_of("correct", "labelled")),
        )

    def resolved(self, dataset: Dataset) -> "Segmentation":  # noqa: ARG002
        """Return the task with the published values where it has none of its own."""
        return self._published()

    def check(self, backbone: Backbone) -> None:
        """Refuse a model of fewer blocks."""
        for readout in self._readouts():
            canonical(readout, backbone)

    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        """Return the patch grids of the training and of the scored split; for the paper the splits alone.

        Raises:
            NotApplicableError: the target is no mask of classes.
            ConfigError: the two splits are one.
        """
        card = dataset.card
        if card.target != "mask":
            raise NotApplicableError(
                f"segmentation needs a mask of classes; {card.name} has target {card.target!r}"
            )
        refuse_one_split("segmentation", card)
        splits = (card.train_split, card.test_split)
        if self.protocol == "paper":
            return tuple(FeatureRequest(dataset, split, None, ()) for split in splits)
        full = self._published()
        geometry = Geometry(full.size, "square", None, full._filter())
        return tuple(FeatureRequest(dataset, split, geometry, self._readouts()) for split in splits)

    def evaluate(self, source: Source, dataset: Dataset, context: Context) -> Samples:
        """Fit the head on the training split; one row of pixel counts per scored image."""
        full = self._published()
        return (full._on_crops if self.protocol == "paper" else full._on_tokens)(source, dataset, context)

    def _on_tokens(self, source: Source, dataset: Dataset, context: Context) -> Samples:
        first, second = self.requests(dataset)
        train, test = source.load(first), source.load(second)
        head = fit_classes(
            grids_of(train, first.readouts, context.device),
            targets_of(dataset, first.split, train.rows),
            len(train.ids),
            self._how(),
            **self._fitting(dataset, context),
        )
        outputs = outputs_of(head, grids_of(test, second.readouts, context.device), len(test.ids))
        found = (partial(classes_at, logits) for logits in outputs)
        return _judged(found, test.ids, test.rows, dataset)

    def _on_crops(self, source: Source, dataset: Dataset, context: Context) -> Samples:
        backbone, card = source.backbone, dataset.card
        train, test = dataset.split(card.train_split), dataset.split(card.test_split)
        patches_of = live_patches(backbone, self._readouts(), context)
        rows = np.stack(list(batches(len(train), self.batch_size, self.iterations, context.seed)))
        crops = Crops(train, rows, self._augmentation(), backbone.card.mean, context.seed)
        label = f"{backbone.card.name} on crops of {card.name}"
        with progress(label, rows.size, 0, show=context.progress) as advance:
            head = fit_on_crops(
                patches_of,
                _counted(decoded_batches(crops, range(len(crops)), context), advance),
                self._how(),
                channels=backbone.card.embed_dim * len(self._readouts()),
                **self._fitting(dataset, context),
            )

        def classes(row: int, size: tuple[int, int]) -> UInt8[np.ndarray, "H W"]:
            return classes_of_views(
                lambda pixels: head(patches_of(pixels)),
                test.image(row),
                size,
                shorts=[int(self.size * ratio) for ratio in self.test_ratios],
                mirrored=self.test_flip == "yes",
                crop=self.crop,
                stride=self.stride,
                interpolation=self._filter(),
                device=context.device,
            )

        found = (partial(classes, row) for row in range(len(test)))
        return _judged(found, test.ids, np.arange(len(test)), dataset)

    def _published(self) -> "Segmentation":
        absent = (0, (), "protocol")
        published = PUBLISHED[self.protocol, self.inputs].items()
        changes = {name: value for name, value in published if getattr(self, name) in absent}
        return replace(self, **changes) if changes else self

    def _readouts(self) -> tuple[Readout, ...]:
        return tuple(Readout("patches", block) for block in ((-1,) if self.inputs == "lin" else range(-4, 0)))

    def _filter(self) -> Interpolation:
        return cast("Interpolation", self.interpolation)

    def _how(self) -> Fit:
        return Fit(self.iterations, self.batch_size, self.learning_rate, self.weight_decay, self.pixels)

    def _augmentation(self) -> Augmentation:
        return Augmentation(
            self.size, self.ratios, self.crop, self.cat_max_ratio, self.flip, self.distortion, self._filter()
        )

    def _fitting(self, dataset: Dataset, context: Context) -> dict[str, Any]:
        return {
            "num_classes": dataset.card.num_classes,
            "warmup": round(self.warmup * self.iterations),
            "seed": context.seed,
            "device": context.device,
        }


def _judged(
    found: Iterable[Callable[[tuple[int, int]], UInt8[np.ndarray, "H W"]]],
    ids: Sequence[str],
    rows: Int[np.ndarray, " n"],
    dataset: Dataset,
) -> Samples:
    """Return the pixel counts of images, from functions that give their classes at the size of the mask."""
    truth = targets_of(dataset, dataset.card.test_split, rows)
    counts: list[Int64[np.ndarray, "c c"]] = []
    for row, classes in enumerate(found):
        mask = truth(row)
        counts.append(confusion(classes(mask.shape), mask, dataset.card.num_classes))
    return Samples(ids, overlap(counts))


def _counted(stream: Iterable[Batch], advance: Callable[[int], None]) -> Iterator[Batch]:
    for images, masks in stream:
        yield images, masks
        advance(len(images))
