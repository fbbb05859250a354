"""Passes on their way to the disk: locked, begun, shared out to processes, extracted and merged."""

import sys
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np

from ssleval.core import Context
from ssleval.core.backbone import Backbone
from ssleval.core.escape import terminal_line
from ssleval.errors import DataError, SslevalError
from ssleval.features import cache, parts
from ssleval.features.extract import Consumer, Extracted, choose_batch_size, extract
from ssleval.features.memorypass import AnyPass
from ssleval.features.parts import Part
from ssleval.features.passes import Pass, fingerprints_of
from ssleval.features.shard import Shard
from ssleval.features.store import StoredPass

P = ParamSpec("P")
T = TypeVar("T")


class Filling:
    """One pass of one model, and how it comes to be stored."""

    def __init__(self, backbone: Backbone, pass_: Pass, context: Context) -> None:
        self.backbone, self.pass_, self.context = backbone, pass_, context
        self.done = Extracted()
        """What all processes extracted of it."""
        self.error: SslevalError | None = None
        """Why it could not be filled."""
        self.consumer: Consumer | None = None
        """What takes the batches of this process, once the pass has begun."""
        self._begun: StoredPass | None = None

    def is_complete(self) -> bool:
        """Return whether all is stored, with no image left out that this run must not leave out."""
        stored = self.recent()
        if stored is None or self._lacks(stored):
            return False
        return self.context.skip_corrupt or bool(stored.valid().all())

    def is_needed(self, shard: Shard) -> bool:
        """Return whether to call `fill`.

        Several processes must agree on what is missing, so they look together, under the lock.
        """
        return shard.world > 1 or not self.is_complete()

    def open(self) -> AnyPass | None:
        """Return what there is of the pass."""
        return StoredPass.open(self._folder)

    def recent(self) -> AnyPass | None:
        """Return what there is, unless it is older than this run may use, or its age cannot be read."""
        try:
            stored = self.open()
        except DataError:
            if self.context.since:
                return None
            raise
        return None if stored is None or stored.created < self.context.since else stored

    def stored(self) -> AnyPass:
        """Return what there is of the pass; DataError: nothing."""
        stored = self.open()
        if stored is None:
            raise DataError(f"{self.pass_.label}: its features were removed while in use; run again")
        return stored

    def noted(self, step: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T | None:
        """Return what a step of this pass returns; its error is noted, so that other passes go on."""
        try:
            return step(*arguments, **named)
        except SslevalError as error:
            self.error = error
            return None

    def begin(self, shard: Shard, locks: ExitStack) -> None:
        """Lock the pass, bring it to where extraction can go on, and take this process's share of it."""
        label = f"{self.backbone.card.name} on {self.pass_.label}"
        shard.same(label, fingerprints_of(self.pass_.identity))
        with shard.agreed(f"beginning {label}"):
            if shard.leads:
                locks.enter_context(cache.lock(self.context.cache, self.pass_.key, label))
                self._begun = self._begin()
        mine = self._share(shard)
        with shard.agreed(f"reading {label}"):
            self.consumer = Consumer(self.backbone, self.pass_, mine, self.context)

    def end(self, shard: Shard) -> None:
        """Merge and count what all processes extracted; the error of one is raised in all."""
        assert self.consumer is not None
        shares = shard.exchange(f"counts of {self.pass_.label}", self.consumer.done)
        self.done = replace(sum(shares, Extracted()), seconds=max(one.seconds for one in shares))
        # By now every process has closed its files.
        with shard.agreed(f"extracting {self.pass_.label}"):
            if self.consumer.error is not None:
                raise self.consumer.error
        with shard.agreed(f"merging {self.pass_.label}"):
            if self._begun is not None and shard.world > 1:
                parts.merge(self._begun)
                if self._lacks(self._begun):
                    lack = "what another process wrote there does not appear here"
                    raise parts.not_shared(self._begun.folder, lack)

    @property
    def _folder(self) -> Path:
        return cache.folder_of(self.context.cache, self.pass_.key)

    def _lacks(self, stored: AnyPass) -> bool:
        return any(stored.pending(column) for column in self.pass_.columns(self.backbone).values())

    def _share(self, shard: Shard) -> StoredPass | Part:
        """Return what this process writes: the leader the pass itself, the others a part of their own."""
        stored, label = self._begun, self.pass_.label
        if stored is not None and shard.world == 1:
            return stored
        columns = tuple(self.pass_.columns(self.backbone).values())
        token = shard.from_leader(
            f"sharing out {label}",
            lambda: 0 if stored is None else parts.share_out(stored, columns, shard.world),
        )
        with shard.agreed(f"joining {label}"):
            return stored or parts.join(self._folder, token, shard.rank)

    def _begin(self) -> StoredPass:
        """Bring the pass on disk to where extraction can go on; the caller holds its lock."""
        size, stored, label = self.context.batch_size, self.recent(), self.pass_.label
        if not isinstance(stored, StoredPass):
            stored = StoredPass.begin(self._folder, self._description())
        elif size not in {0, stored.batch_size} and self._lacks(stored):
            print(  # noqa: T201
                terminal_line(
                    f"ssleval: {label}: batches of {stored.batch_size}, as this pass began, not {size}"
                ),
                file=sys.stderr,
            )
        parts.merge(stored)
        if not self.context.skip_corrupt:
            _retry_corrupt(stored)
        elif not stored.valid().all():
            # Images would be left out by wrong marks: features that are there already tell.
            for column in stored.columns():
                if not stored.pending(column):
                    stored.check(column)
        stored.allocate(tuple(self.pass_.columns(self.backbone).values()))
        return stored

    def _description(self) -> dict[str, Any]:
        pass_ = self.pass_
        return {
            "model": self.backbone.card.name,
            "dataset": pass_.dataset,
            "split": pass_.split_name,
            "images": len(pass_.split),
            "batch_size": choose_batch_size(self.backbone, pass_.readouts, pass_.geometry, self.context),
            "device": self.context.device,
            "created": datetime.now(UTC).isoformat(timespec="microseconds"),
            "identity": pass_.identity,
        }


def fill(fillings: Sequence[Filling], shard: Shard) -> None:
    """Extract what passes over one split at one geometry lack; each image is decoded once for all of them.

    What goes wrong with one of them is its ``error``, in all processes, and the others go on.
    """
    with ExitStack() as locks:
        # All processes lock in one order, so that none waits for another that waits for it.
        for one in sorted(fillings, key=lambda one: one.pass_.key):
            one.noted(one.begin, shard, locks)
        begun = [one for one in fillings if one.error is None]
        for consumers in _alike(one.consumer for one in begun):
            extract(consumers, shard)
        for one in begun:
            one.noted(one.end, shard)


def _alike(consumers: Iterable[Consumer | None]) -> Iterable[list[Consumer]]:
    """Return those together that take the same batches, with the same images left out."""
    groups: dict[Hashable, list[Consumer]] = {}
    for one in consumers:
        if one is not None:
            groups.setdefault((one.stored.batch_size, one.corrupt), []).append(one)
    return groups.values()


def _retry_corrupt(stored: StoredPass) -> None:
    """Have images tried again that an earlier run left out: now each must decode, or stop the run."""
    for row in np.flatnonzero(~stored.valid()).tolist():
        for column in stored.columns():
            stored.forget(column, row // stored.batch_size)
        stored.mark(row, np.ones(1, dtype=bool))
