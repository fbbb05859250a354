"""Corruptions: how much accuracy is left when noise, blur, weather or compression spoil the images.

A head is fitted on clean training images (``linear``: DINOv2's 52 heads, chosen on held-out training
images; ``knn``: 20 neighbours) and applied unchanged to test images under 15 corruptions. An image is
resized (short side 256, bicubic), cropped to 224 and corrupted then, as in ImageNet-C. By default 200
test images, a fixed draw, at severities 1, 3 and 5: 9,200 images whatever the dataset; ``items=0`` and
``severities=1,2,3,4,5`` is the whole. ``top1@corrupted`` averages severities, then corruptions. These are
accuracies, no mCE: frost is procedural, and nothing is divided by the errors of AlexNet.

Source: Hendrycks and Dietterich 2019, arXiv:1903.12261.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from ssleval.core import (
    Context,
    Dataset,
    FeatureRequest,
    FeatureTable,
    Geometry,
    Interpolation,
    Metric,
    Readout,
    Samples,
)
from ssleval.core.registry import suggestion
from ssleval.core.task import Source, Task, refuse_one_split, tasks
from ssleval.errors import ConfigError, ContractError, DataError, NotApplicableError
from ssleval.features.corruptions import CORRUPTIONS, SEVERITIES
from ssleval.features.corruptions.dataset import CLEAN, Variant, corrupted, first_items
from ssleval.heads.knn import knn_predict
from ssleval.heads.probes import BLOCKS, LinearRecipe, fit_linear
from ssleval.metrics.stats import mean_of, ratio_of


@tasks.register("corruptions")
@dataclass(frozen=True)
class Corruptions(Task):
    """Accuracy of a clean head on corrupted images."""

    head: Literal["linear", "knn"] = "linear"
    types: tuple[str, ...] = tuple(CORRUPTIONS)
    severities: tuple[int, ...] = (1, 3, 5)
    items: int = 200
    """Test images, a fixed draw of the scored split; 0 takes all."""
    iterations: int = 0
    """Of the linear heads; 0: DINOv2's number, see the task linear."""
    held_out: float = 0.1
    """Fraction of every training class that the linear head is chosen on."""
    k: int = 20
    """Neighbours of the head knn, and the temperature of their vote."""
    temperature: float = 0.07
    resize: int = 256
    crop: int = 224
    interpolation: Interpolation = "bicubic"

    def __post_init__(self) -> None:
        """Refuse corruptions and severities that do not exist."""
        for name in self.types:
            if name not in CORRUPTIONS:
                raise ConfigError(f"corruptions: no type {name!r}; {suggestion(name, CORRUPTIONS)}")
        if not self.types or len(set(self.types)) < len(self.types):
            raise ConfigError(f"corruptions: types={self.types}; expected different ones, at least one")
        if not set(self.severities) <= set(SEVERITIES) or len(set(self.severities)) != len(self.severities):
            raise ConfigError(f"corruptions: severities={self.severities}; expected different ones of 1 to 5")
        if not self.severities or self.items < 0 or self.iterations < 0 or not 0 < self.held_out < 1:
            raise ConfigError(
                "corruptions: at least one severity, items and iterations from 0, held_out inside (0, 1)"
            )

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Mean accuracy under corruption first; clean accuracy, the relative drop and all parts."""
        parts = [*(f"severity{severity}" for severity in self.severities), *self.types]
        return (
            Metric("top1@corrupted", mean_of("corrupted")),
            Metric("top1@clean", mean_of("clean")),
            Metric("relative_drop", ratio_of("lost", "clean"), higher_is_better=False),
            *(Metric(f"top1@{part}", mean_of(part)) for part in parts),
        )

    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        """Return the clean training split and the corrupted test images.

        Raises:
            NotApplicableError: images do not have exactly one label.
            ConfigError: the two splits are one, or fewer training images than neighbours.
        """
        card = dataset.card
        if card.target != "label":
            raise NotApplicableError(
                f"corruptions needs one label per image; {card.name} has target {card.target!r}"
            )
        refuse_one_split("corruptions", card)
        if self.head == "knn" and not 1 <= self.k <= card.lengths[card.train_split]:
            count = card.lengths[card.train_split]
            raise ConfigError(f"corruptions: k={self.k} of {count} training images; --set corruptions.k=...")
        readouts = BLOCKS if self.head == "linear" else (Readout("pooled"),)
        geometry = Geometry(self.resize, "short", self.crop, self.interpolation)
        spoilt = corrupted(dataset, geometry, self._variants(), self.items)
        return (
            FeatureRequest(dataset, card.train_split, geometry, readouts),
            # Images of this split come at their final size; the crop only states it.
            FeatureRequest(spoilt, "corrupted", Geometry(None, "short", self.crop), readouts),
        )

    def evaluate(self, source: Source, dataset: Dataset, context: Context) -> Samples:
        """Fit on clean images, judge every variant; one row per test image."""
        train, test = (source.load(request) for request in self.requests(dataset))
        if train.targets is None or test.targets is None:
            raise ContractError(
                f"corruptions: {dataset.card.name} opened without the labels its card promises"
            )
        variants, card = self._variants(), dataset.card
        items = len(first_items(card.lengths[card.test_split], self.items))
        predicted = self._predict(train, test, card.num_classes, context)
        correct = np.full(len(variants) * items, np.nan)
        correct[test.rows] = predicted == test.targets
        correct = correct.reshape(len(variants), items)
        # Every variant of a damaged file is missing, so that the clean ones come first in the table too.
        whole = ~np.isnan(correct[0])
        count = int(whole.sum())
        if not count:
            raise DataError(f"corruptions: no image of {card.name}/{card.test_split} could be decoded")
        ids = [name.removeprefix("clean-0/") for name in test.ids[:count]]
        return Samples(ids, {"label": test.targets[:count], **self._columns(variants, correct[:, whole])})

    def _predict(
        self, train: FeatureTable, test: FeatureTable, num_classes: int, context: Context
    ) -> Int[np.ndarray, " n"]:
        assert train.targets is not None
        if self.head == "linear":
            recipe = LinearRecipe(self.iterations, self.held_out)
            scores = fit_linear(
                train, recipe, num_classes=num_classes, seed=context.seed, device=context.device
            )
            return scores(test).argmax(axis=1)
        pooled = Readout("pooled")
        found = knn_predict(
            train[pooled],
            train.targets,
            test[pooled],
            ks=(self.k,),
            temperature=self.temperature,
            num_classes=num_classes,
            device=context.device,
        )
        return found[self.k][:, 0]

    def _variants(self) -> tuple[Variant, ...]:
        return (CLEAN, *((name, severity) for name in self.types for severity in self.severities))

    def _columns(
        self, variants: tuple[Variant, ...], correct: Float[np.ndarray, "v n"]
    ) -> dict[str, Float[np.ndarray, " n"]]:
        """Return, for every image, how often it was right in each group of variants."""
        groups: dict[str, Bool[np.ndarray, " v"]] = {}
        for name in self.types:
            groups[name] = np.array([kind == name for kind, _ in variants])
        for severity in self.severities:
            groups[f"severity{severity}"] = np.array([strength == severity for _, strength in variants])
        columns = {name: correct[rows].mean(axis=0) for name, rows in groups.items()}
        clean, spoilt = correct[0], correct[1:].mean(axis=0)
        return {"corrupted": spoilt, "clean": clean, "lost": clean - spoilt, **columns}
