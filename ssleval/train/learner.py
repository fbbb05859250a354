"""One step of training: what the teacher assigns, what the student is charged, how both move."""

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel

from ssleval.backbones.vit import Vit
from ssleval.core.files import file_sha256
from ssleval.errors import ConfigError
from ssleval.train.config import TrainConfig
from ssleval.train.convnet import synchronise
from ssleval.train.distill import frozen_teacher
from ssleval.train.losses import centered, dino_loss, ibot_loss, koleo, sinkhorn, update_center
from ssleval.train.networks import Network, build_networks, untrained, update_teacher
from ssleval.train.optim import clip, optimizer, parameter_groups, set_rates
from ssleval.train.schedules import Rates
from ssleval.train.sharded import as_placed, optimizer_as_placed, share_out, whole
from ssleval.train.views import Views
from ssleval.train.watch import spread

_PRECISION = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Learner:
    """Student, teacher, optimiser and centres.

    ``teacher`` is the student's moving average and becomes the model; ``guide`` is who assigns: the
    teacher, or a frozen network that is distilled.
    """

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.config = config
        self.device = device
        self.student, self.teacher = (self._placed(network) for network in build_networks(config))
        self.guide, self._guide_sha256 = self.teacher, ""
        trained = self.student.backbone
        depth = len(trained.blocks) if isinstance(trained, Vit) else 0
        self.optimizer = optimizer(parameter_groups(self.student, config.optim, depth), config.optim)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.run.precision == "fp16")
        self.centers = torch.zeros(2, config.head.prototypes, device=device)
        """Of class tokens and of patches."""
        if config.loss.distill:
            path = Path(config.loss.distill)
            guide, centers = frozen_teacher(path, config)
            self.guide, self._guide_sha256 = self._placed(guide), file_sha256(path)
            self.centers.copy_(centers)
        if config.run.compile:
            for network in {self.student, self.teacher, self.guide}:
                network.backbone.compile(dynamic=False)
        copied = not config.run.shard and distributed.is_initialized() and distributed.get_world_size() > 1
        self._network = DistributedDataParallel(self.student) if copied else self.student

    def _placed(self, network: Network) -> Network:
        synchronise(network, self.device)
        if self.config.run.shard:
            share_out(network, self.device)
        return network.to(self.device)

    def step(self, views: Views, masks: Tensor | None, rates: Rates, *, watched: bool) -> dict[str, Tensor]:
        """Take one step and return the losses of this process, and how spread out the teacher is.

        ``watched`` asks for the latter, which takes another pass over its assignments.
        """
        with self._autocast():
            targets, patch_targets, features = self._targets(views, masks, rates.teacher_temp)
        terms: dict[str, Tensor] = {}
        self.optimizer.zero_grad(set_to_none=True)
        parts = self._parts(views.globals.shape[1])
        for index, rows in enumerate(parts):
            with self._gradients(reduced=index == len(parts) - 1):
                charged = self._losses(views, masks, targets, patch_targets, rows)
                self.scaler.scale(sum(charged.values(), torch.zeros((), device=self.device))).backward()
            for name, value in charged.items():
                terms[name] = terms.get(name, 0) + value.detach()
        self._update(rates)
        if watched:
            terms |= spread(targets, features, terms.get("dino"), self.config.loss.dino)
        return terms

    def _update(self, rates: Rates) -> None:
        optim = self.config.optim
        self.scaler.unscale_(self.optimizer)
        clip(list(self.student.children()), optim.clip, optim.clip_by)
        if rates.freeze_last_layer:
            for name, parameter in self.student.named_parameters():
                if "last_layer" in name:
                    parameter.grad = None
        set_rates(self.optimizer, rates.lr, rates.weight_decay)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        update_teacher(self.teacher, self.student, rates.momentum)

    @torch.no_grad()
    def _targets(
        self, views: Views, masks: Tensor | None, temperature: float
    ) -> tuple[Float[Tensor, "2 b k"], Float[Tensor, "m k"] | None, Float[Tensor, "n d"]]:
        logits, patches, features = self.guide.assignments(views.globals, masks)
        assigned = self._assigned(logits.flatten(0, 1), self.centers[0], temperature)
        hidden = None if patches is None else self._assigned(patches, self.centers[1], temperature)
        return assigned.unflatten(0, (2, -1)), hidden, features.float()

    def _assigned(self, logits: Tensor, center: Tensor, temperature: float) -> Tensor:
        loss = self.config.loss
        if loss.centering == "sinkhorn":
            return sinkhorn(logits, temperature, loss.sinkhorn_iterations)
        probabilities = centered(logits, center, temperature)
        if loss.centering == "centering":
            update_center(center, logits, loss.center_momentum)
        return probabilities

    def _losses(
        self, views: Views, masks: Tensor | None, targets: Tensor, hidden: Tensor | None, rows: slice
    ) -> dict[str, Tensor]:
        """Return the weighted losses of some images; over all parts they add up to the batch's."""
        loss, batch = self.config.loss, views.globals.shape[1]
        own = None if masks is None else masks.unflatten(0, (2, batch))[:, rows].flatten(0, 1)
        with self._autocast():
            logits, patches, classes = self._network(views.part(rows), own, loss.student_temp)
        share = classes.shape[1] / batch
        found: dict[str, Tensor] = {}
        if loss.dino > 0:
            found["dino"] = dino_loss(logits, targets[:, rows]) * (loss.dino * share)
        if masks is not None and own is not None and patches is not None and hidden is not None:
            owners = masks.nonzero()[:, 0] % batch
            mine = (owners >= rows.start) & (owners < rows.stop)
            counts = own.sum(dim=1, keepdim=True).clamp(min=1).expand_as(own)[own]
            found["ibot"] = ibot_loss(patches, hidden[mine], 1 / (counts * 2 * batch)) * loss.ibot
        if loss.koleo > 0:
            found["koleo"] = sum((koleo(one) for one in classes), classes.new_zeros(())) * (
                loss.koleo * share
            )
        return found

    def _parts(self, batch: int) -> list[slice]:
        size = batch // self.config.run.accumulate
        return [slice(start, start + size) for start in range(0, batch, size)]

    def _gradients(self, *, reduced: bool) -> Any:
        """Average gradients over processes after the last part of a batch alone, where each has all of them.

        Networks shared out average those of every part, as no process has room for whole gradients.
        """
        network = self._network
        copied = isinstance(network, DistributedDataParallel)
        return network.no_sync() if copied and not reduced else nullcontext()

    def _autocast(self) -> Any:
        precision = _PRECISION.get(self.config.run.precision)
        return nullcontext() if precision is None else torch.autocast(self.device.type, precision)

    def state(self, *, keep: bool = True) -> dict[str, Any]:
        """Return all that later processes need to go on. All processes must ask; see `sharded.whole`."""
        state = {
            "student": self.student.state_dict(),
            "teacher": self.teacher.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "centers": self.centers,
            "guide_sha256": self._guide_sha256,
        }
        return whole(state, keep=keep)

    def whole_teacher(self, state: Mapping[str, Any]) -> Network:
        """Return the teacher as one process can use it, given what `state` returned.

        One that was shared out is on the CPU, for a device may have no room for all of it.
        """
        if not self.config.run.shard:
            return self.teacher
        teacher = untrained(self.config, drop_path=0.0)
        teacher.load_state_dict(state["teacher"])
        return teacher.requires_grad_(False)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` returned.

        Raises:
            ConfigError: the frozen teacher is another one than before.
        """
        if state.get("guide_sha256", "") != self._guide_sha256:
            raise ConfigError(
                f"{self.config.loss.distill}: the frozen teacher has changed since this run began; give back "
                "the one it began with, or start in another folder"
            )
        self.student.load_state_dict(as_placed(state["student"], self.student))
        self.teacher.load_state_dict(as_placed(state["teacher"], self.teacher))
        self.optimizer.load_state_dict(optimizer_as_placed(state["optimizer"], self.optimizer))
        self.scaler.load_state_dict(state["scaler"])
        self.centers.copy_(state["centers"])
