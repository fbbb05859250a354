"""One training step: the teacher's targets, the student's losses, and both updates."""

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from ssleval.backbones.vit import Vit
from ssleval.core.files import file_sha256
from ssleval.errors import ConfigError
from ssleval.train.config import TrainConfig
from ssleval.train.distill import frozen_teacher
from ssleval.train.gram import GramTeacher, gram_loss
from ssleval.train.kernels import rounded_products
from ssleval.train.losses import centered, dino_loss, ibot_loss, koleo, sinkhorn, update_center
from ssleval.train.networks import Network, build_networks, untrained, update_teacher
from ssleval.train.objective import Objective
from ssleval.train.optim import clip, gradient_norm, optimizer, parameter_groups
from ssleval.train.processes import world_size
from ssleval.train.schedules import Rates
from ssleval.train.sharded import as_sharded, gathered, optimizer_as_sharded, shard
from ssleval.train.start import start_from
from ssleval.train.timm_network import synchronise
from ssleval.train.views import Views
from ssleval.train.watch import collapse_indicators

N = TypeVar("N", Network, GramTeacher)
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


_Charge: TypeAlias = Callable[[slice], dict[str, Tensor]]
"""Returns the weighted losses of a micro-batch; over all micro-batches they sum to the batch's."""
_Watch: TypeAlias = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
"""Returns indicators of collapse, given the losses of a step."""


class Learner:
    """Student, EMA teacher, optimiser and centres.

    ``guide`` gives the targets: it is the teacher, or the frozen network of a distillation. The teacher
    becomes the model in either case. ``resumed`` networks get their weights from `restore`.
    """

    def __init__(self, config: TrainConfig, device: torch.device, *, resumed: bool = False) -> None:
        self.config = config
        self.device = device
        student, teacher = build_networks(config)
        if config.model.init and not resumed:
            start_from(config, student)
            teacher.load_state_dict(student.state_dict())
        self.student, self.teacher = self._placed(student), self._placed(teacher)
        self.gram = self._placed(GramTeacher(config, resumed=resumed)) if config.gram.weight > 0 else None
        self.guide, self._guide_sha256 = self.teacher, ""
        backbone = self.student.backbone
        depth = len(backbone.blocks) if isinstance(backbone, Vit) else 0
        self.optimizer = optimizer(parameter_groups(self.student, config.optim, depth), config.optim)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.run.precision == "fp16")
        self.centers = [torch.zeros(head.prototypes, device=device) for head in config.heads]
        """Centres of the logits of class tokens and, with their loss, of patches."""
        if config.loss.distill:
            path = Path(config.loss.distill)
            guide, centers = frozen_teacher(path, config)
            self.guide, self._guide_sha256 = self._placed(guide), file_sha256(path)
            self._take_centers(centers)
        if config.run.compile:
            for network in {self.student, self.teacher, self.guide, self.gram}:
                if network is not None:
                    network.backbone.compile(dynamic=False)
        replicated = world_size() > 1 and not config.run.shard
        self._network = DistributedDataParallel(self.student) if replicated else self.student

    def _placed(self, network: N) -> N:
        synchronise(network, self.device)
        if not self.config.is_transformer:
            # Convolutions are faster where the channels of a pixel lie side by side.
            network = network.to(memory_format=torch.channels_last)
        if self.config.run.shard:
            shard(network, self.device)
        return network.to(self.device)

    def step(self, views: Views, masks: Tensor | None, rates: Rates, *, watched: bool) -> dict[str, Tensor]:
        """Take one step; return the losses of this process and, if ``watched``, the collapse indicators."""
        with rounded_products(self.device, tf32=self.config.run.tf32):
            return self._step(views, masks, rates, watched=watched)

    def _step(self, views: Views, masks: Tensor | None, rates: Rates, *, watched: bool) -> dict[str, Tensor]:
        if self.gram is not None and rates.renew_gram:
            self.gram.renew(self.teacher)
        charge, watch = (
            self._distillation(views, masks, rates)
            if (objective := self.student.objective) is None
            else self._objective(objective, views, masks)
        )
        terms: dict[str, Tensor] = {}
        self.optimizer.zero_grad(set_to_none=True)
        batch = views.globals.shape[1]
        size = batch // self.config.run.accumulate
        for start in range(0, batch, size):
            # Replicated gradients are averaged over processes only after the last micro-batch; sharded ones
            # after each, because no process has memory for the full gradients.
            network, last = self._network, start + size == batch
            with (
                nullcontext()
                if last or not isinstance(network, DistributedDataParallel)
                else network.no_sync()
            ):
                losses = charge(slice(start, start + size))
                self.scaler.scale(sum(losses.values(), torch.zeros((), device=self.device))).backward()
            for name, value in losses.items():
                terms[name] = terms.get(name, 0) + value.detach()
        norm = self._update(rates, watched=watched)
        if watched and norm is not None:
            terms["gradient_norm"] = norm
            terms |= watch(terms)
        return terms

    def _distillation(self, views: Views, masks: Tensor | None, rates: Rates) -> tuple[_Charge, _Watch]:
        with self._autocast():
            targets, patch_targets, features = self._targets(views, masks, rates)

        def watch(terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
            crops = len(views.locals)
            weight = self.config.loss.dino * (1 + crops * rates.local_weight) / (1 + crops)
            return collapse_indicators(targets, features, terms.get("dino"), weight)

        return partial(self._losses, views, masks, targets, patch_targets, rates), watch

    def _objective(self, objective: Objective, views: Views, masks: Tensor | None) -> tuple[_Charge, _Watch]:
        batch, weight = views.globals.shape[1], self.config.loss.koleo
        seen: list[Tensor] = []

        def charge(rows: slice) -> dict[str, Tensor]:
            part = views[rows]
            own = None if masks is None else masks.unflatten(0, (-1, batch))[:, rows].flatten(0, 1)
            with self._autocast():
                outputs, classes = self._network(part, own)
            seen[:] = outputs.detach(), classes.detach()
            losses = objective.losses(outputs.float(), part, own)
            if weight > 0:
                losses["koleo"] = weight * _koleo(classes)
            share = part.globals.shape[1] / batch
            return {name: value * share for name, value in losses.items()}

        def watch(terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
            del terms
            # Those of the last micro-batch.
            return objective.indicators(*seen)

        return charge, watch

    def _update(self, rates: Rates, *, watched: bool) -> Tensor | None:
        """Update both networks; if ``watched``, return the norm of the gradients before they are clipped."""
        optim = self.config.optim
        self.scaler.unscale_(self.optimizer)
        norm = gradient_norm(self.student) if watched else None
        clip(list(self.student.children()), optim.clip, optim.clip_by)
        if rates.freeze_last_layer and optim.freeze_last_layer_by == "gradient":
            for name, parameter in self.student.named_parameters():
                if "last_layer" in name:
                    parameter.grad = None
        for group in self.optimizer.param_groups:
            # Older checkpoints lack the mark.
            frozen = rates.freeze_last_layer and group.get("freezes", False)
            group["lr"] = 0.0 if frozen else rates.lr * group["lr_scale"]
            group["weight_decay"] = rates.weight_decay if group["decays"] else 0.0
        self.scaler.step(self.optimizer)
        self.scaler.update()
        update_teacher(self.teacher, self.student, rates.momentum)
        return norm

    @torch.no_grad()
    def _targets(
        self, views: Views, masks: Tensor | None, rates: Rates
    ) -> tuple[Float[Tensor, "2 b k"], Float[Tensor, "m p"] | None, Float[Tensor, "n d"]]:
        loss = self.config.loss
        of_all = masks is not None and loss.centering == "centering" and loss.patch_center == "all"
        seen = torch.ones_like(masks) if masks is not None and of_all else masks
        logits, patches, features, _ = self.guide(Views(views.globals, views.locals[:0]), seen)
        targets = self._probabilities(logits.flatten(0, 1), self.centers[0], rates.teacher_temp)
        if masks is not None and patches is not None:
            chosen = patches[masks.flatten()] if of_all else patches
            temperature = rates.teacher_patch_temp or rates.teacher_temp
            patches = self._probabilities(chosen, self.centers[1], temperature, patches)
        return targets.unflatten(0, (2, -1)), patches, features.flatten(0, 1).float()

    def _probabilities(
        self, logits: Tensor, center: Tensor, temperature: float, every: Tensor | None = None
    ) -> Tensor:
        """Return the targets of ``logits``; the centre follows the mean of ``every``, or of ``logits``."""
        loss = self.config.loss
        if loss.centering == "sinkhorn":
            return sinkhorn(logits, temperature, loss.sinkhorn_iterations)
        probabilities = centered(logits, center, temperature)
        if loss.centering == "centering":
            update_center(center, logits if every is None else every, loss.center_momentum)
        return probabilities

    def _losses(
        self,
        views: Views,
        masks: Tensor | None,
        targets: Tensor,
        patch_targets: Tensor | None,
        rates: Rates,
        rows: slice,
    ) -> dict[str, Tensor]:
        """Return the weighted losses of a micro-batch; over all micro-batches they sum to the batch's."""
        loss, batch = self.config.loss, views.globals.shape[1]
        own = None if masks is None else masks.unflatten(0, (2, batch))[:, rows].flatten(0, 1)
        with self._autocast():
            # A frozen teacher's student sees all patches.
            logits, patches, classes, dense = self._network(
                views[rows], own, loss.student_temp, hide=not loss.distill, dense=rates.gram_weight > 0
            )
        share = classes.shape[1] / batch
        losses: dict[str, Tensor] = {}
        if loss.dino > 0:
            losses["dino"] = dino_loss(logits, targets[:, rows], rates.local_weight) * (loss.dino * share)
        if masks is not None and own is not None and patches is not None and patch_targets is not None:
            owners = masks.nonzero()[:, 0] % batch
            mine = (owners >= rows.start) & (owners < rows.stop)
            counts = own.sum(dim=1, keepdim=True).clamp(min=1).expand_as(own)[own]
            losses["ibot"] = ibot_loss(patches, patch_targets[mine], 1 / (counts * 2 * batch)) * loss.ibot
        if loss.koleo > 0:
            losses["koleo"] = _koleo(classes) * (loss.koleo * share)
        if dense is not None:
            losses["gram"] = self._gram_loss(views[rows], dense, own) * (rates.gram_weight * share)
        return losses

    def _gram_loss(self, views: Views, patches: Tensor, masks: Tensor | None) -> Tensor:
        gram = self.config.gram
        assert self.gram is not None
        assert views.undistorted is not None
        with self._autocast():
            goal = self.gram(views.undistorted.flatten(0, 1), math.isqrt(patches.shape[1]))
        chosen = None
        if masks is not None and gram.tokens != "all":
            chosen = masks if gram.tokens == "masked" else ~masks
        return gram_loss(patches, goal, chosen, gram)

    def _autocast(self) -> Any:
        dtype = _AUTOCAST.get(self.config.run.precision)
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype)

    def state(self, *, keep: bool = True) -> dict[str, Any]:
        """Return everything that a resumed run needs. Every process must call it; see `sharded.gathered`."""
        state = {
            "student": self.student.state_dict(),
            "teacher": self.teacher.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "centers": self.centers,
            "guide_sha256": self._guide_sha256,
        }
        if self.gram is not None:
            state["gram"] = self.gram.state_dict()
        return gathered(state, keep=keep)

    def full_teacher(self, state: Mapping[str, Any]) -> Network:
        """Return the teacher for use by one process, given what `state` returned.

        A sharded teacher is gathered on the CPU, because a device may lack the memory for it.
        """
        if not self.config.run.shard:
            return self.teacher
        teacher = untrained(self.config, drop_path=0.0)
        teacher.load_state_dict(state["teacher"])
        return teacher.requires_grad_(False)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Load what `state` returned; refuse another frozen teacher than the run began with."""
        if state.get("guide_sha256", "") != self._guide_sha256:
            raise ConfigError(
                f"{self.config.loss.distill}: the frozen teacher has changed since this run began; restore "
                "the one it began with, or start in another folder"
            )
        for name, network in (("student", self.student), ("teacher", self.teacher), ("gram", self.gram)):
            if network is not None:
                network.load_state_dict(as_sharded(state[name], network))
        self.optimizer.load_state_dict(optimizer_as_sharded(state["optimizer"], self.optimizer))
        # That of a run in another precision is empty.
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self._take_centers(state["centers"])

    def _take_centers(self, centers: Iterable[Tensor]) -> None:
        # Older checkpoints have one tensor of both kinds, whatever the loss.
        for ours, theirs in zip(self.centers, centers, strict=False):
            ours.copy_(theirs)


def _koleo(classes: Float[Tensor, "g b d"]) -> Float[Tensor, ""]:
    return sum((koleo(crop) for crop in classes), classes.new_zeros(()))
