"""Classifiers made of several heads: settings chosen on held-out training images, then fitted on all.

`fit_linear` and `text_classifier` are fitted once on clean features and applied unchanged to any others, for
tasks that judge one head on several test sets. `GridFit` keeps the predictions of all linear heads,
`FewShotChoice` fits a logistic regression on a few images, and `find_neighbours` is what an open-set
classifier is made of.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

from ssleval.core import Context, FeatureTable, Readout
from ssleval.core.backbone import Backbone
from ssleval.errors import ContractError
from ssleval.heads.knn import nearest_neighbours
from ssleval.heads.linear import HeadGrid, LinearHeads, Rows, Training, fit_heads
from ssleval.heads.linear_recipes import BLOCKS, RATES, RECIPES, Recipe, block_columns
from ssleval.heads.logistic import Logistic, fit_best, fit_path
from ssleval.heads.open_set import Neighbours
from ssleval.heads.selection import hold_out
from ssleval.heads.zeroshot import class_embeddings, image_text_logits

Scores: TypeAlias = Callable[[FeatureTable], Float[np.ndarray, "n c"]]
"""A fitted classifier: logits of every row of a table that has the readouts it was fitted on."""


@dataclass(frozen=True, slots=True)
class LinearRecipe:
    """How DINOv2 trains its linear heads, as the task `linear` does by default."""

    iterations: int = 0
    """0: ten epochs, at least 500 and at most 12,500 iterations."""
    held_out: float = 0.1
    """Fraction of every training class that the head is chosen on."""

    def training(self, count: int) -> Training:
        """Return the schedule for ``count`` training images."""
        iterations, batch_size = RECIPES["dinov2"].length(count, self.iterations)
        return Training(iterations=iterations, batch_size=batch_size)


def fit_linear(
    train: FeatureTable, recipe: LinearRecipe, *, num_classes: int, seed: int, device: str
) -> Scores:
    """Return the head of DINOv2's 52 that is best on held-out images, fitted again on all of them.

    Raises:
        ContractError: the table has no labels.

    Source:
        Oquab et al. 2023, arXiv:2304.07193, app. B.3; the choice on held-out images is ours.
    """
    if train.targets is None:
        raise ContractError("a linear head needs the labels of its training images")
    labels, training = train.targets, recipe.training(len(train.ids))
    grid = HeadGrid(block_columns([train[readout].shape[1] for readout in BLOCKS]), RATES)
    held = hold_out(labels, recipe.held_out, seed)
    kept, judged = (table_rows([train], BLOCKS, np.flatnonzero(rows), device) for rows in (~held, held))
    fit = partial(fit_heads, num_classes=num_classes, seed=seed, device=device)
    (tried,) = fit(kept, labels[~held], grid, training)
    correct = tried.predict(judged, int(held.sum()), training) == labels[held][:, None]
    place = int(correct.mean(axis=0).argmax())
    (final,) = fit(table_rows([train], BLOCKS, None, device), labels, grid, training)
    return _applied(final, place, device)


@dataclass(frozen=True, slots=True)
class FewShotChoice:
    """How C of a logistic regression on a few images is chosen."""

    strengths: Sequence[float]
    """Values of C, increasing."""
    one_shot: float
    """C where no class has two images, so that none can be held out."""
    held_out: float
    """Fraction of every class that C is chosen on."""

    def fit(
        self,
        features: Float[np.ndarray, "n d"],
        labels: Int[np.ndarray, " n"],
        *,
        seed: int,
        num_classes: int,
        device: str,
    ) -> Logistic:
        """Return the classifier fitted on all rows; ``seed`` decides which are held out."""
        if np.bincount(labels).max() == 1:
            (model,) = fit_path(features, labels, (self.one_shot,), num_classes=num_classes, device=device)
            return model
        held = hold_out(labels, self.held_out, seed)
        return fit_best(
            features, labels, held, self.strengths, _accuracy, num_classes=num_classes, device=device
        )


def text_classifier(backbone: Backbone, prompts: Sequence[Sequence[str]]) -> Scores:
    """Return the classifier that compares ``pooled`` with the prompts of every class.

    Raises:
        NotApplicableError: the model has no text tower.
    """
    classes, similarity = class_embeddings(backbone, prompts), backbone.similarity()

    def scores(table: FeatureTable) -> Float[np.ndarray, "n c"]:
        blocks = image_text_logits(table[Readout("pooled")], classes, similarity)
        return torch.cat([block.cpu() for block in blocks]).numpy()

    return scores


def find_neighbours(
    database: Float32[np.ndarray, "n d"],
    shown: Int[np.ndarray, " n"],
    queries: Float32[np.ndarray, "m d"],
    *,
    k: int,
    device: str,
) -> Neighbours:
    """Return the ``k`` nearest vectors of a database whose images are ``shown``, with settled cosines."""
    similarity, index = nearest_neighbours(database, queries, k=k, device=device, settled=True)
    return Neighbours(similarity.numpy(), shown[index.numpy()], len(np.unique(shown)))


def table_rows(
    tables: Sequence[FeatureTable],
    readouts: Sequence[Readout],
    rows: Int[np.ndarray, " n"] | None,
    device: str,
) -> Rows:
    """Return a function that reads float32 rows from memory-mapped arrays, and never more than asked.

    ``rows`` of the first table come first, then the same of the next.
    """
    arrays = [[table[readout] for readout in readouts] for table in tables]
    rows = np.arange(len(tables[0].ids)) if rows is None else rows

    def read(index: Int[np.ndarray, " b"]) -> Float[Tensor, "b d"]:
        which, place = np.divmod(index, len(rows))
        found = np.empty((len(index), sum(array.shape[1] for array in arrays[0])), np.float32)
        for number in np.unique(which).tolist():
            at = which == number
            found[at] = np.concatenate([array[rows[place[at]]] for array in arrays[number]], axis=1)
        return torch.from_numpy(found).to(device)

    return read


@dataclass(frozen=True, slots=True)
class GridFit:
    """How all heads of a recipe are trained jointly, ready for any images."""

    recipe: Recipe
    readouts: tuple[Readout, ...]
    """What heads see, or part of it: the recipe's, or a single one."""
    rates: tuple[float, ...]
    iterations: int
    batch_size: int
    width: int
    """Channels of the model, by which some recipes choose inputs."""
    num_classes: int
    context: Context

    def predictions(
        self,
        tables: Sequence[FeatureTable],
        labels: Int[np.ndarray, " n"],
        rows: Bool[np.ndarray, " n"],
        judged: FeatureTable,
        judged_rows: Bool[np.ndarray, " k"],
    ) -> Int[np.ndarray, "m candidates"]:
        """Train on some rows of each of the tables; return what every head predicts for rows of ``judged``.

        Where the recipe changes by epoch there are candidates of every epoch, those of the first one first.
        """
        recipe, device = self.recipe, self.context.device
        sizes = [judged[readout].shape[1] for readout in self.readouts]
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
            table_rows(tables, self.readouts, np.flatnonzero(rows), device),
            np.tile(labels[rows], len(tables)),
            HeadGrid(recipe.columns(self.width, sizes), self.rates),
            training,
            num_classes=self.num_classes,
            every=epoch if recipe.by_epoch else 0,
            seed=self.context.seed,
            device=device,
        )
        asked = table_rows([judged], self.readouts, np.flatnonzero(judged_rows), device)
        count = int(judged_rows.sum())
        return np.concatenate([heads.predict(asked, count, training) for heads in stages], axis=1)


def _accuracy(scores: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"]) -> float:
    return float((scores.argmax(axis=1) == labels).mean())


def _applied(heads: LinearHeads, place: int, device: str) -> Scores:
    index, rate = divmod(place, len(heads.grid.rates))
    start, stop = heads.grid.columns[index]
    one = slice(rate * heads.num_classes, (rate + 1) * heads.num_classes)
    weight, bias = heads.weights[index][one].clone(), heads.biases[index][one].clone()

    def scores(table: FeatureTable) -> Float[np.ndarray, "n c"]:
        read, count = table_rows([table], BLOCKS, None, device), len(table.ids)
        found = np.empty((count, heads.num_classes), dtype=np.float32)
        for first in range(0, count, 2048):
            inputs = read(np.arange(first, min(first + 2048, count)))[:, start:stop]
            found[first : first + 2048] = torch.addmm(bias, inputs, weight.T).cpu().numpy()
        return found

    return scores
