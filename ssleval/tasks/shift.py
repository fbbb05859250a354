"""Domain shift: a classifier fitted on some domains, tested on images of the same classes from another.

Every domain is parted once and for all: a stratified fifth is its test part, the rest its training part.
``protocol=leave_one_out``: for each domain, a head is fitted on the training parts of all others and tested
on all images of that one, as in DomainBed. ``protocol=single_source``: a head is fitted on one domain and
tested on each other. The head is L2-regularised logistic regression on the model's own descriptor; C is
chosen on a tenth of the training parts, and no image of the domain that is tested has a say. ``top1``, which
leads, averages over all pairs of a head and a foreign domain; ``in_domain`` is the accuracy of the same
heads on the test parts of their own domains.

Source: Gulrajani and Lopez-Paz 2021, arXiv:2007.01434 (DomainBed, training-domain validation); Li et al.
2017, arXiv:1710.03077 (PACS). Both train the network as well.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import numpy as np
from jaxtyping import Bool, Int, Shaped

from ssleval.core import Dataset, FeatureRequest, Metric, Samples
from ssleval.core.image_level import VectorPerImage
from ssleval.core.registry import suggestion
from ssleval.core.settings import Different, OpenFraction, Positives
from ssleval.core.stated import stated_of
from ssleval.core.task import Inputs, Needs, Task, tasks
from ssleval.errors import ConfigError, DataError, NotApplicableError
from ssleval.heads.logistic import fit_best
from ssleval.heads.selection import hold_out
from ssleval.metrics.calibration import calibration
from ssleval.metrics.stats import mean_of, mean_over_parts_of

_FEWEST = 3
"""Images that a head is tested on in any domain: the score of fewer is none."""


@tasks.register("shift")
@dataclass(frozen=True)
class Shift(VectorPerImage, Task):
    """Accuracy on domains that the head was not fitted on."""

    needs: ClassVar[Needs] = Needs(("label",))
    protocol: Literal["leave_one_out", "single_source"] = "leave_one_out"
    domains: Annotated[tuple[str, ...], Different] = ()
    """Of the dataset, two or more; none: all."""
    test_part: OpenFraction = 0.2
    """Fraction of every class of a domain that no head is fitted on."""
    held_out: OpenFraction = 0.1
    """Fraction of every class of the rest that C is chosen on."""
    strengths: Positives = tuple(10.0**power for power in range(-4, 5))
    """Values of C, increasing."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Means over heads and domains first, calibration of both; then every pair of head and domain."""
        shifted, own = (Metric(name, mean_over_parts_of(f"right@{name}", f"seen@{name}")) for name in _KINDS)
        pairs = [*self._pairs(foreign=True), *self._pairs(foreign=False)]
        single = (Metric(f"{kind}@{name}", mean_of(f"{kind}@{name}")) for kind, name, _, _ in pairs)
        errors = (
            replace(metric, name=metric.name.replace("@top1", ""))
            for kind in _KINDS
            for metric in (*calibration(f"@{kind}", "right")[:2], _loss(kind))
        )
        return shifted, own, *single, *errors

    def resolved(self, dataset: Dataset) -> "Shift":
        """Return the task with the domains of the dataset filled in."""
        card = dataset.card
        if len(card.domains) < 2:
            raise NotApplicableError(
                f"shift needs domains of the same classes; {card.name} has none: domains:PATH"
            )
        if card.test_split != card.domains[0]:
            raise ConfigError(
                f"shift: scores every domain, not the split {card.test_split} alone; --set shift.domains=A,B"
            )
        for name in self.domains:
            if name not in card.domains:
                raise ConfigError(
                    f"shift: {card.name} has no domain {name!r}; {suggestion(name, card.domains)}"
                )
        if len(self.domains) == 1:
            raise ConfigError(f"shift: domains={self.domains[0]} alone; a shift needs two")
        return replace(self, domains=self.domains or card.domains)

    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        """Return every domain, one vector per image."""
        return tuple(FeatureRequest(dataset, name, self.geometry, (self.vector,)) for name in self.domains)

    def amounts(self, dataset: Dataset) -> dict[str, tuple[int, int]]:  # noqa: ARG002
        """Return nothing: heads are fitted on parts of all domains, none of which can be left out."""
        return {}

    def evaluate(self, inputs: Inputs) -> Samples:
        """Fit one head for every domain, and test it on the parts that it has not seen; one row per image."""
        tables = list(inputs.tables())
        labels = [inputs.labels(table) for table in tables]
        domain = np.repeat(np.arange(len(tables)), list(map(len, labels)))
        tested = np.concatenate([hold_out(own, self.test_part, 0) for own in labels])
        label, vectors = np.concatenate(labels), np.concatenate([table[self.vector] for table in tables])
        answers = [
            self._answers(vectors, label, domain, self._sources(head)[domain] & ~tested, inputs)
            for head in range(len(tables))
        ]
        ids = [f"{name}/{one}" for name, table in zip(self.domains, tables, strict=True) for one in table.ids]
        columns: dict[str, Shaped[np.ndarray, "n ..."]] = {"label": label, "domain": domain}
        for kind in _KINDS:
            columns |= self._columns(kind, answers, label, domain, tested)
        return Samples(ids, columns)

    def _answers(
        self,
        vectors: Shaped[np.ndarray, "n d"],
        label: Int[np.ndarray, " n"],
        domain: Int[np.ndarray, " n"],
        rows: Bool[np.ndarray, " n"],
        inputs: Inputs,
    ) -> Shaped[np.ndarray, " n"]:
        """Return what the head fitted on some rows has `stated` of all."""
        classes, context = inputs.card.num_classes, inputs.context
        # Held out of every class of every domain.
        held = hold_out((domain * classes + label)[rows], self.held_out, context.seed)
        fitted = vectors[rows], label[rows], held, self.strengths
        head = fit_best(*fitted, num_classes=classes, device=context.device)
        return stated_of(head.scores(vectors), label)

    def _columns(
        self,
        kind: str,
        answers: list[Shaped[np.ndarray, " n"]],
        label: Int[np.ndarray, " n"],
        domain: Int[np.ndarray, " n"],
        tested: Bool[np.ndarray, " n"],
    ) -> dict[str, Shaped[np.ndarray, "n ..."]]:
        """Return the columns of one kind of score, with one place for every pair of a head and a domain."""
        columns: dict[str, Shaped[np.ndarray, "n ..."]] = {}
        parts: list[tuple[np.ndarray, ...]] = []
        for _, name, head, place in self._pairs(foreign=kind == "top1"):
            seen = (domain == place) & (tested | (kind == "top1"))
            if seen.sum() < _FEWEST:
                raise DataError(
                    f"shift: {seen.sum()} test images in {self.domains[place]}; it needs {_FEWEST} or more"
                )
            right = (answers[head]["class"] == label) & seen
            columns[f"{kind}@{name}"] = np.where(seen, right, np.nan)
            sure, loss = answers[head]["confidence"], answers[head]["nll"]
            parts.append((right, seen, np.where(seen, sure, np.nan), np.where(seen, loss, 0.0)))
        names = (f"{field}@{kind}" for field in ("right", "seen", "confidence", "nll"))
        stacked = (np.stack(arrays, axis=1) for arrays in zip(*parts, strict=True))
        return {**dict(zip(names, stacked, strict=True)), **columns}

    def _sources(self, head: int) -> Bool[np.ndarray, " domains"]:
        """Return which domains a head is fitted on."""
        own = np.arange(len(self.domains)) == head
        return own if self.protocol == "single_source" else ~own

    def _pairs(self, *, foreign: bool) -> Iterator[tuple[str, str, int, int]]:
        """Yield kind and name of a score, its head, and the domain, which is foreign to the head or not."""
        for head, name in enumerate(self.domains):
            for place in np.flatnonzero(self._sources(head) != foreign).tolist():
                single = self.protocol == "single_source"
                source = f"{name}/" if single and foreign else "" if foreign or single else f"without {name}/"
                yield _KINDS[not foreign], f"{source}{self.domains[place]}", head, place


_KINDS = ("top1", "in_domain")


def _loss(kind: str) -> Metric:
    statistic = mean_over_parts_of(f"nll@{kind}", f"seen@{kind}")
    return Metric(f"nll@{kind}", statistic, higher_is_better=False, unit="nats")
