"""Fine-tuning: a copy of the model and a linear layer on it, trained end to end on the labels.

AdamW, rates that grow with the batch and shrink from layer to layer towards the input, a linear warm-up from
zero, half a cosine; random crops and flips, RandAugment, erasing, mixup and cutmix, averaged weights: all by
timm's own code. ``recipe=mae`` is that of MAE's ViT-B, ``deit`` that of DINO, which took DeiT's;
``short`` is for small sets. The network after the last step is scored, on images as all tasks see them.

Of several ``learning_rates`` that is taken which does best on a stratified 10 % of the training split, fitted
without it, and then fitted on all; one at which the fit diverges is passed over. An interrupted run goes on
from a file in the cache, a minute old at most. Under ``torchrun`` processes share every batch. DeiT's
repeated augmentation is left out.

Source: He et al. 2021, arXiv:2111.06377 (FINETUNE.md of its code); Touvron et al. 2021, arXiv:2012.12877;
Caron et al. 2021, arXiv:2104.14294, app. A.
"""

from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Float
from msgspec import Meta

from ssleval.core import Dataset, FeatureRequest, Metric, Precision, RandomView, Samples, Split, digest
from ssleval.core.image_level import ImageGeometry, accuracy_kind, train_and_test
from ssleval.core.settings import (
    Different,
    Fraction,
    Natural,
    NonNegative,
    OpenFraction,
    Positive,
    ProperFraction,
)
from ssleval.core.stated import stated_columns
from ssleval.core.task import Inputs, Needs, Task, tasks
from ssleval.errors import ConfigError, DivergedError
from ssleval.features import FitImages, Live, classified_by, current_shard, trained_on
from ssleval.heads.finetune.augment import RandAugment
from ssleval.heads.finetune.learner import Learner, refuse_odd
from ssleval.heads.finetune.network import Network
from ssleval.heads.finetune.recipes import RECIPES, Recipe, iterations
from ssleval.heads.selection import hold_out
from ssleval.metrics.calibration import calibration
from ssleval.metrics.classification import both_accuracies, classified

_Own: TypeAlias = Literal["recipe"]
_Decay: TypeAlias = Annotated[float, Meta(gt=0, le=1)]
_Magnitude: TypeAlias = Annotated[int, Meta(ge=0, le=10)]


@tasks.register("finetune")
@dataclass(frozen=True)
class Finetune(ImageGeometry, Task):
    """Fine-tuning end to end."""

    needs: ClassVar[Needs] = Needs(("label",), training_split=True, gradients=True)
    recipe: Literal["short", "mae", "deit"] = "short"
    """What the settings are that are left to it, as they all are by default."""
    learning_rates: Annotated[tuple[Positive, ...], Different] = ()
    """Base rates, for a batch of 256; none: the recipe's."""
    iterations: Natural = 0
    """0: the recipe's epochs, within its bounds; the number it comes to is recorded."""
    batch_size: Natural = 0
    part: Natural = 0
    """Images that go through the network at once, mixed and normalised among themselves; gradients add up to
    those of the batch. 0: 64, or the batch where that is smaller."""
    layer_decay: _Decay | _Own = "recipe"
    """Factor of the rate from each layer to the one before it."""
    weight_decay: NonNegative | _Own = "recipe"
    drop_path: ProperFraction | _Own = "recipe"
    """Stochastic depth of the last block."""
    mixup: NonNegative | _Own = "recipe"
    """Alpha of the beta distribution; 0: none. So is that of ``cutmix``."""
    cutmix: NonNegative | _Own = "recipe"
    smoothing: ProperFraction | _Own = "recipe"
    """Of labels."""
    randaugment: _Magnitude | _Own = "recipe"
    """Magnitude, with a deviation of 0.5; 0: none."""
    erasing: Fraction | _Own = "recipe"
    """Probability that a rectangle of an image is noise."""
    smallest_crop: OpenFraction | _Own = "recipe"
    """Smallest part of an image's area that is seen."""
    warmup: ProperFraction | _Own = "recipe"
    """Fraction of the iterations."""
    min_rate: NonNegative | _Own = "recipe"
    """That the cosine ends at, in the last layer: before the factor of each other one."""
    ema: ProperFraction | _Own = "recipe"
    """Decay of the averaged weights, which are then scored, from 0 upwards in the first steps; 0: none."""
    clip: NonNegative | _Own = "recipe"
    """Largest norm of the gradients; 0: none."""
    deviation: Positive | _Own = "recipe"
    """Of the first weights of the linear layer."""
    readout: Literal["recipe", "pooled", "cls", "mean"] = "recipe"
    """What the linear layer reads; ``mean``: of the patches before the final norm, with a norm of its own."""
    held_out: OpenFraction = 0.1
    """Fraction of every training class that a rate is chosen on, of several."""
    metric: Literal["card", "top1", "mean_per_class"] = "card"
    """Card: the convention of the dataset."""

    @property
    def published_precision(self) -> Precision:  # pyright: ignore[reportIncompatibleVariableOverride]
        """MAE's and DeiT's code run under autocast to fp16."""
        return "fp32" if self.recipe == "short" else "fp16"

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Accuracy over images and over classes, the dataset's own first, and `calibration`."""
        return *both_accuracies(self.metric, "correct"), *calibration()

    def resolved(self, dataset: Dataset) -> "Finetune":
        """Return the task with what it left to recipe and dataset filled in."""
        recipe, count = RECIPES[self.recipe], dataset.card.lengths[dataset.card.train_split]
        own = {name: getattr(recipe, name) for name, value in vars(self).items() if value in ("recipe", ())}
        batch = self.batch_size or recipe.batch_size
        steps = self.iterations or iterations(self.recipe, count, batch)
        part, metric = min(self.part or 64, batch), accuracy_kind(self.metric, dataset.card)
        full = replace(self, **own, batch_size=batch, iterations=steps, part=part, metric=metric)
        refuse_odd(full.settings, part)
        if len(full.learning_rates) == 1 and self.held_out != Finetune.held_out:
            raise ConfigError(
                f"finetune: held_out={self.held_out:g} has no effect with one of learning_rates; leave it out"
            )
        return full

    @property
    def settings(self) -> Recipe:
        """The recipe with all settings of a resolved task."""
        return Recipe(**{one.name: getattr(self, one.name) for one in fields(Recipe)})

    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        """Return the training and the scored split, on whose images the task runs the model itself."""
        return train_and_test(dataset, self.geometry, ())

    def amounts(self, dataset: Dataset) -> dict[str, tuple[int, int]]:
        """Return the iterations and the scored images."""
        return {**super().amounts(dataset), "iterations": (2, self.iterations)}

    def evaluate(self, inputs: Inputs) -> Samples:
        """Choose a rate where there are several, fine-tune on the whole split, and classify."""
        train, test = (inputs.dataset.split(request.split) for request in inputs.requests)
        every, kept = (np.ones(len(train), bool), np.ones(len(test), bool)), list[Path]()
        rate = self._best_rate(inputs, train, kept)
        scores = self._scores(inputs, train, every[0], rate, test, every[1], kept)
        truth = inputs.labels(test)
        columns = classified(scores, truth) | stated_columns(scores, truth)
        if current_shard().leads:
            for path in kept:
                path.unlink(missing_ok=True)
        return Samples(test.ids, {**columns, "rate": np.full(len(test), rate)})

    def _best_rate(self, inputs: Inputs, train: Split, kept: list[Path]) -> float:
        """Return the rate that does best on images held out; one at which the fit diverges is lost."""
        rates, labels = self.learning_rates, inputs.labels(train)
        if len(rates) == 1:
            return rates[0]
        held, right = hold_out(labels, self.held_out, inputs.context.seed), dict[float, float]()
        for rate in rates:
            with suppress(DivergedError):
                scores = self._scores(inputs, train, ~held, rate, train, held, kept)
                right[rate] = float(np.mean(scores.argmax(1) == labels[held]))
        if not right:
            raise DivergedError(
                f"finetune: every rate diverges, from {min(rates):g} to {max(rates):g}; --set "
                "finetune.learning_rates= lower ones"
            )
        return max(right, key=right.__getitem__)

    def _scores(
        self, inputs: Inputs, train: Split, rows: Bool[np.ndarray, " n"], rate: float, judged: Split,
        shown: Bool[np.ndarray, "_"], kept: list[Path],
    ) -> Float[np.ndarray, "_ c"]:  # fmt: skip
        """Fine-tune on some rows at one rate; return the logits of what is shown of another split.

        The file that holds the fit is added to ``kept``: an interrupted run reads it again.
        """
        recipe, context, card = self.settings, inputs.context, inputs.backbone.card
        geometry = self.geometry or card.native_geometry()
        size = geometry.fixed_size
        if size is None:
            raise ConfigError("finetune: batches need images of one size; state resize and crop")
        view = RandomView(0, size, seed=context.seed, scale=(recipe.smallest_crop, 1.0))
        change = (
            RandAugment(recipe.randaugment, size, card.mean, context.seed) if recipe.randaugment else None
        )
        images = FitImages(
            train, np.flatnonzero(rows), (view,), [(judged, np.flatnonzero(shown))], geometry,
            self.batch_size, (self.iterations,), context.seed, self.part, new=True, changed=change,
        )  # fmt: skip
        network = Network(
            inputs.backbone, recipe.vector, inputs.card.num_classes, deviation=recipe.deviation,
            drop_path=recipe.drop_path, seed=context.seed,
        )  # fmt: skip
        learner, live = Learner(network, recipe, rate, context), Live(inputs.backbone, context)
        label = f"{inputs.card.name}, fine-tuning"
        kept.append(self._kept(inputs, images, rate))
        trained_on(live, label, images, inputs.labels(train)[rows], learner, kept[-1])
        tuned = learner.tuned
        (scores,) = classified_by(
            live, inputs.card.name, images, lambda pixels: tuned(tuned.normalised(pixels.float().div_(255)))
        )
        if not np.isfinite(scores).all():
            raise DivergedError(
                f"finetune: logits are not finite at rate {rate:g}; lower finetune.learning_rates, or choose "
                "another --precision"
            )
        return scores

    def _kept(self, inputs: Inputs, images: FitImages, rate: float) -> Path:
        """Return the file of an interrupted fit, named by all that decides the weights."""
        backbone, context = inputs.backbone, inputs.context
        decisive: list[Any] = [
            asdict(backbone.card), backbone.weights_sha256, dict(backbone.definition), self.recorded(), rate,
            images.train.subset(images.rows).fingerprint, context.recorded(), self.version,
        ]  # fmt: skip
        return context.cache / "finetune" / f"{digest(decisive)[:32]}.pt"
