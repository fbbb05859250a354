"""The vocabulary of ssleval, third part: what a task is and what it is given."""

from abc import ABC, abstractmethod
from typing import ClassVar, Protocol, runtime_checkable

from ssleval.core import Context, Dataset, DatasetCard, FeatureRequest, FeatureTable, Metric, Samples
from ssleval.core.backbone import Backbone
from ssleval.core.registry import Registry
from ssleval.errors import ConfigError, NotApplicableError


@runtime_checkable
class Source(Protocol):
    """Where a task gets features: extracted once for all tasks of a run, then read from the store."""

    @property
    def backbone(self) -> Backbone:
        """The model itself, for protocols that must run it on the fly."""
        ...

    def load(self, request: FeatureRequest) -> FeatureTable:
        """Return the features of one declared request."""
        ...


class Task(ABC):
    """A measurement: a frozen dataclass whose fields are the protocol and are recorded as such.

    Fields are numbers, strings, booleans or tuples of them, so that ``--set TASK.FIELD=VALUE`` reaches
    every one.
    """

    version: ClassVar[int] = 1
    """Raised when a change moves a score; part of every result's key."""
    seeded: ClassVar[bool] = True
    """Whether ``Context.seed`` may move the score; False promises that one run says all there is."""

    @property
    @abstractmethod
    def metrics(self) -> tuple[Metric, ...]:
        """Every score it gives; the first is the one a leaderboard ranks by."""

    def resolved(self, dataset: Dataset) -> "Task":  # noqa: ARG002
        """Return the task as it can run on ``dataset``; that one is run, scored and recorded.

        Most tasks run as they are. Leaving out scores that a dataset is too small for is what this is
        for; no other setting may change.
        """
        return self

    @abstractmethod
    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        """Return the features that `evaluate` will load.

        Raises:
            NotApplicableError: the dataset has no target of the kind the task needs.
        """

    def check(self, backbone: Backbone) -> None:  # noqa: B027
        """Refuse, before anything is extracted, a model without what the protocol needs beyond features.

        Raises:
            NotApplicableError: it has no text tower, say, where the task classifies by texts.
        """

    @abstractmethod
    def evaluate(self, source: Source, dataset: Dataset, context: Context) -> Samples:
        """Measure ``source.backbone`` on ``dataset``: one row per test item."""


def refuse_one_split(task: str, card: DatasetCard) -> None:
    """Refuse to fit ``task`` on the very images that it is scored on, or on none.

    Raises:
        NotApplicableError: there is no training split.
        ConfigError: the training split and the scored one are one.
    """
    if card.train_split not in card.lengths:
        raise NotApplicableError(
            f"{task} fits on a training split; {card.name} has {', '.join(card.lengths)}"
        )
    if card.train_split == card.test_split:
        raise ConfigError(
            f"{task}: {card.name} would fit and score on one split, {card.test_split!r} alone, where every "
            "image would find itself; choose another with --split"
        )


tasks: Registry[type[Task]] = Registry("task")
