"""Corruptions: how much accuracy is left when noise, blur, weather or compression spoil the images.

A head is fitted on clean training images (``linear``: DINOv2's 52 heads, chosen on held-out training
images; ``knn``: 20 neighbours) and applied unchanged to test images under 15 corruptions. An image is
resized (short side 256, bicubic), cropped to 224 and corrupted then, as in ImageNet-C. By default 200
test images, a fixed draw, at severities 1, 3 and 5: 9,200 images whatever the dataset; ``items=0`` and
``severities=1,2,3,4,5`` is the whole. ``top1@corrupted`` averages severities, then corruptions. These are
accuracies, no mCE: frost is procedural, and nothing is divided by the errors of AlexNet.

Source: Hendrycks and Dietterich 2019, arXiv:1903.12261.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Annotated, ClassVar, Literal

import numpy as np
from jaxtyping import Shaped
from msgspec import Meta

from ssleval.core import Dataset, FeatureRequest, Geometry, Interpolation, Metric, Readout, Samples
from ssleval.core.registry import suggestion
from ssleval.core.settings import Count, Distinct, Natural, OpenFraction, Positive
from ssleval.core.stated import stated_of
from ssleval.core.task import Inputs, Needs, Task, tasks
from ssleval.errors import ConfigError, DataError, NotApplicableError
from ssleval.features.corruptions import CORRUPTIONS
from ssleval.features.corruptions.dataset import CLEAN, Variant, corrupted
from ssleval.heads.knn import knn_predict
from ssleval.heads.linear_recipes import RECIPES
from ssleval.heads.probes import BLOCKS, fit_linear
from ssleval.metrics.calibration import calibration
from ssleval.metrics.stats import mean_of, ratio_of
from ssleval.metrics.variants import accuracy_columns, by_variant

POOLED = Readout("pooled")


@tasks.register("corruptions")
@dataclass(frozen=True)
class Corruptions(Task):
    """Accuracy of a clean head on corrupted images."""

    needs: ClassVar[Needs] = Needs(("label",), training_split=True)
    head: Literal["linear", "knn"] = "linear"
    types: Annotated[tuple[str, ...], Distinct] = tuple(CORRUPTIONS)
    severities: Annotated[tuple[Annotated[int, Meta(ge=1, le=5)], ...], Distinct] = (1, 3, 5)
    items: Natural = 200
    """Test images, a fixed draw of the scored split; 0 takes all."""
    iterations: Natural = 0
    """Of the linear heads; 0: DINOv2's number, see the task linear."""
    held_out: OpenFraction = 0.1
    """Fraction of every training class that the linear head is chosen on."""
    k: Count = 20
    """Neighbours of the head knn, and the temperature of their vote."""
    temperature: Positive = 0.07
    resize: Count = 256
    crop: Count = 224
    interpolation: Interpolation = "bicubic"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.types:
            if name not in CORRUPTIONS:
                raise ConfigError(f"corruptions: no type {name!r}; {suggestion(name, CORRUPTIONS)}")

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Mean accuracy under corruption first; clean accuracy, the relative drop, all parts, calibration."""
        parts = [*(f"severity{severity}" for severity in self.severities), *self.types]
        stated_of = ("corrupted", "clean") if self.head == "linear" else ()
        return (
            Metric("top1@corrupted", mean_of("corrupted")),
            Metric("top1@clean", mean_of("clean")),
            Metric("relative_drop", ratio_of("lost", "clean"), higher_is_better=False),
            *(Metric(f"top1@{part}", mean_of(part)) for part in parts),
            *chain.from_iterable(calibration(f"@{name}", "right") for name in stated_of),
        )

    def resolved(self, dataset: Dataset) -> "Corruptions":
        """Return the task; more neighbours than there are training images are refused."""
        count = dataset.card.lengths[dataset.card.train_split]
        if self.head == "knn" and self.k > count:
            raise ConfigError(f"corruptions: k={self.k} of {count} training images; --set corruptions.k=...")
        return self

    def suited(self, gives: Callable[[Readout], bool]) -> "Corruptions":
        """Return the task; a linear head is refused where the model lacks what it sees."""
        if self.head == "linear" and not all(map(gives, BLOCKS)):
            raise NotApplicableError(
                "the model lacks the class tokens of four blocks, which the linear head sees; --set "
                "corruptions.head=knn"
            )
        return self

    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        """Return the clean training split and the corrupted test images."""
        readouts = BLOCKS if self.head == "linear" else (POOLED,)
        geometry = Geometry(self.resize, "short", self.crop, self.interpolation)
        spoilt = corrupted(dataset, geometry, self._variants, self.items)
        return (
            FeatureRequest(dataset, dataset.card.train_split, geometry, readouts),
            # Images of this split come at their final size; the crop only states it.
            FeatureRequest(spoilt, "corrupted", Geometry(None, "short", self.crop), readouts),
        )

    def amounts(self, dataset: Dataset) -> dict[str, tuple[int, int]]:
        """Return the clean images, and the iterations of a linear head."""
        card = dataset.card
        count = card.lengths[card.test_split]
        scored = {"test": (1, min(self.items or count, count))}
        if self.head == "knn":
            return scored
        steps, _ = RECIPES["dinov2"].length(card.lengths[card.train_split], self.iterations)
        return {**scored, "iterations": (1, steps)}

    def evaluate(self, inputs: Inputs) -> Samples:
        """Fit on clean images, judge every variant; one row per test image."""
        train, test = inputs.tables()
        card, context, labels = inputs.card, inputs.context, inputs.labels(test)
        answers: Shaped[np.ndarray, " m"] | None = None
        if self.head == "linear":
            head = fit_linear(train, card.num_classes, self.iterations, self.held_out, context)
            answers = stated_of(head(test), labels)
            predicted = answers["class"]
        else:
            vote = partial(knn_predict, ks=(self.k,), temperature=self.temperature, device=context.device)
            known, classes = inputs.labels(train), card.num_classes
            predicted = vote(train[POOLED], known, test[POOLED], num_classes=classes)[self.k][:, 0]
        images = inputs.requests[1].dataset.card.lengths["corrupted"] // len(self._variants)
        correct = by_variant(predicted == labels, test.rows, len(self._variants), images)
        if not (count := correct.shape[1]):
            raise DataError(f"corruptions: no image of {card.name}/{card.test_split} could be decoded")
        columns = accuracy_columns(correct, self._variants)
        if answers is not None:
            values = (answers[name] for name in ("confidence", "nll"))
            sure, loss = (by_variant(one, test.rows, len(correct), images) for one in values)
            for name, own in (("clean", slice(1)), ("corrupted", slice(1, None))):
                columns[f"right@{name}"], columns[f"confidence@{name}"] = correct[own].T, sure[own].T
                columns[f"nll@{name}"] = loss[own].mean(axis=0)
        # The clean images come first; every variant of a damaged file is missing.
        ids = [name.removeprefix("clean-0/") for name in test.ids[:count]]
        return Samples(ids, {"label": labels[:count], **columns})

    @property
    def _variants(self) -> tuple[Variant, ...]:
        return (CLEAN, *((name, severity) for name in self.types for severity in self.severities))
