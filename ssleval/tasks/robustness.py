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

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import product
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Int

from ssleval.core import (
    Context,
    Dataset,
    DatasetCard,
    FeatureRequest,
    FeatureTable,
    Geometry,
    Interpolation,
    Metric,
    Readout,
    Samples,
    digest,
)
from ssleval.core.backbone import Backbone
from ssleval.core.corruptions import CORRUPTIONS, SEVERITIES
from ssleval.core.image_level import labels_of
from ssleval.core.task import Source, Task, tasks
from ssleval.datasets.prompts import class_prompts, templates_for
from ssleval.errors import ConfigError, DataError, NotApplicableError
from ssleval.heads.probes import BLOCKS, LinearRecipe, fit_linear, text_classifier
from ssleval.metrics.corruption import mean_corruption_error_of
from ssleval.metrics.stats import mean_of

Predict: TypeAlias = Callable[[FeatureTable], Int[np.ndarray, " n"]]
"""Classes, in the numbering of the scored set."""

_VARIANTS = tuple(f"{name}-{severity}" for name, severity in product(CORRUPTIONS, SEVERITIES))
"""Splits of ImageNet-C."""


@tasks.register("robustness")
@dataclass(frozen=True)
class Robustness(Task):
    """A classifier of ImageNet-1k on its shifted, hard and relabelled relatives."""

    head: Literal["linear", "zeroshot"] = "linear"
    iterations: int = 0
    """Of the linear heads; 0: DINOv2's number, see the task linear."""
    held_out: float = 0.1
    """Fraction of every training class that the linear head is chosen on."""
    resize: int = 256
    """Of the linear heads, but for ImageNet-C; texts go with the model's own geometry."""
    crop: int = 224
    interpolation: Interpolation = "bicubic"
    templates: str = "dataset"
    """Of the texts: a set of templates, or a file with one a line; ``dataset``: ImageNet's 80."""
    prompts_sha256: str = ""
    """Hash of all texts, filled in and recorded; texts of another hash than given are refused."""
    metric: Literal["card", "top1", "real", "mce"] = "card"
    """What is scored; card: the set's own. ``top1`` on ImageNet-C scores one split, see ``--split``."""

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        if self.iterations < 0 or not 0 < self.held_out < 1:
            raise ConfigError("robustness: iterations from 0, held_out inside (0, 1)")

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Accuracy, ReaL accuracy, or mCE and the mean error."""
        if self.metric == "mce":
            return (
                Metric("mce", mean_corruption_error_of("wrong"), higher_is_better=False),
                Metric("mean_error", mean_of("error"), higher_is_better=False),
            )
        name = "real" if self.metric == "real" else "top1"
        return (Metric(name, mean_of(name)),)

    def resolved(self, dataset: Dataset) -> "Robustness":
        """Return the task with the set's metric, and with texts and their hash where they are compared.

        Raises:
            ConfigError: texts of another hash than asked for, or one split chosen of the 75 of mCE.
            NotApplicableError: the metric asked for is not one of the set.
        """
        if dataset.fitted_on is None:
            return self
        task = replace(self, metric=_metric(self.metric, dataset.card))
        return task._worded(dataset.card) if self.head == "zeroshot" else task

    def check(self, backbone: Backbone) -> None:
        """Refuse a model without a text tower where texts are compared."""
        if self.head == "zeroshot":
            backbone.similarity()

    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        """Return the training split of the set the head is fitted on, and what is scored.

        Raises:
            NotApplicableError: the dataset names no other whose heads are applied to it.
            DataError: that one is absent, and a head must be fitted.
        """
        if dataset.fitted_on is None:
            raise NotApplicableError(
                f"robustness: heads of {dataset.card.name} are fitted on its own images; this is for "
                "imagenet_v2, _a, _r, _sketch, _real and _c; for any other set see the task corruptions"
            )
        if self.head == "zeroshot":
            return self._scored(dataset, None, (Readout("pooled"),))
        clean, fitted = Geometry(self.resize, "short", self.crop, self.interpolation), dataset.fitted_on()
        # Files of ImageNet-C are 224 pixels wide: published code crops them and resizes nothing.
        tested = Geometry(None, "short", self.crop) if _is_corrupted(dataset.card) else clean
        train = FeatureRequest(fitted, fitted.card.train_split, clean, BLOCKS)
        return (train, *self._scored(dataset, tested, BLOCKS))

    def evaluate(self, source: Source, dataset: Dataset, context: Context) -> Samples:
        """Fit once, apply to everything scored; one row per image."""
        task = self.resolved(dataset)
        requests = task.requests(dataset)
        if task.head == "zeroshot":
            predict = task._by_texts(source, dataset.card)
        else:
            predict, requests = task._by_head(source, requests[0], dataset.card, context), requests[1:]
        # One split at a time: with damaged images features are copies in memory.
        judged = [_judged(source.load(request), predict, dataset) for request in requests]
        return _by_image(judged, dataset.card) if task.metric == "mce" else judged[0]

    def _scored(
        self, dataset: Dataset, geometry: Geometry | None, readouts: tuple[Readout, ...]
    ) -> tuple[FeatureRequest, ...]:
        every = _metric(self.metric, dataset.card) == "mce"
        splits = _VARIANTS if every else (dataset.card.test_split,)
        return tuple(FeatureRequest(dataset, split, geometry, readouts) for split in splits)

    def _by_head(
        self, source: Source, request: FeatureRequest, card: DatasetCard, context: Context
    ) -> Predict:
        fitted, recipe = request.dataset.card, LinearRecipe(self.iterations, self.held_out)
        places = _places(card, fitted)
        scores = fit_linear(
            source.load(request),
            recipe,
            num_classes=fitted.num_classes,
            seed=context.seed,
            device=context.device,
        )
        return lambda table: scores(table)[:, places].argmax(axis=1)

    def _by_texts(self, source: Source, card: DatasetCard) -> Predict:
        # Texts of classes that the set lacks would be masked: they are not asked for.
        scores = text_classifier(source.backbone, class_prompts(card, self.templates))
        return lambda table: scores(table).argmax(axis=1)

    def _worded(self, card: DatasetCard) -> "Robustness":
        templates = templates_for(card) if self.templates == "dataset" else self.templates
        found = digest(class_prompts(card, templates))
        if self.prompts_sha256 not in {"", found}:
            raise ConfigError(
                f"robustness: texts of {card.name} have sha256 {found}, not {self.prompts_sha256}"
            )
        return replace(self, templates=templates, prompts_sha256=found)


def _metric(asked: str, card: DatasetCard) -> Literal["top1", "real", "mce"]:
    """Return the metric of the set, or the one asked for if the set has it."""
    if card.target == "multilabel":
        own = "real"
    elif _is_corrupted(card):
        own = "mce"
    else:
        own = "top1"
    if asked == "top1" and own == "mce":
        return "top1"
    if asked not in {"card", own}:
        raise NotApplicableError(f"robustness: {card.name} is scored by {own}, not by {asked}")
    if own == "mce" and card.test_split != _VARIANTS[0]:
        raise ConfigError(
            f"robustness: mCE takes all {len(_VARIANTS)} splits of {card.name}, not "
            f"{card.test_split!r} alone; for its accuracy --set robustness.metric=top1"
        )
    return own


def _is_corrupted(card: DatasetCard) -> bool:
    return set(card.lengths) == set(_VARIANTS)


def _places(card: DatasetCard, fitted: DatasetCard) -> Int[np.ndarray, " c"]:
    """Return where the outputs of a head of ``fitted`` are that stand for the classes of ``card``.

    Raises:
        DataError: the head has no such class.
    """
    known = {name: place for place, name in enumerate(fitted.class_names)}
    # V2 numbers its folders by ImageNet's label; all others call them by WordNet id.
    known |= {str(place): place for place in range(fitted.num_classes)}
    strange = [name for name in card.class_names if name not in known]
    if strange:
        raise DataError(
            f"{card.name}: {strange[0]!r} is none of the {fitted.num_classes} classes of {fitted.name}, "
            "which the head was fitted on"
        )
    return np.array([known[name] for name in card.class_names], dtype=np.int64)


def _judged(table: FeatureTable, predict: Predict, dataset: Dataset) -> Samples:
    """Return what was predicted for every image, whether it is right, and its ``row`` of the split."""
    predicted, truth = predict(table), labels_of(table, dataset)
    columns = {"row": table.rows, "predicted": predicted}
    if truth.ndim > 1:
        return Samples(table.ids, {**columns, "real": truth[np.arange(len(truth)), predicted]})
    return Samples(table.ids, {**columns, "label": truth, "top1": predicted == truth})


def _by_image(judged: Sequence[Samples], card: DatasetCard) -> Samples:
    """Return one row per image that could be decoded in all of its 75 variants."""
    _refuse_other_images(judged, card)
    kept = reduce(np.intersect1d, [samples["row"] for samples in judged])
    if not len(kept):
        raise DataError(f"robustness: no image of {card.name} could be decoded in all its variants")
    places = [np.searchsorted(samples["row"], kept) for samples in judged]
    right = np.stack([samples["top1"][place] for samples, place in zip(judged, places, strict=True)], axis=1)
    wrong = ~right.reshape(len(kept), len(CORRUPTIONS), len(SEVERITIES))
    first, rows = judged[0], places[0]
    columns = {"label": first["label"][rows], "wrong": wrong, "error": wrong.mean(axis=(1, 2))}
    return Samples([first.ids[int(row)] for row in rows], columns)


def _refuse_other_images(judged: Sequence[Samples], card: DatasetCard) -> None:
    """Refuse splits in which row i is not the same image."""
    names: dict[int, str] = {}
    for variant, samples in zip(_VARIANTS, judged, strict=True):
        for row, name in zip(samples["row"].tolist(), samples.ids, strict=True):
            if names.setdefault(row, name) != name:
                raise DataError(
                    f"{card.name}/{variant}: image {name} where other splits have {names[row]}; "
                    "the copy is not the published one"
                )
