"""Where tasks get features: extracted once for all of them, stored, and read back as memory maps."""

from collections.abc import Hashable, Iterable
from dataclasses import replace
from functools import cached_property
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
from ssleval.core.faults import forget_frames
from ssleval.core.task import Needs
from ssleval.core.trainable import refuse_untrainable
from ssleval.errors import ConfigError, ContractError, NotApplicableError
from ssleval.features.decode import KeptImages
from ssleval.features.extract import Extracted
from ssleval.features.filling import Filling, fill
from ssleval.features.passes import Pass, column_of, merge, model_identity, pass_of
from ssleval.features.price import PassPrice, forward_flops, price_of, seconds_per_image
from ssleval.features.probe import probe
from ssleval.features.readouts import canonical, square
from ssleval.features.rehearsal import Rehearsal
from ssleval.features.shard import Shard, current_shard


class FeatureSource:
    """Features of one backbone under one context; ``shown`` keeps the images that models are compared on."""

    def __init__(self, backbone: Backbone, context: Context, shown: KeptImages | None = None) -> None:
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
        self._shown = shown or KeptImages(0)
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
        if needs.gradients:
            refuse_untrainable(self.backbone)
        if needs.attention:
            self.backbone.attention(self._black)
        if needs.keys:
            try:
                self.backbone.keys(self._black)
            except NotApplicableError as error:
                raise NotApplicableError("; ".join(filter(None, (str(error), needs.without_keys)))) from error
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
                filling = self._filling(pass_)
                if filling.is_needed(shard):
                    fill([filling], shard)
                    if filling.error is not None:
                        raise filling.error
                    self._count(filling)
                self._confirm(pass_, shard)

    def confirm(self, requests: Iterable[FeatureRequest]) -> None:
        """Compare what is stored for requests with the files and what the model gives; extract nothing."""
        requests = tuple(requests)
        for request in requests:
            _refuse_changed(request.dataset.split(request.split))
        for pass_ in self.passes(requests):
            if self._filling(pass_).is_complete():
                self._confirm(pass_, Shard())

    def load(self, request: FeatureRequest) -> FeatureTable:
        """Return the features of one request, extracting them first where they are missing.

        Rows of images left out as corrupt are missing; only then are the arrays copies in memory.
        """
        (pass_,) = self.passes([request])
        if not self._filling(pass_).is_complete():
            # Other processes may have gone on to the next dataset, so they cannot be counted on to extract.
            if current_shard().world > 1:
                raise ContractError(f"{pass_.label}: a task loads features that its requests did not declare")
            self.prepare([request])
        self._confirm(pass_, Shard())
        stored, columns, split = self._filling(pass_).stored(), pass_.columns(self.backbone), pass_.split
        stored.touch()
        valid = stored.valid()
        rows = np.flatnonzero(valid)
        arrays = {
            readout: stored.array(columns[canonical(readout, self.backbone)]) for readout in request.readouts
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
        return [
            price_of(pass_, self.backbone, self._filling(pass_).recent(), self.context) for pass_ in passes
        ]

    def calibrate(self, prices: Iterable[PassPrice]) -> float:
        """Return the seconds that unfinished passes would take, from a few batches of each."""
        return self._seconds(prices, self.context)

    def in_other_precisions(self, prices: Iterable[PassPrice]) -> dict[str, float]:
        """Return what `calibrate` does, for the precisions that suit the device and are not chosen."""
        kinds: tuple[Precision, ...] = ("fp32", "bf16", "fp16")
        # Processors have no products in fp16: a few batches may take minutes.
        known = kinds[:2] if self.context.device == "cpu" else kinds
        left = [price for price in prices if price.images_left]
        others = [kind for kind in known if left and kind != self.context.precision]
        return {kind: self._seconds(left, replace(self.context, precision=kind), 1) for kind in others}

    def _seconds(self, prices: Iterable[PassPrice], context: Context, batches: int = 2) -> float:
        left = (price for price in prices if price.images_left)
        seconds = (
            price.images_left * seconds_per_image(price, self.backbone, context, batches) for price in left
        )
        return sum(seconds, 0.0)

    def rehearsal(self, requests: Iterable[FeatureRequest]) -> Rehearsal:
        """Return a stand-in for this source that extracts nothing, to price what a task does with features.

        ``requests`` are those of the task on whole splits, whose features are used where they are stored.
        """
        known = {_asked(request): request for request in requests if request.readouts}

        def stored(request: FeatureRequest) -> FeatureTable | None:
            whole = known.get(_asked(request))
            if whole is None or not all(self._filling(pass_).is_complete() for pass_ in self.passes([whole])):
                return None
            table = self.load(whole)
            return table if len(table.ids) == len(whole.dataset.split(whole.split)) else None

        return Rehearsal(self.backbone, stored)

    def timings(self, passes: Iterable[Pass]) -> dict[str, float]:
        """Return what ``passes`` took, and what was stored already.

        The seconds of an extraction for several models are divided among them: each has what its own
        forward passes and writing took, and an equal part of the time until images were decoded.
        """
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
            gaps = np.flatnonzero(~self._filling(pass_).stored().valid()).tolist()
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

    def _filling(self, pass_: Pass) -> Filling:
        return Filling(self.backbone, pass_, self.context)

    def _count(self, filling: Filling) -> None:
        key = filling.pass_.key
        if filling.done.images:
            self.counts[key] = filling.done + self.counts.get(key, Extracted())

    def _confirm(self, pass_: Pass, shard: Shard) -> None:
        """Refuse stored features that are damaged or not those of the model; look at each readout once."""
        known = self._confirmed.setdefault(pass_.key, set())
        left = tuple(readout for readout in pass_.readouts if readout not in known)
        if not left or not len(pass_.split):
            return
        part, stored = replace(pass_, readouts=left), self._filling(pass_).stored()
        with shard.agreed(f"comparing {pass_.label}"):
            if shard.leads:
                _refuse_changed(pass_.split)
                for column in part.columns(self.backbone).values():
                    stored.check(column)
            probe(self.backbone, part, stored, self.context, self._shown, anew=pass_.key in self.counts)
        known.update(left)


def _refuse_changed(split: Split) -> None:
    if split.refuse_changed is not None:
        split.refuse_changed()


def _asked(request: FeatureRequest) -> tuple[object, ...]:
    return request.dataset.card.name, request.split, request.geometry, request.readouts


def prepare_together(asked: Iterable[tuple[FeatureSource, Iterable[FeatureRequest]]]) -> None:
    """Extract what several models lack of one split at one geometry; each image is decoded once for them.

    What only one of them lacks is left to `FeatureSource.prepare`. So are errors, which it meets again.
    """
    shard = current_shard()
    alike: dict[Hashable, dict[str, tuple[FeatureSource, Filling]]] = {}
    with shard.agreed("features of several models"):
        for source, requests in asked:
            for pass_ in source.passes(requests):
                filling = source._filling(pass_)
                if filling.noted(filling.is_needed, shard):
                    # Models of equal weights and cards share a pass.
                    alike.setdefault(pass_.view, {}).setdefault(pass_.key, (source, filling))
        for group in alike.values():
            if len(group) > 1:
                fill([filling for _, filling in group.values()], shard)
                for source, filling in group.values():
                    source._count(filling)
                    if filling.error is not None:
                        # Its frames hold batches and features.
                        forget_frames(filling.error)
