"""Robustness: a classifier of ImageNet-1k, applied unchanged to its shifted, hard and relabelled relatives.

The head is the one of `linear` by its held-out rule (DINOv2's 52 heads on imagenet1k/train, chosen on a
tenth of it), or compares the image with texts (``head=zeroshot``). On sets of 200 classes (A, R) the
logits of those classes alone compete, found by WordNet id in the set's card; of ObjectNet the largest logit
of those that stand for a class. ReaL: right if the predicted class is one of the image's labels; so is Dollar
Street, also by region and income, and among the best five. ImageNet-C: images are 224 pixels wide already, so
nothing but the central crop is applied; mCE over 15 corruptions at 5 severities by AlexNet's errors, and the
mean error. ImageNet-9: cropped alone, too; all outputs compete, and are right where they stand for the label;
accuracy on each of eight variations, and what is lost from backgrounds of the same class to those of any.
Linear heads see a bicubic resize to 256 and a crop of 224; texts the model's own geometry.

Source: Hendrycks et al. 2021 (arXiv:1907.07174, 2006.16241); Hendrycks and Dietterich 2019, arXiv:1903.12261;
Recht et al. 2019, arXiv:1902.10811; Beyer et al. 2020, arXiv:2006.07159; as in Oquab et al. 2023, table 6;
Barbu et al. 2019 (ObjectNet), Taori et al. 2020, arXiv:2007.00644 (whose classes compete); Xiao et al. 2021,
arXiv:2006.09994 (ImageNet-9); Goyal et al. 2022, arXiv:2202.07603 (groups of Dollar Street).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from ssleval.core import (
    Dataset,
    FeatureRequest,
    FeatureTable,
    Geometry,
    Interpolation,
    Metric,
    Precision,
    Readout,
    Samples,
)
from ssleval.core.settings import Count, Natural, OpenFraction
from ssleval.core.stated import stated_columns
from ssleval.core.task import Inputs, Needs, Task, tasks
from ssleval.datasets.prompts import class_prompts, pinned
from ssleval.errors import ConfigError, NotApplicableError
from ssleval.heads.linear_recipes import RECIPES
from ssleval.heads.probes import BLOCKS, Scores, fit_linear, of_classes, text_classifier
from ssleval.metrics.calibration import calibration
from ssleval.metrics.classification import both_accuracies
from ssleval.metrics.corruption import mean_corruption_error_of
from ssleval.metrics.stats import mean_of, mean_over_parts_of
from ssleval.metrics.variants import (
    HOUSEHOLDS,
    IMAGENET_9,
    IMAGENET_C,
    by_variation,
    errors_by_image,
    judged_images,
    judged_in_groups,
    published_metric,
)


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
    metric: Literal["card", "top1", "all", "real", "mce", "backgrounds", "households"] = "card"
    """What is scored; card: the set's own. ``all``: ``top1`` where all outputs of a linear head compete. Both
    score one split of ImageNet-9, ``top1`` one of ImageNet-C, see ``--split``."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Accuracy and calibration, ReaL accuracy, mCE and the mean error, or accuracy on parts of a set."""
        if self.metric == "mce":
            mce = Metric("mce", mean_corruption_error_of("wrong"), higher_is_better=False)
            return mce, Metric("mean_error", mean_of("error"), higher_is_better=False)
        if self.metric == "real":
            return (Metric("real", mean_of("real")),)
        if self.metric == "households":
            groups = ("", *(f"@{group}" for group in HOUSEHOLDS))
            names = [f"{name}{group}" for group in groups for name in ("top1", "top5")]
            return tuple(Metric(name, mean_of(name)) for name in names)
        if self.metric == "backgrounds":
            lead, others = "mixed_rand", [name for name in IMAGENET_9 if name != "mixed_rand"]
            parts = (Metric(f"top1@{name}", mean_of(f"top1@{name}")) for name in (lead, *others))
            lost = mean_over_parts_of("parted", "of_parts")
            return *parts, Metric("bg_gap", lost, higher_is_better=False)
        if self.metric == "all":
            return both_accuracies("top1", "top1")
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
        metric = self.metric if self.metric in _ALONE.get(own, ()) else own
        if self.metric not in {"card", metric}:
            raise NotApplicableError(f"{card.name} is scored by {own}, not by {self.metric}")
        if metric == "all" and self.head == "zeroshot":
            raise NotApplicableError("texts are of the set's own classes; metric=all is for head=linear")
        if metric == "all" and card.num_classes == dataset.fitted_on().card.num_classes:
            raise NotApplicableError(f"{card.name} has all classes of the head; leave out metric=all")
        splits = _TOGETHER.get(metric, (card.test_split,))
        if card.test_split != splits[0]:
            raise ConfigError(
                f"robustness: {metric} takes all {len(splits)} splits of {card.name}, not "
                f"{card.test_split!r} alone; for its accuracy --set robustness.metric={_ALONE[metric][0]}"
            )
        if self.head == "linear":
            return replace(self, metric=metric)
        templates, sha256 = pinned("robustness", card, self.templates, "dataset", self.prompts_sha256)
        return replace(self, metric=metric, templates=templates, prompts_sha256=sha256)

    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        """Return the training split of the set the head is fitted on, and what is scored."""
        splits = _TOGETHER.get(self.metric, (dataset.card.test_split,))
        if self.head == "zeroshot":
            return tuple(FeatureRequest(dataset, split, None, (Readout("pooled"),)) for split in splits)
        assert dataset.fitted_on is not None
        clean, fitted = Geometry(self.resize, "short", self.crop, self.interpolation), dataset.fitted_on()
        # Files of ImageNet-C and ImageNet-9 are 224 pixels wide: published code resizes nothing.
        small = published_metric(dataset.card) in _TOGETHER
        tested = Geometry(None, "short", self.crop) if small else clean
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
        tables, card = inputs.tables(), inputs.card
        scores = self._classifier(inputs, tables)
        # One split at a time: with damaged images features are copies in memory.
        logits = ((table, scores(table), inputs.labels(table)) for table in tables)
        if self.metric in _TOGETHER:
            judged = [judged_images(table, own.argmax(axis=1), truth) for table, own, truth in logits]
            return errors_by_image(judged, card.name) if self.metric == "mce" else by_variation(judged)
        ((table, own, truth),) = logits
        if self.metric == "households":
            return judged_in_groups(table, own, truth, card.name)
        samples = judged_images(table, own.argmax(axis=1), truth)
        # The largest of several outputs is no probability of the class that they stand for.
        errors = stated_columns(own, truth) if truth.ndim == 1 and self.metric != "all" else {}
        return replace(samples, columns={**samples.columns, **errors})

    def _classifier(self, inputs: Inputs, tables: Iterator[FeatureTable]) -> Scores:
        """Return what gives the logits of the set's classes; a linear head is fitted on the first table."""
        card = inputs.card
        if self.head == "zeroshot":
            # Texts of classes that the set lacks would be masked: they are not asked for.
            return text_classifier(inputs.backbone, class_prompts(card, self.templates))
        train, fitted, others = next(tables), inputs.requests[0].dataset.card, self.metric in _AGAINST_ALL
        head = fit_linear(train, fitted.num_classes, self.iterations, self.held_out, inputs.context)
        return lambda table: of_classes(head(table), card, fitted, others=others)


_TOGETHER = {"mce": IMAGENET_C, "backgrounds": IMAGENET_9}
"""Splits that one metric takes."""
_AGAINST_ALL = {"all", "backgrounds"}
"""Metrics of classes that compete with all other outputs of a head."""
_ALONE = {"mce": ("top1",), "backgrounds": ("all", "top1"), "top1": ("all",)}
"""By the metric of a set, others that one of its splits can be scored by."""
