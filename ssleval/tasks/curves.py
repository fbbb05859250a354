"""Curves: at which depth, and at which resolution, does a model know the classes best?

One vector per image is classified as in the tasks knn or logreg, at every place of an axis. ``block``: the
class token and the mean patch of the blocks that end each twelfth of the model, after its final norm; of 12
blocks these are all, of 24 every other, and of fewer each once, at the last twelfth that it is of.
``resolution``: the model's descriptor at every side of ``sizes``, resized in the proportion of ``resize`` to
``crop``; how position embeddings follow is on the model's card.

The place that classifies held-out training images best, of equals the first, leads as ``@heldout``; the
scored images have no say in it. Scores of every place stand beside it, on the same images, so that places can
be compared in pairs. logreg chooses C (`fit_few`) on other held-out images than the place.

Source: the choice of blocks after Bolya et al. 2025, arXiv:2504.13181 (best features lie inside the network).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, ClassVar, Literal, TypeAlias

import numpy as np
from jaxtyping import Float, Int, Shaped

from ssleval.core import Context, Dataset, FeatureRequest, Geometry, Metric, Readout, Samples
from ssleval.core.image_level import ImageGeometry, accuracy_kind, tables_by_split, train_and_test
from ssleval.core.settings import Count, Counts, Different, OpenFraction, Positive, Positives
from ssleval.core.task import Inputs, Needs, Task, tasks
from ssleval.errors import ConfigError, NotApplicableError
from ssleval.heads.knn import knn_predict
from ssleval.heads.probes import fit_few
from ssleval.heads.selection import hold_out
from ssleval.metrics.classification import accuracies, accuracy, both_accuracies

MOST = 12
"""Places along the depth: the ends of the twelfths of a model."""
_Kinds: TypeAlias = Annotated[tuple[Literal["pooled", "cls", "mean"], ...], Different]


@tasks.register("curves")
@dataclass(frozen=True)
class Curves(ImageGeometry, Task):
    """Accuracy by depth or by resolution, and at the place that held-out training images choose."""

    needs: ClassVar[Needs] = Needs(("label",), training_split=True)
    axis: Literal["block", "resolution"] = "block"
    readouts: _Kinds = ()
    """Vectors to classify; none: ``cls`` and ``mean`` by block, ``pooled`` by resolution."""
    sizes: Counts = (112, 224, 336, 448)
    """Sides in pixels, along the axis ``resolution``."""
    classifier: Literal["knn", "logreg"] = "knn"
    k: Count = 20
    temperature: Positive = 0.07
    strengths: Positives = tuple(10.0**power for power in range(-4, 5))
    """Values of C that logistic regression tries, increasing."""
    held_out: OpenFraction = 0.1
    """Fraction of every training class that the place, and then C, is chosen on."""
    metric: Literal["card", "top1", "mean_per_class"] = "card"
    blocks: ClassVar[int] = MOST
    """Of the model, at most 12, as `suited` finds: no setting, and not recorded."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.axis == "block" and "pooled" in self.readouts:
            raise ConfigError("curves: no block has readouts=pooled; --set curves.readouts=cls,mean")
        if self.axis == "resolution" and self.preprocessing == "card":
            raise ConfigError("curves: axis=resolution needs preprocessing=protocol, which sizes can change")

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The accuracy at the chosen place and at every place, and of the other kind at the chosen one."""
        leads, other = both_accuracies(self.metric, "correct@heldout", "@heldout")
        names = (name for name, _, _ in self._places)
        return leads, *(accuracy(self.metric, f"correct@{name}", f"@{name}") for name in names), other

    def resolved(self, dataset: Dataset) -> "Curves":
        """Return the task with the metric of the dataset and the vectors of the axis filled in."""
        count = dataset.card.lengths[dataset.card.train_split]
        if self.classifier == "knn" and self.k > (1 - self.held_out) * count:
            raise ConfigError(f"curves: k={self.k} of {count} training images; --set curves.k=...")
        kinds: _Kinds = self.readouts or (("cls", "mean") if self.axis == "block" else ("pooled",))
        return replace(self, readouts=kinds, metric=accuracy_kind(self.metric, dataset.card))

    def suited(self, gives: Callable[[Readout], bool]) -> "Curves":
        """Return the task without class tokens, where the model has none; refuse a model of one block."""
        if self.axis == "block" and not gives(Readout("mean", block=-2)):
            raise NotApplicableError("the model shows one block only; --set curves.axis=resolution")
        if not (kinds := tuple(kind for kind in self.readouts if gives(Readout(kind)))):
            raise NotApplicableError(f"the model has no {self.readouts[0]}; --set curves.readouts=mean")
        task, count = replace(self, readouts=kinds), range(1, MOST + 1)
        object.__setattr__(task, "blocks", sum(gives(Readout("mean", block=-block)) for block in count))
        return task

    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        """Return the training and the scored split, at every size."""
        readouts = tuple(dict.fromkeys(readout for _, readout, _ in self._places))
        pairs = [train_and_test(dataset, geometry, readouts) for geometry in self._geometries]
        return tuple(request for pair in pairs for request in pair)

    def evaluate(self, inputs: Inputs) -> Samples:
        """Classify at every place, without and with the held-out images; one row per scored image."""
        tables = tables_by_split(inputs)
        train, test = tables[inputs.card.train_split], tables[inputs.card.test_split]
        labels, truth = inputs.labels(train[0]), inputs.labels(test[0])
        held, classes = hold_out(labels, self.held_out, inputs.context.seed), inputs.card.num_classes
        columns: dict[str, Shaped[np.ndarray, "n ..."]] = {"label": truth}
        tried: list[Int[np.ndarray, " k"]] = []
        for name, readout, size in self._places:
            known, unseen = train[size][readout], test[size][readout]
            rest = known[~held], labels[~held], known[held]
            tried.append(self._predicted(*rest, classes, inputs.context))
            predicted = self._predicted(known, labels, unseen, classes, inputs.context)
            columns[f"correct@{name}"] = predicted == truth
        right = np.stack(tried, axis=1) == labels[held][:, None]
        place = int(accuracies(self.metric, right, labels[held]).argmax())
        columns["correct@heldout"] = columns[f"correct@{self._places[place][0]}"]
        return Samples(test[0].ids, {**columns, "place": np.full(len(truth), place, dtype=np.int32)})

    def _predicted(
        self,
        train: Float[np.ndarray, "n p"],
        labels: Int[np.ndarray, " n"],
        queries: Float[np.ndarray, "m p"],
        classes: int,
        context: Context,
    ) -> Int[np.ndarray, " m"]:
        if self.classifier == "logreg":
            fitted = fit_few(train, labels, self.strengths, 1.0, self.held_out, classes, context)
            return fitted.scores(queries).argmax(axis=1)
        vote = partial(knn_predict, ks=(self.k,), temperature=self.temperature, top=1)
        return vote(train, labels, queries, num_classes=classes, device=context.device)[self.k][:, 0]

    @property
    def _geometries(self) -> tuple[Geometry | None, ...]:
        if self.axis == "block":
            return (self.geometry,)
        scaled = ((size * self.resize // self.crop, size) for size in self.sizes)
        return tuple(Geometry(resize, "short", crop, self.interpolation) for resize, crop in scaled)

    @property
    def _places(self) -> list[tuple[str, Readout, int]]:
        """Return the name, the readout and the number of the geometry of every place, in order."""
        if self.axis == "block":
            ends = {-(-self.blocks * twelfth // MOST): twelfth for twelfth in range(1, MOST + 1)}
            steps = [(f"{twelfth}/12", twelfth, 0) for twelfth in ends.values()]
        else:
            steps = [(f"{size}px", 0, index) for index, size in enumerate(self.sizes)]
        return [
            (f"{kind}-{step}", Readout(kind, twelfth=twelfth), size)
            for kind in self.readouts
            for step, twelfth, size in steps
        ]
