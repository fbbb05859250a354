"""Robustness: a classifier of ImageNet-1k, applied unchanged to its shifted, hard and relabelled relatives.

The head is the one of `linear` by its held-out rule (DINOv2's 52 heads on imagenet1k/train, chosen on a
tenth of it), or compares the image with texts (``head=zeroshot``). On sets of 200 classes (A, R) the
logits of those classes alone compete, found by WordNet id in the set's card. ReaL: right if the
predicted class is one of the image's labels. ImageNet-C: images are 224 pixels wide already, so nothing
but the central crop is applied; mCE over 15 corruptions at 5 severities by AlexNet's errors, and the mean
error. Linear heads see a bicubic resize to 256 and a crop of 224; texts the model's own geometry.

Source: Hendrycks et al. 2021 (arXiv:1907.07174, 2006.16241); Hendrycks and Dietterich 2019, arXiv:1903.12261;
Recht et al. 2019, arXiv:1902.10811; Beyer et al. 2020, arXiv:2006.07159; as in Oquab et al. 2023, table 6.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from ssleval.core import Dataset, FeatureRequest, Geometry, Interpolation, Metric, Precision, Readout, Samples
from ssleval.core.settings import Count, Natural, OpenFraction
from ssleval.core.stated import stated_columns
from ssleval.core.task import Inputs, Needs, Task, tasks
from ssleval.datasets.prompts import class_prompts, pinned
from ssleval.errors import ConfigError, NotApplicableError
from ssleval.heads.linear_recipes import RECIPES
from ssleval.heads.probes import BLOCKS, class_places, fit_linear, text_classifier
from ssleval.metrics.calibration import calibration
from ssleval.metrics.classification import both_accuracies
from ssleval.metrics.corruption import mean_corruption_error_of
from ssleval.metrics.stats import mean_of
from ssleval.metrics.variants import IMAGENET_C, errors_by_image, judged_images, published_metric


@tasks.register("robustness")
@dataclass(frozen=True)
class Robustness(Task):
    """A classifier of ImageNet-1k on its shifted, hard and relabelled relatives."""

    head: Literal["linear", "zeroshot"] = "linear"
    iterations: Natural = 0
    """Of the linear heads; 0: DINOv2's number, see the task linear."""
    held_out: OpenFraction = 0.1
    """Fraction of every training class that the linear head is chosen on."""
    resize: Count = 256
    """Of the linear heads, but for ImageNet-C; texts go with the model's own geometry."""
    crop: Count = 224
    interpolation: Interpolation = "bicubic"
    templates: str = "dataset"
    """Of the texts: a set of templates, or a file with one a line; ``dataset``: ImageNet's 80."""
    prompts_sha256: str = ""
    """Hash of all texts, filled in and recorded; texts of another hash than given are refused."""
    metric: Literal["card", "top1", "real", "mce"] = "card"
    """What is scored; card: the set's own. ``top1`` on ImageNet-C scores one split, see ``--split``."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Accuracy and calibration, ReaL accuracy, or mCE and the mean error."""
        if self.metric == "mce":
            mce = Metric("mce", mean_corruption_error_of("wrong"), higher_is_better=False)
            return mce, Metric("mean_error", mean_of("error"), higher_is_better=False)
        if self.metric == "real":
            return (Metric("real", mean_of("real")),)
        return *both_accuracies("top1", "top1"), *calibration(correct="top1")

    published_precision: ClassVar[Precision] = "fp16"
    """Of `linear` by DINOv2's recipe, and of `zeroshot`."""

    @property
    def needs(self) -> Needs:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Labels, and a text tower where texts are compared."""
        return Needs(("label", "multilabel"), text_tower=self.head == "zeroshot")

    def resolved(self, dataset: Dataset) -> "Robustness":
        """Return the task with the set's metric, and with texts and their hash where they are compared."""
        card, own = dataset.card, published_metric(dataset.card)
        if dataset.fitted_on is None:
            raise NotApplicableError(f"heads of {card.name} are fitted on its own images; see corruptions")
        metric = self.metric if (self.metric, own) == ("top1", "mce") else own
        if self.metric not in {"card", metric}:
            raise NotApplicableError(f"{card.name} is scored by {own}, not by {self.metric}")
        if metric == "mce" and card.test_split != IMAGENET_C[0]:
            raise ConfigError(
                f"robustness: mCE takes all {len(IMAGENET_C)} splits of {card.name}, not "
                f"{card.test_split!r} alone; for its accuracy --set robustness.metric=top1"
            )
        if self.head == "linear":
            return replace(self, metric=metric)
        templates, sha256 = pinned("robustness", card, self.templates, "dataset", self.prompts_sha256)
        return replace(self, metric=metric, templates=templates, prompts_sha256=sha256)

    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        """Return the training split of the set the head is fitted on, and what is scored."""
        splits = IMAGENET_C if self.metric == "mce" else (dataset.card.test_split,)
        if self.head == "zeroshot":
            return tuple(FeatureRequest(dataset, split, None, (Readout("pooled"),)) for split in splits)
        assert dataset.fitted_on is not None
        clean, fitted = Geometry(self.resize, "short", self.crop, self.interpolation), dataset.fitted_on()
        # Files of ImageNet-C are 224 pixels wide: published code crops them and resizes nothing.
        tested = Geometry(None, "short", self.crop) if published_metric(dataset.card) == "mce" else clean
        train = FeatureRequest(fitted, fitted.card.train_split, clean, BLOCKS)
        return (train, *(FeatureRequest(dataset, split, tested, BLOCKS) for split in splits))

    def amounts(self, dataset: Dataset) -> dict[str, tuple[int, int]]:
        """Return the scored images, and the iterations of a linear head."""
        if self.head == "zeroshot":
            return super().amounts(dataset)
        assert dataset.fitted_on is not None
        fitted = dataset.fitted_on().card
        steps, _ = RECIPES["dinov2"].length(fitted.lengths[fitted.train_split], self.iterations)
        return {**super().amounts(dataset), "iterations": (1, steps)}

    def evaluate(self, inputs: Inputs) -> Samples:
        """Fit once, apply to everything scored; one row per image."""
        tables = inputs.tables()
        if self.head == "zeroshot":
            # Texts of classes that the set lacks would be masked: they are not asked for.
            prompts, places = class_prompts(inputs.card, self.templates), slice(None)
            scores = text_classifier(inputs.backbone, prompts)
        else:
            train, fitted = next(tables), inputs.requests[0].dataset.card
            scores = fit_linear(train, fitted.num_classes, self.iterations, self.held_out, inputs.context)
            places = class_places(inputs.card, fitted)
        # One split at a time: with damaged images features are copies in memory.
        logits = ((table, scores(table)[:, places], inputs.labels(table)) for table in tables)
        if self.metric == "mce":
            judged = (judged_images(table, own.argmax(axis=1), truth) for table, own, truth in logits)
            return errors_by_image(list(judged), inputs.card.name)
        ((table, own, truth),) = logits
        samples = judged_images(table, own.argmax(axis=1), truth)
        errors = stated_columns(own, truth) if truth.ndim == 1 else {}
        return replace(samples, columns={**samples.columns, **errors})
