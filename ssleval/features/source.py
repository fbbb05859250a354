"""Where tasks get features: extracted once for all of them, stored, and read back as memory maps."""

import sys
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ssleval.core import Context, FeatureRequest, FeatureTable, Geometry, RandomView
from ssleval.core.backbone import Backbone
from ssleval.core.task import Needs
from ssleval.errors import ConfigError, ContractError, DataError, NotApplicableError
from ssleval.features import cache
from ssleval.features.extract import Extracted, choose_batch_size, extract
from ssleval.features.flops import forward_flops
from ssleval.features.identity import model_identity
from ssleval.features.passes import Pass, PassPrice, column_of, merge, pass_of, price_of, seconds_per_image
from ssleval.features.readouts import canonical
from ssleval.features.shard import Shard, current_shard
from ssleval.features.store import Column, StoredPass


class FeatureSource:
    """Features of one backbone under one context."""

    def __init__(self, backbone: Backbone, context: Context) -> None:
        # Subclasses come out of their constructor in training mode.
        self._backbone = backbone.to(context.device).eval()
        self.context = context
        self.counts: dict[str, Extracted] = {}
        """What this source extracted, by key of the pass; one that was stored already is absent."""
        self._known: dict[tuple[int, str, str, Geometry | RandomView], Pass] = {}
        self._flops: dict[int, int] = {}

    @property
    def backbone(self) -> Backbone:
        """The model itself, for protocols that must run it on the fly."""
        return self._backbone

    @cached_property
    def identity(self) -> dict[str, Any]:
        """All that decides features but the data, for the key of a result."""
        native = asdict(self._backbone.card.native_geometry())
        return {**self._model, "native_geometry": native}

    @cached_property
    def _model(self) -> dict[str, Any]:
        return model_identity(self._backbone, self.context.precision)

    def check_needs(self, task: str, needs: Needs) -> None:
        """Refuse a model that lacks what a task needs.

        Raises:
            NotApplicableError: no text tower, no attention, or no such block.
        """
        if needs.text_tower:
            self._backbone.similarity()
        if needs.attention:
            self._backbone.attention(self._black)
        for readout in needs.readouts:
            canonical(readout, self._backbone)
            if readout.kind == "cls" and not self._has_cls:
                raise NotApplicableError(f"{task} needs a class token; {self._backbone.card.name} has none")

    def check(self, requests: Iterable[FeatureRequest]) -> None:
        """Refuse, before anything is read, what the model cannot give.

        Raises:
            NotApplicableError: a block or a class token it does not have.
            ConfigError: a geometry it cannot take, or images to leave out where a task runs the model itself.
        """
        card = self._backbone.card
        for request in requests:
            if self.context.skip_corrupt and not request.readouts:
                raise ConfigError(
                    f"--skip-corrupt: a task runs the model on {request.dataset.card.name} itself and cannot "
                    "leave images out; run that task without the option"
                )
            geometry = request.geometry or card.native_geometry()
            side = geometry.fixed_size
            if side is not None and side % card.patch_size:
                raise ConfigError(
                    f"{card.name}: {side} pixels is not a multiple of its patch size {card.patch_size}"
                )
            for readout in request.readouts:
                column_of(canonical(readout, self._backbone), card, geometry)
                if readout.kind == "cls" and not self._has_cls:
                    raise NotApplicableError(f"{card.name} has no class token for {readout}")

    def prepare(self, requests: Iterable[FeatureRequest]) -> None:
        """Extract what is missing for all requests: one pass for each dataset, split and geometry."""
        requests = tuple(requests)
        self.check(requests)
        shard = current_shard()
        for pass_ in self.passes(requests):
            # Several processes must agree on what is missing, so they look together, under the lock.
            if shard.world > 1 or not self._is_complete(pass_, StoredPass.open(self._folder(pass_))):
                self._fill(pass_, shard)

    def load(self, request: FeatureRequest) -> FeatureTable:
        """Return the features of one request, extracting them first where they are missing.

        Rows of images left out as corrupt are missing; only then are the arrays copies in memory.

        Raises:
            ContractError: several processes share the work and nobody prepared these features. One of
                them alone may load, so none can count on the others for extracting now.
        """
        (pass_,) = self.passes([request])
        # What was prepared needs no other process, which may have gone on to the next dataset.
        if not self._is_complete(pass_, StoredPass.open(self._folder(pass_))):
            if current_shard().world > 1:
                raise ContractError(f"{pass_.label}: a task loads features that its requests did not declare")
            self.prepare([request])
        stored = self._stored(pass_)
        cache.touch(stored)
        valid = stored.valid()
        rows = np.flatnonzero(valid)
        arrays = {
            readout: stored.data(column).read()
            for readout, column in zip(request.readouts, self._columns(pass_, request), strict=True)
        }
        split = pass_.split
        if valid.all():
            return FeatureTable(split.ids, split.targets, arrays, rows)
        return FeatureTable(
            ids=[split.ids[row] for row in rows.tolist()],
            targets=None if split.targets is None else split.targets[rows],
            arrays={readout: _frozen(array[rows]) for readout, array in arrays.items()},
            rows=rows,
        )

    def passes(self, requests: Iterable[FeatureRequest]) -> tuple[Pass, ...]:
        """Return the passes that serve all ``requests``: one for each dataset, split and geometry.

        Requests without a readout need none: their task runs the model itself.

        Raises:
            NotApplicableError: a block the model does not have.
        """
        return merge(self._pass(request) for request in requests if request.readouts)

    def prices(self, passes: Iterable[Pass]) -> list[PassPrice]:
        """Return what each pass still costs, doing none of it."""
        return [
            price_of(pass_, self._backbone, StoredPass.open(self._folder(pass_)), self.context)
            for pass_ in passes
        ]

    def calibrate(self, passes: Iterable[Pass]) -> float:
        """Return the seconds that unfinished passes would take, from a few batches of each."""
        passes = tuple(passes)
        total = 0.0
        for pass_, price in zip(passes, self.prices(passes), strict=True):
            if price.images_left:
                each = seconds_per_image(pass_, self._backbone, price.batch_size, self.context)
                total += each * price.images_left
        return total

    def timings(self, passes: Iterable[Pass]) -> dict[str, float]:
        """Return what ``passes`` took in this process, and what was stored already."""
        passes = tuple(passes)
        counts = [self.counts.get(pass_.key, Extracted()) for pass_ in passes]
        extracted = sum(count.images for count in counts)
        seconds = float(sum(count.seconds for count in counts))
        return {
            "extract_seconds": round(seconds, 3),
            "images_extracted": float(extracted),
            "images_reused": float(sum(len(pass_.split) for pass_ in passes) - extracted),
            "images_per_second": round(extracted / seconds, 1) if extracted else 0.0,
        }

    def cost(self, passes: Iterable[Pass]) -> dict[str, float]:
        """Return the FLOPs of one image's forward pass, and its side in pixels.

        Nothing where sizes vary, from image to image or from pass to pass, or where the task runs
        the model itself: no one number is its cost then.
        """
        sides = {pass_.geometry.fixed_size for pass_ in passes}
        side = sides.pop() if len(sides) == 1 else None
        if side is None:
            return {}
        if side not in self._flops:
            self._flops[side] = forward_flops(self._backbone, side, self.context.device)
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
        return self._backbone(self._black, (-1,)).blocks[0].cls is not None

    @property
    def _black(self) -> Float[Tensor, "1 3 s s"]:
        side = self._backbone.card.native_geometry().fixed_size
        assert side is not None
        return torch.zeros(1, 3, side, side, device=self.context.device)

    def _pass(self, request: FeatureRequest) -> Pass:
        split = request.dataset.split(request.split)
        geometry = request.geometry or self._backbone.card.native_geometry()
        name = request.dataset.card.name
        # A known pass keeps its split, so that the id is that of no other.
        key = (id(split), name, request.split, geometry)
        if key not in self._known:
            self._known[key] = pass_of(self._backbone, self._model, name, request.split, split, geometry)
        readouts = tuple(canonical(readout, self._backbone) for readout in request.readouts)
        return replace(self._known[key], readouts=readouts)

    def _folder(self, pass_: Pass) -> Path:
        return cache.folder_of(self.context.cache, pass_.key)

    def _columns(self, pass_: Pass, request: FeatureRequest | None = None) -> tuple[Column, ...]:
        wanted = pass_.readouts
        if request is not None:
            wanted = tuple(canonical(readout, self._backbone) for readout in request.readouts)
        return tuple(column_of(readout, self._backbone.card, pass_.geometry) for readout in wanted)

    def _stored(self, pass_: Pass) -> StoredPass:
        stored = StoredPass.open(self._folder(pass_))
        if stored is None:
            raise DataError(f"{pass_.label}: its features were removed while in use; run again")
        return stored

    def _is_complete(self, pass_: Pass, stored: StoredPass | None) -> bool:
        if stored is None or any(stored.pending(column) for column in self._columns(pass_)):
            return False
        return self.context.skip_corrupt or bool(stored.valid().all())

    def _fill(self, pass_: Pass, shard: Shard) -> None:
        columns = dict(zip(pass_.readouts, self._columns(pass_), strict=True))
        leads = shard.leads
        with cache.lock(self.context.cache, pass_.key) if leads else nullcontext():
            if leads:
                self._begin(pass_, tuple(columns.values()))
            shard.barrier()
            done = extract(
                backbone=self._backbone,
                split=pass_.split,
                geometry=pass_.geometry,
                stored=self._stored(pass_),
                columns=columns,
                context=self.context,
                shard=shard,
                label=f"{self._backbone.card.name} on {pass_.label}",
            )
            shard.barrier()
        if done.images:
            self.counts[pass_.key] = done + self.counts.get(pass_.key, Extracted())

    def _begin(self, pass_: Pass, columns: tuple[Column, ...]) -> None:
        """Bring the pass on disk to where extraction can go on; the caller holds its lock."""
        asked, stored = self.context.batch_size, StoredPass.open(self._folder(pass_))
        if stored is None:
            stored = StoredPass.begin(self._folder(pass_), self._description(pass_))
        elif asked not in {0, stored.batch_size} and any(stored.pending(column) for column in columns):
            print(  # noqa: T201
                f"ssleval: {pass_.label}: batches of {stored.batch_size}, as this pass began, not {asked}",
                file=sys.stderr,
            )
        if not self.context.skip_corrupt:
            _retry_corrupt(stored)
        stored.allocate(columns)

    def _description(self, pass_: Pass) -> dict[str, Any]:
        return {
            "model": self._backbone.card.name,
            "dataset": pass_.dataset,
            "split": pass_.split_name,
            "images": len(pass_.split),
            "batch_size": choose_batch_size(self._backbone, pass_.readouts, pass_.geometry, self.context),
            "device": self.context.device,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "identity": pass_.identity,
        }


def _retry_corrupt(stored: StoredPass) -> None:
    """Have images tried again that an earlier run left out: now each must decode, or stop the run."""
    for row in np.flatnonzero(~stored.valid()).tolist():
        for column in stored.columns():
            stored.forget(column, row // stored.batch_size)
        stored.mark(row, np.ones(1, dtype=bool))


def _frozen(array: Float[np.ndarray, "n ..."]) -> Float[np.ndarray, "n ..."]:
    array.setflags(write=False)
    return array
