"""Detection: are things told apart, boxed and outlined by single patch tokens?

A linear head at one scale, batch normalisation and a 1x1 convolution, on the last block's patch tokens, final
norm. Images are squashed to 448 x 448, without augmentation. A patch whose centre is in a box answers
for it, of several for the smallest. It learns classes by the focal loss (prior 0.01) and, by GIoU, the
distances to the sides, in patches, as exponentials. Where the set has masks, it learns a map for each class
by cross-entropy at points of the true boxes (RoIAlign), which is read inside the boxes that are found. AdamW,
linear warm-up, half a cosine. Detections: scores above 0.05, non-maximum suppression in each class at an IoU
of 0.5, the 100 surest. Difficult objects and crowds are not fitted on, and count neither way.
Scored by pycocotools in pixels of the image: AP50 and AP (IoUs 0.5 to 0.95), of boxes and masks. Beside them
the same of perfect patches: for every object that has a patch its box, and the union of patches that fits its
mask best.

Source: turhancan97/VisBench, tasks/high_level/detection.py; Tian et al. 2019, arXiv:1904.01355 (FCOS).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain, product
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from ssleval.core import Dataset, FeatureRequest, Metric, Samples
from ssleval.core.image_level import PATCHES, SquareImages, fitting_amounts
from ssleval.core.settings import Count, Fraction, NonNegative, OpenFraction, Positive, ProperFraction
from ssleval.core.targets import Objects
from ssleval.core.task import Inputs, Needs, Task, tasks
from ssleval.errors import ConfigError, ContractError, NotApplicableError
from ssleval.heads.dense.detection import Losses, best_patches, decoded, fit_detector, masks_in, owning
from ssleval.heads.dense.grid import Fit, grids_of, outputs_of
from ssleval.metrics.detection import Detections, coco_metrics, matches, padded


@tasks.register("detection")
@dataclass(frozen=True)
class Detection(SquareImages, Task):
    """Boxes and masks of objects, from frozen patch tokens."""

    score: Literal["target", "boxes", "masks"] = "target"
    """Masks are fitted and scored beside boxes where the set has them, or boxes alone."""
    iterations: Count = 1000
    batch_size: Count = 16
    learning_rate: Positive = 0.01
    weight_decay: NonNegative = 1e-4
    warmup: ProperFraction = 0.15
    """Fraction of the iterations: 1.5 epochs of 10 in VisBench."""
    alpha: OpenFraction = 0.25
    """Weight of objects in the focal loss."""
    gamma: NonNegative = 2.0
    """Power of the focal loss."""
    prior: OpenFraction = 0.01
    """Score of every class before the first step."""
    box_weight: NonNegative = 2.0
    """Of the loss of boxes, beside that of classes and of masks."""
    points: Count = 14
    """Along each side of a true box, at which masks are fitted; stated for masks alone."""
    threshold: Fraction = 0.05
    """Lowest score of a detection."""
    nms: Fraction = 0.5
    """Intersection over union from which on only the surest box of a class is kept."""
    most: Count = 100
    """Detections in an image."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.score == "boxes" and self.points != Detection.points:
            raise ConfigError(f"detection: points={self.points} has no effect with score=boxes; leave it out")

    @property
    def needs(self) -> Needs:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Boxes to fit on and to score, and their masks where these are asked for."""
        return Needs(("objects",) if self.score == "masks" else ("objects", "boxes"), training_split=True)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """AP50 and AP of boxes, then of masks, then of perfect patches."""
        kinds = ("", "mask_") if self.score == "masks" else ("",)
        return tuple(chain.from_iterable(coco_metrics(*pair) for pair in product(("", "bound_"), kinds)))

    def resolved(self, dataset: Dataset) -> "Detection":
        """Return the task with the kind of score filled in."""
        masks = dataset.card.target == "objects"
        return replace(self, score="masks" if masks else "boxes") if self.score == "target" else self

    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        """Return the patch grids of the training and of the scored split."""
        if not dataset.card.num_classes:
            raise NotApplicableError(f"detection needs classes of objects; {dataset.card.name} states none")
        return super().requests(dataset)

    def amounts(self, dataset: Dataset) -> dict[str, tuple[int, int]]:
        """Return the iterations, and the images of both splits."""
        return {**super().amounts(dataset), **fitting_amounts(dataset, self.iterations, self.batch_size)}

    def evaluate(self, inputs: Inputs) -> Samples:
        """Fit the head on the training split; one row of detections and matches per scored image."""
        (train, test), card, context = inputs.tables(), inputs.card, inputs.context
        known, asked = (
            _objects(inputs.dataset, split, table.rows)
            for split, table in ((card.train_split, train), (card.test_split, test))
        )
        losses = Losses(self.alpha, self.gamma, self.box_weight, self.points if self.score == "masks" else 0)
        readers = [grids_of(table, (PATCHES,), context.device) for table in (train, test)]
        head = fit_detector(
            readers[0], known, len(train.ids), card.num_classes, Fit.of(self), losses, self.prior, context
        )
        outputs = outputs_of(head, readers[1], len(test.ids))
        rows = [self._judged(one, asked(row), card.num_classes) for row, one in enumerate(outputs)]
        names = {name: -1 if name.endswith("labels") else 0 for name in rows[0]}
        columns = {name: padded([row[name] for row in rows], fill) for name, fill in names.items()}
        return Samples(test.ids, columns)

    def _judged(
        self, outputs: Float[Tensor, "o h w"], objects: Objects, classes: int
    ) -> dict[str, np.ndarray]:
        """Return what one image adds to each column."""
        found = self._found(outputs, objects, classes)
        best = self._best(objects, *outputs.shape[1:])
        return {
            **self._columns("", objects, found, classes),
            **self._columns("bound_", objects, best, classes),
        }

    def _columns(self, side: str, objects: Objects, found: Detections, classes: int) -> dict[str, np.ndarray]:
        columns: dict[str, np.ndarray] = {f"{side}scores": found.scores, f"{side}labels": found.labels}
        kinds: tuple[tuple[Literal["bbox", "segm"], str], ...] = (("bbox", ""), ("segm", "mask_"))
        for kind, name in kinds:
            if kind == "bbox" or self.score == "masks":
                matched = matches(objects, found, classes, kind)
                columns["objects"] = matched.pop("objects")
                columns |= {f"{side}{name}{column}": values for column, values in matched.items()}
        return columns

    def _found(self, outputs: Float[Tensor, "o h w"], objects: Objects, classes: int) -> Detections:
        found = decoded(outputs, classes, self.threshold, self.nms, self.most)
        boxes, scores, labels = (part.cpu().numpy() for part in found)
        pixels = boxes.astype(np.float64) * [*objects.size[::-1], *objects.size[::-1]]
        maps = outputs[classes + 4 :]
        masks = masks_in(maps, pixels, labels, objects.size) if self.score == "masks" else None
        return Detections(pixels, scores, labels, masks)

    def _best(self, objects: Objects, height: int, width: int) -> Detections:
        """Return the detections of perfect patches."""
        rows = owning(objects, height, width)
        boxes, labels = objects.boxes[rows], objects.labels[rows]
        if self.score == "boxes" or objects.masks is None:
            return Detections(boxes, np.ones(len(rows)), labels)
        scores, masks = best_patches(objects.masks[rows], boxes, height, width)
        order = np.argsort(-scores, kind="stable")
        return Detections(boxes[order], scores[order], labels[order], masks[order])


def _objects(dataset: Dataset, split: str, rows: Int[np.ndarray, " n"]) -> Callable[[int], Objects]:
    """Return a reader of the objects in the images at ``rows`` of a split, which it numbers from zero."""
    load = dataset.split(split).target

    def objects(row: int) -> Objects:
        target = load and load(int(rows[row]))
        if not isinstance(target, Objects):
            raise ContractError(f"{dataset.card.name}/{split} opened without the objects its card promises")
        return target

    return objects
