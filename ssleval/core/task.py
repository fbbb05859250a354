"""The vocabulary of ssleval, third part: what a task is, what it needs and what it is given."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Shaped

from ssleval.core import BackboneCard, Context, Dataset, DatasetCard
from ssleval.core.backbone import Backbone
from ssleval.core.registry import Registry
from ssleval.core.settings import check
from ssleval.core.vocabulary import FeatureRequest, FeatureTable, Metric, Precision, Readout, Samples, Split
from ssleval.errors import ConfigError, ContractError, NotApplicableError


@runtime_checkable
class Source(Protocol):
    """Where features come from: extracted once for all tasks of a run, then read from the store."""

    @property
    def backbone(self) -> Backbone:
        """The model itself, for protocols that must run it on the fly."""
        ...

    def load(self, request: FeatureRequest) -> FeatureTable:
        """Return the features of one declared request."""
        ...


@dataclass(frozen=True, slots=True)
class Needs:
    """What a task cannot do without. Data and models that lack it are refused before anything is read."""

    targets: tuple[str, ...] = ()
    """Kinds of target (`DatasetCard.target`) that the task can score; none: any."""
    training_split: bool = False
    """A split to fit on, other than the scored one."""
    text_tower: bool = False
    """A model that embeds texts."""
    attention: bool = False
    """A model that shows its last block's attention of the class token."""
    keys: bool = False
    """A model that shows the keys of its last attention."""
    gradients: bool = False
    """A model that can be trained."""
    without_keys: str = ""
    """What to do with a model that shows none."""
    readouts: tuple[Readout, ...] = ()
    """What is read of the model when the task runs it itself."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the runner hands to a task: the model and its features, the data, and how to compute."""

    source: Source
    dataset: Dataset
    requests: tuple[FeatureRequest, ...]
    """Those of the task, in its own order."""
    context: Context

    @property
    def backbone(self) -> Backbone:
        """The model itself, for protocols that must run it on the fly."""
        return self.source.backbone

    @property
    def card(self) -> DatasetCard:
        """The card of the dataset."""
        return self.dataset.card

    @property
    def test_split(self) -> Split:
        """The split that is scored."""
        return self.dataset.split(self.card.test_split)

    def tables(self) -> Iterator[FeatureTable]:
        """Yield the features of every request, in order, each loaded only when it is reached."""
        return map(self.source.load, self.requests)

    def labels(self, table: FeatureTable | Split) -> Shaped[np.ndarray, "n ..."]:
        """Return the labels ``[n]`` or multi-labels ``[n c]``, which the card promises."""
        if table.targets is None:
            raise ContractError(f"{self.card.name} opened without the labels its card promises")
        return table.targets


class Task(ABC):
    """A measurement: a frozen dataclass whose fields are the protocol and are recorded as such.

    Fields are numbers, strings, booleans or tuples of them, so that ``--set TASK.FIELD=VALUE`` reaches
    every one. Their annotations say which values are allowed (`ssleval.core.settings`).
    """

    version: ClassVar[int] = 1
    """Raised when a change moves a score; part of every result's key."""
    needs: ClassVar[Needs] = Needs()
    """What it cannot do without; a property where settings decide."""
    published_precision: ClassVar[Precision] = "fp32"
    """What the code of its protocol ran the model in; a property where settings decide. fp32 also where no
    source states it."""
    seeded: ClassVar[bool] = True
    """Whether ``Context.seed`` may move the score; False promises that one run says all there is."""

    def __post_init__(self) -> None:
        """Refuse values that a field cannot take. A task that checks fields together extends this."""
        check(self, type(self).__module__.rpartition(".")[2])

    @property
    @abstractmethod
    def metrics(self) -> tuple[Metric, ...]:
        """Every score it gives; the first is the one a leaderboard ranks by."""

    def resolved(self, dataset: Dataset) -> "Task":  # noqa: ARG002
        """Return the task as it can run on a ``dataset`` that has what it `needs`; that one is recorded.

        Most tasks run as they are. Others fill in what they leave to the dataset, or leave out scores that
        it is too small for.
        """
        return self

    def suited(self, gives: Callable[[Readout], bool]) -> "Task":  # noqa: ARG002
        """Return the task as it can run on a model, of which ``gives`` says whether it has a readout.

        That one is recorded; where it is another, the user is told.
        """
        return self

    def for_model(self, dataset: Dataset, card: BackboneCard) -> "Task":  # noqa: ARG002
        """Return the task as it runs on a ``dataset`` and a model of such a ``card``; that one is recorded.

        Most tasks run as they are. Others choose by the size of the features.
        """
        return self

    def recorded(self) -> dict[str, Any]:
        """Return the protocol as results record it: all fields.

        A task that gets a field leaves it out where its value is what results had that do not record it.
        """
        fields: dict[str, Any] = asdict(self)  # pyright: ignore[reportArgumentType]
        return fields

    @abstractmethod
    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        """Return the features that `evaluate` will load.

        Raises:
            NotApplicableError: the dataset lacks something beyond what `needs` says.
        """

    def amounts(self, dataset: Dataset) -> dict[str, tuple[int, int]]:
        """Return what the time of `evaluate` grows with, in a straight line: the least to try, and all of it.

        Names are ``train`` and ``test``, the images of these splits, and number fields of the task.
        """
        card = dataset.card
        # Images that are each other's answers are not to be separated.
        whole = card.test_split == card.train_split and card.target == "groups"
        count = card.lengths[card.test_split]
        return {"test": (count if whole else 1, count)}

    @abstractmethod
    def evaluate(self, inputs: Inputs) -> Samples:
        """Measure ``inputs.backbone`` on ``inputs.dataset``: one row per test item."""


tasks: Registry[type[Task]] = Registry(
    "task", accepts=lambda item: isinstance(item, type) and issubclass(item, Task)
)

_TARGETS = {
    "label": "one label per image", "multilabel": "several labels per image",
    "open_set": "labels of a training split", "mask": "a class for every pixel",
    "instances": "masks of objects", "video": "clips with the object of every pixel",
    "depth": "metres for every pixel", "normals": "surface normals", "pairs": "pairs with key points",
    "views": "pairs with depth and cameras", "groups": "groups of images that belong together",
    "boxes": "boxes of objects", "objects": "boxes and masks of objects",
    "clips": "clips with a class each",
}  # fmt: skip


def refuse_dataset(name: str, needs: Needs, card: DatasetCard) -> None:
    """Refuse a dataset that lacks what the task ``name`` needs, or would fit and score on one split."""
    if needs.targets and card.target not in needs.targets:
        wanted = " or ".join(_TARGETS.get(target, target) for target in needs.targets)
        raise NotApplicableError(f"{name} needs {wanted}; {card.name} has target {card.target!r}")
    if not needs.training_split:
        return
    if card.train_split not in card.lengths:
        raise NotApplicableError(
            f"{name} fits on a training split; {card.name} has {', '.join(card.lengths)}"
        )
    if card.train_split == card.test_split:
        raise ConfigError(
            f"{name}: {card.name} would fit and score on one split, {card.test_split!r} alone, where every "
            "image would find itself; choose another with --split"
        )
    if "trainval" in (both := {card.train_split, card.test_split}) and both < {"train", "val", "trainval"}:
        raise ConfigError(
            f"{name}: {card.name} would be fitted on {card.train_split!r} and scored on "
            f"{card.test_split!r}, which share images; choose another with --split"
        )
