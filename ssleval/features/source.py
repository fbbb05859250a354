"""Where tasks get features: extracted once for all of them, stored, and read back as memory maps."""

import sys
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ssleval.core import (
    Context,
    FeatureRequest,
    FeatureTable,
    Geometry,
    Precision,
    RandomView,
    Readout,
    Split,
)  # fmt: skip
from ssleval.core.backbone import Backbone, Similarity
from ssleval.core.escape import terminal_line
from ssleval.core.task import Needs
from ssleval.errors import ConfigError, ContractError, DataError, NotApplicableError
from ssleval.features import cache, parts
from ssleval.features.extract import Extracted, choose_batch_size, extract
from ssleval.features.flops import forward_flops
from ssleval.features.identity import fingerprints_of, model_identity
from ssleval.features.memorypass import AnyPass
from ssleval.features.parts import Part
from ssleval.features.passes import Pass, column_of, merge, pass_of
from ssleval.features.price import PassPrice, price_of, seconds_per_image
from ssleval.features.probe import probe
from ssleval.features.readouts import canonical, square
from ssleval.features.rehearsal import Rehearsal
from ssleval.features.shard import Shard, current_shard
from ssleval.features.store import StoredPass


class FeatureSource:
    """Features of one backbone under one context."""

    def __init__(self, backbone: Backbone, context: Context) -> None:
        if context.precision == "published":
            raise ConfigError("precision published: a choice for tasks, each of which has its own; name one")
        # Subclasses come out of their constructor in training mode.
        self.backbone = backbone.to(context.device).eval()
        self.context = context
        self.counts: dict[str, Extracted] = {}
        """What this source extracted, by key of the pass; one that was stored already is absent."""
        self._known: dict[tuple[int, str, str, Geometry | RandomView], Pass] = {}
        self._flops: dict[int, int] = {}
        self._confirmed: dict[str, set[Readout]] = {}
        # Before the first image: a model may keep things that it computes.
        _ = self.identity

    @cached_property
    def identity(self) -> dict[str, Any]:
        """All that decides features but the data, for the key of a result."""
        return {**self._model, "native_geometry": self.backbone.card.native_geometry().recorded()}

    @cached_property
    def _model(self) -> dict[str, Any]:
        return model_identity(self.backbone, self.context.precision)

    def check_needs(self, task: str, needs: Needs) -> None:
        """Refuse a model that lacks what a task needs, by a NotApplicableError."""
        if needs.text_tower:
            similarity: Any = self.backbone.similarity()
            if not isinstance(similarity, Similarity):
                raise ContractError(
                    f"{self.backbone.card.name}: similarity is no Similarity: {similarity!r:.80}"
                )
        if needs.attention:
            self.backbone.attention(self._black)
        for readout in needs.readouts:
            canonical(readout, self.backbone)
            if readout.kind == "cls" and not self._has_cls:
                raise NotApplicableError(f"{task} needs a class token; {self.backbone.card.name} has none")

    def gives(self, readout: Readout) -> bool:
        """Return whether the model has the block and the token that a readout reads."""
        try:
            canonical(readout, self.backbone)
        except NotApplicableError:
            return False
        return readout.kind != "cls" or self._has_cls

    def check(self, requests: Iterable[FeatureRequest]) -> None:
        """Refuse, before anything is read, what the model cannot give.

        Raises:
            NotApplicableError: a block or a class token it does not have.
            ConfigError: a geometry it cannot take, or images to leave out where a task runs the model itself.
        """
        card = self.backbone.card
        for request in requests:
            if not request.readouts:
                self._refuse_options(request.dataset.card.name)
            geometry = request.geometry or card.native_geometry()
            side = geometry.fixed_size
            if side is not None:
                self.backbone.patch_grid(square(side))
            for readout in request.readouts:
                column_of(canonical(readout, self.backbone), self.backbone, geometry)
                if readout.kind == "cls" and not self._has_cls:
                    raise NotApplicableError(f"{card.name} has no class token for {readout}")

    def _refuse_options(self, dataset: str) -> None:
        """Refuse what a task cannot heed that runs the model on a ``dataset`` itself."""
        itself = f"a task runs the model on {dataset} itself"
        if self.context.skip_corrupt:
            raise ConfigError(
                f"--skip-corrupt: {itself} and cannot leave images out; run that task without the option"
            )
        if self.context.pixels != "exact":
            raise ConfigError(
                f"--pixels {self.context.pixels}: {itself}, on exact pixels; run that task without the option"
            )

    def prepare(self, requests: Iterable[FeatureRequest]) -> None:
        """Extract what is missing for all requests: one pass for each dataset, split and geometry."""
        requests, shard = tuple(requests), current_shard()
        with shard.agreed("features"):
            self.check(requests)
            for pass_ in self.passes(requests):
                # Several processes must agree on what is missing, so they look together, under the lock.
                if shard.world > 1 or not self._is_complete(pass_):
                    self._fill(pass_, shard)
                self._confirm(pass_, shard)

    def confirm(self, requests: Iterable[FeatureRequest]) -> None:
        """Compare what is stored for requests with the files and what the model gives; extract nothing."""
        requests = tuple(requests)
        for request in requests:
            _refuse_changed(request.dataset.split(request.split))
        for pass_ in self.passes(requests):
            if self._is_complete(pass_):
                self._confirm(pass_, Shard())

    def load(self, request: FeatureRequest) -> FeatureTable:
        """Return the features of one request, extracting them first where they are missing.

        Rows of images left out as corrupt are missing; only then are the arrays copies in memory.
        """
        (pass_,) = self.passes([request])
        if not self._is_complete(pass_):
            # Other processes may have gone on to the next dataset, so they cannot be counted on to extract.
            if current_shard().world > 1:
                raise ContractError(f"{pass_.label}: a task loads features that its requests did not declare")
            self.prepare([request])
        self._confirm(pass_, Shard())
        stored, columns, split = self._stored(pass_), pass_.columns(self.backbone), pass_.split
        stored.touch()
        valid = stored.valid()
        rows = np.flatnonzero(valid)
        arrays = {
            readout: stored.data(columns[canonical(readout, self.backbone)]).read()
            for readout in request.readouts
        }
        if valid.all():
            return FeatureTable(split.ids, split.targets, arrays, rows)
        ids, targets = [split.ids[row] for row in rows.tolist()], split.targets
        arrays = {readout: array[rows] for readout, array in arrays.items()}
        for array in arrays.values():
            array.setflags(write=False)
        return FeatureTable(ids, None if targets is None else targets[rows], arrays, rows)

    def passes(self, requests: Iterable[FeatureRequest]) -> tuple[Pass, ...]:
        """Return one pass for each dataset, split and geometry; requests without a readout need none."""
        return merge(self._pass(request) for request in requests if request.readouts)

    def prices(self, passes: Iterable[Pass]) -> list[PassPrice]:
        """Return what each pass still costs, doing none of it."""
        return [price_of(pass_, self.backbone, self._recent(pass_), self.context) for pass_ in passes]

    def calibrate(self, prices: Iterable[PassPrice]) -> float:
        """Return the seconds that unfinished passes would take, from a few batches of each."""
        total = 0.0
        for price in prices:
            if price.images_left:
                total += price.images_left * seconds_per_image(price, self.backbone, self.context)
        return total

    def in_other_precisions(self, prices: Iterable[PassPrice]) -> dict[str, float]:
        """Return what `calibrate` does, for the precisions that suit the device and are not chosen."""
        kinds: tuple[Precision, ...] = ("fp32", "bf16", "fp16")
        # Processors have no products in fp16: a few batches may take minutes.
        known = kinds[:2] if self.context.device == "cpu" else kinds
        left = [price for price in prices if price.images_left]
        seconds: dict[str, float] = {}
        for kind in (kind for kind in known if left and kind != self.context.precision):
            other = replace(self.context, precision=kind)
            seconds[kind] = sum(
                price.images_left * seconds_per_image(price, self.backbone, other, 1) for price in left
            )
        return seconds

    def rehearsal(self, requests: Iterable[FeatureRequest]) -> Rehearsal:
        """Return a stand-in for this source that extracts nothing, to price what a task does with features.

        ``requests`` are those of the task on whole splits, whose features are used where they are stored.
        """
        known = {_asked(request): request for request in requests if request.readouts}

        def stored(request: FeatureRequest) -> FeatureTable | None:
            whole = known.get(_asked(request))
            if whole is None or not all(map(self._is_complete, self.passes([whole]))):
                return None
            table = self.load(whole)
            return table if len(table.ids) == len(whole.dataset.split(whole.split)) else None

        return Rehearsal(self.backbone, stored)

    def timings(self, passes: Iterable[Pass]) -> dict[str, float]:
        """Return what ``passes`` took in this process, and what was stored already."""
        passes = tuple(passes)
        total = sum((self.counts.get(pass_.key, Extracted()) for pass_ in passes), Extracted())
        return {
            "extract_seconds": round(total.seconds, 3),
            "images_extracted": float(total.images),
            "images_reused": float(sum(len(pass_.split) for pass_ in passes) - total.images),
            "images_per_second": round(total.images / total.seconds, 1) if total.images else 0.0,
        }

    def cost(self, passes: Iterable[Pass]) -> dict[str, float]:
        """Return the FLOPs of one image's forward pass, and its side in pixels.

        Nothing where sizes vary, or where the task runs the model itself: no one number is its cost then.
        """
        sides = {pass_.geometry.fixed_size for pass_ in passes}
        side = sides.pop() if len(sides) == 1 else None
        if side is None:
            return {}
        if side not in self._flops:
            self._flops[side] = forward_flops(self.backbone, side, self.context.device)
        return {"flops_per_image": float(self._flops[side]), "image_side": float(side)}

    def skipped(self, passes: Iterable[Pass]) -> dict[str, list[str]]:
        """Return the ids of images left out as corrupt, by ``DATASET/SPLIT``; only splits that have some."""
        left_out: dict[str, list[str]] = {}
        for pass_ in passes:
            gaps = np.flatnonzero(~self._stored(pass_).valid()).tolist()
            if gaps:
                left_out[pass_.label] = [pass_.split.ids[row] for row in gaps]
        return left_out

    @cached_property
    def _has_cls(self) -> bool:
        return self.backbone(self._black, (-1,)).blocks[0].cls is not None

    @property
    def _black(self) -> Float[Tensor, "1 3 s s"]:
        side = self.backbone.card.native_geometry().fixed_size
        assert side is not None
        return torch.zeros(1, 3, side, side, device=self.context.device)

    def _pass(self, request: FeatureRequest) -> Pass:
        name, split = request.dataset.card.name, request.dataset.split(request.split)
        geometry = request.geometry or self.backbone.card.native_geometry()
        geometry = replace(geometry, pixels=self.context.pixels)
        # A known pass keeps its split, so that the id is that of no other.
        key = (id(split), name, request.split, geometry)
        if key not in self._known:
            self._known[key] = pass_of(self.backbone, self._model, name, request.split, split, geometry)
        readouts = tuple(canonical(readout, self.backbone) for readout in request.readouts)
        return replace(self._known[key], readouts=readouts)

    def _folder(self, pass_: Pass) -> Path:
        return cache.folder_of(self.context.cache, pass_.key)

    def _open(self, pass_: Pass) -> AnyPass | None:
        return StoredPass.open(self._folder(pass_))

    def _recent(self, pass_: Pass) -> AnyPass | None:
        """Return the pass on disk, unless it is older than this run may use, or its age cannot be read."""
        try:
            stored = self._open(pass_)
        except DataError:
            if self.context.since:
                return None
            raise
        return None if stored is None or stored.created < self.context.since else stored

    def _stored(self, pass_: Pass) -> AnyPass:
        stored = self._open(pass_)
        if stored is None:
            raise DataError(f"{pass_.label}: its features were removed while in use; run again")
        return stored

    def _lacks(self, stored: AnyPass, pass_: Pass) -> bool:
        return any(stored.pending(column) for column in pass_.columns(self.backbone).values())

    def _is_complete(self, pass_: Pass) -> bool:
        stored = self._recent(pass_)
        if stored is None or self._lacks(stored, pass_):
            return False
        return self.context.skip_corrupt or bool(stored.valid().all())

    def _fill(self, pass_: Pass, shard: Shard) -> None:
        shard.same(f"{self.backbone.card.name} on {pass_.label}", fingerprints_of(pass_.identity))
        label = f"{self.backbone.card.name} on {pass_.label}"
        with cache.lock(self.context.cache, pass_.key, label) if shard.leads else nullcontext():
            with shard.agreed(f"beginning {pass_.label}"):
                stored = self._begin(pass_) if shard.leads else None
            mine = self._share(pass_, stored, shard)
            with shard.agreed(f"extracting {pass_.label}"):
                own = extract(self.backbone, pass_, mine, self.context, shard)
            # By now every process has closed its files.
            with shard.agreed(f"merging {pass_.label}"):
                if stored is not None and shard.world > 1:
                    self._merge(pass_, stored)
        shares = shard.exchange(f"counts of {pass_.label}", own)
        done = replace(sum(shares, Extracted()), seconds=max(one.seconds for one in shares))
        if done.images:
            self.counts[pass_.key] = done + self.counts.get(pass_.key, Extracted())

    def _share(self, pass_: Pass, stored: StoredPass | None, shard: Shard) -> StoredPass | Part:
        """Return what this process writes: the leader the pass itself, the others a part of their own."""
        if stored is not None and shard.world == 1:
            return stored
        columns = tuple(pass_.columns(self.backbone).values())
        token = shard.from_leader(
            f"sharing out {pass_.label}",
            lambda: 0 if stored is None else parts.share_out(stored, columns, shard.world),
        )
        with shard.agreed(f"joining {pass_.label}"):
            return stored or parts.join(self._folder(pass_), token, shard.rank)

    def _merge(self, pass_: Pass, stored: StoredPass) -> None:
        parts.merge(stored)
        if self._lacks(stored, pass_):
            raise parts.not_shared(stored.folder, "what another process wrote there does not appear here")

    def _confirm(self, pass_: Pass, shard: Shard) -> None:
        """Refuse stored features that are damaged or not those of the model; look at each readout once."""
        known = self._confirmed.setdefault(pass_.key, set())
        left = tuple(readout for readout in pass_.readouts if readout not in known)
        if not left or not len(pass_.split):
            return
        part, stored = replace(pass_, readouts=left), self._stored(pass_)
        with shard.agreed(f"comparing {pass_.label}"):
            if shard.leads:
                _refuse_changed(pass_.split)
                for column in part.columns(self.backbone).values():
                    stored.check(column)
            probe(self.backbone, part, stored, self.context, anew=pass_.key in self.counts)
        known.update(left)

    def _begin(self, pass_: Pass) -> StoredPass:
        """Bring the pass on disk to where extraction can go on; the caller holds its lock."""
        size, stored = self.context.batch_size, self._recent(pass_)
        if not isinstance(stored, StoredPass):
            stored = StoredPass.begin(self._folder(pass_), self._description(pass_))
        elif size not in {0, stored.batch_size} and self._lacks(stored, pass_):
            print(  # noqa: T201
                terminal_line(
                    f"ssleval: {pass_.label}: batches of {stored.batch_size}, as this pass began, not {size}"
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
        stored.allocate(tuple(pass_.columns(self.backbone).values()))
        return stored

    def _description(self, pass_: Pass) -> dict[str, Any]:
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


def _refuse_changed(split: Split) -> None:
    if split.refuse_changed is not None:
        split.refuse_changed()


def _asked(request: FeatureRequest) -> tuple[object, ...]:
    return request.dataset.card.name, request.split, request.geometry, request.readouts


def _retry_corrupt(stored: StoredPass) -> None:
    """Have images tried again that an earlier run left out: now each must decode, or stop the run."""
    for row in np.flatnonzero(~stored.valid()).tolist():
        for column in stored.columns():
            stored.forget(column, row // stored.batch_size)
        stored.mark(row, np.ones(1, dtype=bool))
