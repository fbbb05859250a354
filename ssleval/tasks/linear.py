"""Linear classification: the best linear classifier on frozen features, over a grid of 52.

The protocol of DINOv2's ``eval/linear.py`` on stored features: of the images as they are, or of ``views``
random crops and flips of each (published runs draw a new one every epoch). Inputs are class tokens of the
last 1 or 4 blocks, with or without the mean patch of the last; each has a head for each of 13 learning
rates, all trained jointly: SGD (momentum 0.9, no decay), cosine to zero, lr = base * batch / 256.
``top1@heldout`` leads: the head is chosen on a stratified 10 % of the training split by heads fitted on
the rest, and the head of that place fitted on all of it is scored. ``top1@paper`` is what the papers
print: the best head on the scored split itself. ``recipe=dino`` and ``recipe=mae`` change settings only.

Source: Oquab et al. 2023, arXiv:2304.07193, app. B.3; Caron et al. 2021; He et al. 2021, app. A.1.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int

from ssleval.core import (
    Context,
    Dataset,
    FeatureRequest,
    Interpolation,
    Metric,
    Readout,
    Samples,
)
from ssleval.core.image_level import ImageGeometry, labels_of, random_views, same_rows, train_and_test
from ssleval.core.task import Source, Task, tasks
from ssleval.errors import ConfigError, NotApplicableError
from ssleval.heads.linear import HeadGrid, Rows, Training, fit_heads
from ssleval.heads.probes import BLOCKS, RATES, block_columns, table_rows
from ssleval.heads.selection import hold_out
from ssleval.metrics.stats import mean_of, mean_per_class_of


@dataclass(frozen=True, slots=True)
class _Recipe:
    rates: tuple[float, ...]
    batch_size: int
    portion: int
    """The batch holds at most this part of the training set (8: an eighth)."""
    epochs: int
    fewest: int
    """Iterations on small sets, where the epochs would be too few steps to converge."""
    most: int = 1_000_000
    by_epoch: bool = False
    """The rate changes once an epoch, and the best epoch counts, not the last."""
    warmup_epochs: int = 0
    optimizer: Literal["sgd", "lars"] = "sgd"
    standardise: bool = False
    view_interpolation: Interpolation = "bicubic"


_RECIPES = {
    "dinov2": _Recipe(RATES, 1024, 8, epochs=10, fewest=500, most=12_500),
    "dino": _Recipe((1e-3,), 1024, 8, epochs=100, fewest=2_000, by_epoch=True, view_interpolation="bilinear"),
    "mae": _Recipe(
        (0.1,), 16_384, 1, epochs=90, fewest=2_000, warmup_epochs=10, optimizer="lars", standardise=True
    ),
}


@tasks.register("linear")
@dataclass(frozen=True)
class Linear(ImageGeometry, Task):
    """Linear heads trained by gradient descent."""

    recipe: Literal["dinov2", "dino", "mae"] = "dinov2"
    inputs: Literal["blocks", "pooled"] = "blocks"
    """Class tokens and mean patch as the recipe says, or the model's own descriptor alone."""
    learning_rates: tuple[float, ...] = ()
    """Base rates for a batch of 256; none: the recipe's."""
    iterations: int = 0
    """0: the recipe's epochs, within its bounds; the number it comes to is recorded."""
    batch_size: int = 0
    """0: the recipe's, or the largest power of two within an eighth (mae: all) of a small training set."""
    held_out: float = 0.1
    """Fraction of every training class that heads are chosen on."""
    views: int = 0
    """Heads are fitted on this many augmented views of every image, stored like other features; 0: on the
    images themselves. Held-out and scored images are never augmented."""
    views_seed: int = 0
    """Which views are drawn."""
    metric: Literal["card", "top1", "mean_per_class"] = "card"
    """Card: the convention of the dataset."""

    def __post_init__(self) -> None:
        """Refuse settings that no run could honour."""
        if min(self.iterations, self.batch_size) < 0 or not all(rate > 0 for rate in self.learning_rates):
            raise ConfigError(
                "linear: iterations and batch_size must be positive, or 0; learning_rates positive"
            )
        if not 0 < self.held_out < 1:
            raise ConfigError(f"linear: held_out={self.held_out}; expected a fraction between 0 and 1")
        if self.views < 0 or (self.views and self.preprocessing == "card"):
            raise ConfigError(
                f"linear: views={self.views}, preprocessing={self.preprocessing}; expected views >= 0, and "
                "none with preprocessing=card, whose size the protocol does not know"
            )

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The score by both rules of choosing the head."""
        if self.metric == "mean_per_class":
            return tuple(
                Metric(f"mean_per_class@{rule}", mean_per_class_of(f"correct@{rule}", "label"))
                for rule in ("heldout", "paper")
            )
        return tuple(Metric(f"top1@{rule}", mean_of(f"correct@{rule}")) for rule in ("heldout", "paper"))

    def resolved(self, dataset: Dataset) -> "Linear":
        """Return the task with what it left to recipe and dataset filled in."""
        recipe, card = _RECIPES[self.recipe], dataset.card
        count = card.lengths.get(card.train_split, 0)
        fitting = 1 << (max(16, count // recipe.portion).bit_length() - 1)
        batch_size = self.batch_size or min(recipe.batch_size, fitting)
        steps = recipe.epochs * count // batch_size
        metric = self.metric if self.metric != "card" else card.metric
        if metric == "map":
            raise NotApplicableError(f"linear: {card.name} is scored by mAP; use the task logreg")
        return replace(
            self,
            learning_rates=self.learning_rates or recipe.rates,
            batch_size=batch_size,
            iterations=self.iterations or min(max(steps, recipe.fewest), recipe.most),
            metric=metric,
        )

    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        """Return the training and the scored split, then the views of the former.

        Raises:
            NotApplicableError: images do not have exactly one label.
            ConfigError: the two splits are one.
        """
        train, test = train_and_test("linear", dataset, self.geometry, self._readouts())
        resampling = _RECIPES[self.recipe].view_interpolation
        return train, test, *random_views(train, self.views, self.crop, self.views_seed, resampling)

    def evaluate(self, source: Source, dataset: Dataset, context: Context) -> Samples:
        """Fit all heads twice, without and with the held-out images, and choose by both rules."""
        task = self.resolved(dataset)
        train, test, *views = (source.load(request) for request in self.requests(dataset))
        same_rows([train, *views])
        labels, truth = (labels_of(table, dataset) for table in (train, test))
        classes, device = dataset.card.num_classes, context.device
        readouts = self._readouts()
        sizes = [train[readout].shape[1] for readout in readouts]
        grid = HeadGrid(self._columns(source.backbone.card.embed_dim, sizes), task.learning_rates)
        held = hold_out(labels, self.held_out, context.seed)
        seen = views or [train]
        everything, asked = (table_rows(tables, readouts, None, device) for tables in (seen, [test]))
        kept = table_rows(seen, readouts, np.flatnonzero(~held), device)
        judged = table_rows([train], readouts, np.flatnonzero(held), device)
        repeated = np.tile(labels[~held], len(seen))
        tried = task._fit(kept, repeated, grid, classes, (judged, int(held.sum())), context)
        place = task._best(tried == labels[held][:, None], labels[held])
        repeated = np.tile(labels, len(seen))
        final = task._fit(everything, repeated, grid, classes, (asked, len(test.ids)), context)
        correct = final == truth[:, None]
        columns = {"label": truth}
        for rule, head in (("heldout", place), ("paper", task._best(correct, truth))):
            columns[f"predicted@{rule}"] = final[:, head]
            columns[f"correct@{rule}"] = correct[:, head]
            columns[f"head@{rule}"] = np.full(len(test.ids), head, dtype=np.int32)
        return Samples(test.ids, columns)

    def _fit(
        self,
        rows: Rows,
        labels: Int[np.ndarray, " n"],
        grid: HeadGrid,
        num_classes: int,
        asked: tuple[Rows, int],
        context: Context,
    ) -> Int[np.ndarray, "m candidates"]:
        """Return what every head predicts, and at every epoch where that counts."""
        recipe = _RECIPES[self.recipe]
        epoch = max(1, self.iterations // recipe.epochs)
        training = Training(
            iterations=self.iterations,
            batch_size=self.batch_size,
            warmup=self.iterations * recipe.warmup_epochs // recipe.epochs,
            stair=epoch if recipe.by_epoch else 1,
            optimizer=recipe.optimizer,
            standardise=recipe.standardise,
        )
        stages = fit_heads(
            rows,
            labels,
            grid,
            training,
            num_classes=num_classes,
            every=epoch if recipe.by_epoch else 0,
            seed=context.seed,
            device=context.device,
        )
        return np.concatenate([heads.predict(*asked, training) for heads in stages], axis=1)

    def _readouts(self) -> tuple[Readout, ...]:
        if self.inputs == "pooled":
            return (Readout("pooled"),)
        return BLOCKS[3:4] if self.recipe == "mae" else BLOCKS

    def _columns(self, width: int, sizes: Sequence[int]) -> tuple[tuple[int, int], ...]:
        """Return the column sets of the recipe in the concatenated readouts."""
        if len(sizes) == 1:
            return ((0, sizes[0]),)
        one, with_mean, four, all_of_it = block_columns(sizes)
        if self.recipe == "dino":
            return (four,) if width <= 384 else (with_mean,)
        return one, with_mean, four, all_of_it

    def _best(self, correct: Bool[np.ndarray, "n heads"], labels: Int[np.ndarray, " n"]) -> int:
        """Return the head that scores highest, the first of equals."""
        if self.metric == "top1":
            return int(correct.mean(axis=0).argmax())
        classes = [correct[labels == label].mean(axis=0) for label in np.unique(labels)]
        return int(np.mean(classes, axis=0).argmax())
