"""Classifiers made of several heads: settings chosen on held-out training images, then fitted on all.

`fit_linear` and `text_classifier` are fitted once on clean features and applied unchanged to any others, for
tasks that judge one head on several test sets. `GridFit` keeps the predictions of all linear heads.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Literal, TypeAlias, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped

from ssleval.core import Context, DatasetCard, FeatureTable, Readout
from ssleval.core.backbone import Backbone
from ssleval.core.batches import table_rows
from ssleval.core.image_level import ImageGeometry, accuracy_kind, same_rows
from ssleval.core.settings import Natural, OpenFraction, Positive
from ssleval.core.task import Inputs
from ssleval.errors import ContractError, DataError
from ssleval.heads.linear import HeadGrid, LinearHeads, Training, fit_heads
from ssleval.heads.linear_recipes import BLOCKS, RECIPES, Recipe
from ssleval.heads.logistic import Logistic, fit_best, fit_path
from ssleval.heads.selection import hold_out
from ssleval.heads.zeroshot import class_embeddings, image_text_logits

Scores: TypeAlias = Callable[[FeatureTable], Float[np.ndarray, "n c"]]
"""A fitted classifier: logits of every row of a table that has the readouts it was fitted on."""
Judged: TypeAlias = tuple[Shaped[np.ndarray, "_ candidates"], Int[np.ndarray, "_"]]
"""What candidates have `stated` of images, and the labels of these."""
F = TypeVar("F", bound="GridFields")


def fit_linear(
    train: FeatureTable, num_classes: int, iterations: int, held_out: float, context: Context
) -> Scores:
    """Return the head of DINOv2's 52 that is best on held-out images, fitted again on all of them.

    ``iterations`` of 0 are those of the recipe; ``held_out`` is a fraction of every class.

    Source:
        Oquab et al. 2023, arXiv:2304.07193, app. B.3; the choice on held-out images is ours.
    """
    if train.targets is None:
        raise ContractError("a linear head needs the labels of its training images")
    labels, recipe = train.targets, RECIPES["dinov2"]
    schedule = recipe.length(len(labels), iterations)
    fit = GridFit(recipe, BLOCKS, recipe.rates, *schedule, num_classes, context)
    held = hold_out(labels, held_out, context.seed)
    correct = fit.predictions([train], labels, ~held, train, held)["class"] == labels[held][:, None]
    (final,) = fit.heads([train], labels, np.ones_like(held))
    return _applied(final, int(correct.mean(axis=0).argmax()), context.device)


def fit_few(
    features: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    strengths: Sequence[float],
    one_shot: float,
    held_out: float,
    num_classes: int,
    context: Context,
) -> Logistic:
    """Return the logistic regression on a few images, with the best of the ``strengths`` C, which increase.

    C is chosen on the fraction ``held_out`` of every class, drawn with the context's seed. Where no class has
    two images, so that none can be held out, C is ``one_shot``.
    """
    if np.bincount(labels).max() == 1:
        return next(fit_path(features, labels, (one_shot,), num_classes=num_classes, device=context.device))
    held = hold_out(labels, held_out, context.seed)
    return fit_best(features, labels, held, strengths, num_classes=num_classes, device=context.device)


def text_classifier(backbone: Backbone, prompts: Sequence[Sequence[str]]) -> Scores:
    """Return the classifier that compares ``pooled`` with the prompts of every class."""
    classes, similarity = class_embeddings(backbone, prompts), backbone.similarity()

    def scores(table: FeatureTable) -> Float[np.ndarray, "n c"]:
        blocks = image_text_logits(table[Readout("pooled")], classes, similarity)
        return torch.cat([block.cpu() for block in blocks]).numpy()

    return scores


def of_classes(
    logits: Float[np.ndarray, "n o"], card: DatasetCard, fitted: DatasetCard, *, others: bool = False
) -> Float[np.ndarray, "n c"]:
    """Return the logits of the classes of ``card``, from those of a head of ``fitted``.

    A class that several outputs stand for has the largest of theirs. With ``others`` one column more, the
    last, has the largest of the outputs that stand for none of the classes, where there are any.
    """
    places = class_places(card, fitted)
    sizes = [*map(len, card.outputs)] or [1] * len(places)
    rest = np.setdiff1d(np.arange(fitted.num_classes), places)
    if others and len(rest):
        places, sizes = np.concatenate([places, rest]), [*sizes, len(rest)]
    if not all(sizes):
        raise ContractError(f"{card.name}: no output of a head stands for some of its classes")
    return np.maximum.reduceat(logits[:, places], np.cumsum([0, *sizes[:-1]]), axis=1)


def class_places(card: DatasetCard, fitted: DatasetCard) -> Int[np.ndarray, " o"]:
    """Return which outputs of a head of ``fitted`` stand for the classes of ``card``, in their order.

    Classes go by name, by the number of an output, or by the names of several, one class after the other.
    """
    names = [*chain(*card.outputs)] or card.class_names
    known = {name: place for place, name in enumerate(fitted.class_names)}
    # V2 numbers its folders by ImageNet's label; all others call them by WordNet id.
    known |= {str(place): place for place in range(fitted.num_classes)}
    strange = [name for name in names if name not in known]
    if strange:
        raise DataError(
            f"{card.name}: {strange[0]!r} is none of the {fitted.num_classes} classes of {fitted.name}, "
            "which the head was fitted on"
        )
    return np.array([known[name] for name in names], dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class GridFields(ImageGeometry):
    """Fields of a task that fits a grid of linear heads, once without held-out rows and once on all."""

    learning_rates: tuple[Positive, ...] = ()
    """Base rates for a batch of 256; none: the recipe's."""
    iterations: Natural = 0
    """0: the recipe's epochs, within its bounds; the number it comes to is recorded."""
    batch_size: Natural = 0
    """0: the recipe's, or the largest power of two within an eighth (mae: all) of a small training set."""
    held_out: OpenFraction = 0.1
    """Fraction of every training class that heads are chosen on."""
    metric: Literal["card", "top1", "mean_per_class"] = "card"
    """Card: the convention of the dataset."""

    def filled(self: F, recipe: Recipe, card: DatasetCard) -> F:
        """Return the task with what it left to recipe and dataset filled in."""
        steps, batch = recipe.length(card.lengths[card.train_split], self.iterations, self.batch_size)
        rates, metric = self.learning_rates or recipe.rates, accuracy_kind(self.metric, card)
        return replace(self, learning_rates=rates, batch_size=batch, iterations=steps, metric=metric)

    def tried_and_final(
        self, recipe: Recipe, readouts: tuple[Readout, ...], tables: Sequence[FeatureTable], inputs: Inputs
    ) -> tuple[Judged, Judged]:
        """Return what heads fitted without held-out rows have `stated` of these, and all of scored images.

        ``tables`` are of the training split, of the scored split, and of views of the former.
        """
        train, test, *views = tables
        same_rows([train, *views])
        labels, truth = inputs.labels(train), inputs.labels(test)
        held = hold_out(labels, self.held_out, inputs.context.seed)
        schedule = self.learning_rates, self.iterations, self.batch_size
        fit = GridFit(recipe, readouts, *schedule, inputs.card.num_classes, inputs.context)
        tried = fit.predictions(views or [train], labels, ~held, train, held)
        final = fit.predictions(views or [train], labels, held | True, test, np.ones(len(truth), bool))
        return (tried, labels[held]), (final, truth)


@dataclass(frozen=True, slots=True)
class GridFit:
    """How all heads of a recipe are trained jointly, ready for any images."""

    recipe: Recipe
    readouts: tuple[Readout, ...]
    """What heads see, or part of it: the recipe's, or a single one."""
    rates: tuple[float, ...]
    iterations: int
    batch_size: int
    num_classes: int
    context: Context

    @property
    def training(self) -> Training:
        """The schedule; where the recipe changes by epoch, an epoch is the length of its stairs."""
        recipe = self.recipe
        return Training(
            iterations=self.iterations,
            batch_size=self.batch_size,
            warmup=self.iterations * recipe.warmup_epochs // recipe.epochs,
            stair=max(1, self.iterations // recipe.epochs) if recipe.by_epoch else 1,
            optimizer=recipe.optimizer,
            standardise=recipe.standardise,
        )

    def heads(
        self, tables: Sequence[FeatureTable], labels: Int[np.ndarray, " n"], rows: Bool[np.ndarray, " n"]
    ) -> Iterator[LinearHeads]:
        """Train on some rows of each of the tables; yield the heads, by epoch where the recipe changes so."""
        return fit_heads(
            table_rows(tables, self.readouts, np.flatnonzero(rows), self.context.device),
            np.tile(labels[rows], len(tables)),
            HeadGrid(self.recipe.columns([tables[0][name].shape[1] for name in self.readouts]), self.rates),
            self.training,
            num_classes=self.num_classes,
            every=self.training.stair if self.recipe.by_epoch else 0,
            seed=self.context.seed,
            device=self.context.device,
        )

    def predictions(
        self,
        tables: Sequence[FeatureTable],
        labels: Int[np.ndarray, " n"],
        rows: Bool[np.ndarray, " n"],
        judged: FeatureTable,
        judged_rows: Bool[np.ndarray, " k"],
    ) -> Shaped[np.ndarray, "m candidates"]:
        """Train on some rows of each table; return what every head has `stated` of rows of ``judged``.

        Where the recipe changes by epoch there are candidates of every epoch, those of the first one first.
        """
        assert judged.targets is not None, "only labelled images are judged"
        places = np.flatnonzero(judged_rows)
        truth = judged.targets[places]
        inputs = table_rows([judged], self.readouts, places, self.context.device)
        stages = self.heads(tables, labels, rows)
        return np.concatenate([heads.predict(inputs, truth, self.training) for heads in stages], axis=1)


def _applied(heads: LinearHeads, place: int, device: str) -> Scores:
    """Return the head at this place of a grid on `BLOCKS` as a classifier."""
    index, rate = divmod(place, len(heads.grid.rates))
    start, stop = heads.grid.columns[index]
    own = slice(rate * heads.num_classes, (rate + 1) * heads.num_classes)
    weight, bias = heads.weights[index][own].clone(), heads.biases[index][own].clone()

    def scores(table: FeatureTable) -> Float[np.ndarray, "n c"]:
        rows = np.arange(len(table.ids))
        read, logits = table_rows([table], BLOCKS, rows, device), np.empty((len(rows), len(bias)), np.float32)
        for first in range(0, len(rows), 2048):
            inputs = read(rows[first : first + 2048])[:, start:stop]
            logits[first : first + 2048] = torch.addmm(bias, inputs, weight.T).cpu().numpy()
        return logits

    return scores
