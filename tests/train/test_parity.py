"""Twenty steps of every recipe against the published loop, written out: losses and gradient norms."""

import copy
import math
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ssleval.train.config import TrainConfig, read_config
from ssleval.train.learner import Learner
from ssleval.train.schedules import rates
from ssleval.train.views import Views
from tests.train.tiny_training import SETTINGS as TINY
from tests.train.tiny_training import in_double, tiny

EPOCHS, PER_EPOCH, BATCH = 4, 5, 4
SETTINGS = (
    f"run.epochs={EPOCHS}", "model.drop_path=0", "loss.warmup_teacher_temp_epochs=2", "optim.lr=0.05",
    "optim.clip=0.3", "views.local_crops=2", "model.patch_size=4",
)  # fmt: skip


def cosine(base: float, final: float, warm: int = 0) -> np.ndarray:
    """Return `utils.cosine_scheduler` of DINO."""
    left = np.arange(EPOCHS * PER_EPOCH - warm)
    wave = final + 0.5 * (base - final) * (1 + np.cos(np.pi * left / len(left)))
    return np.concatenate((np.linspace(0, base, warm), wave))


def batches(large: int = 16, small: int = 8) -> Iterator[tuple[Views, Tensor]]:
    random = torch.Generator().manual_seed(0)
    for _ in range(EPOCHS * PER_EPOCH):
        shapes = ((2, BATCH, 3, large, large), (2, BATCH, 3, small, small))
        masks = torch.rand(2 * BATCH, 16, generator=random) < 0.3
        masks[::2] = False
        first, second = (torch.randn(shape, generator=random) for shape in shapes)
        yield Views(first, second, torch.randn(2, BATCH, 3, 2 * large, 2 * large, generator=random)), masks


class Published:
    """The loops of `main_dino.py`, `main_ibot.py` and DINOv2's `ssl_meta_arch.py`, one image at a time."""

    def __init__(self, config: TrainConfig, student: Any, teacher: Any) -> None:
        self.config, self.student, self.teacher = config, student, teacher
        self.v2 = config.optim.clip_by == "module"
        groups: list[dict[str, Any]] = []
        for name, weight in student.named_parameters():
            if weight.requires_grad:
                groups.append({"params": [weight], "name": name, "lr": 0.0, "weight_decay": 0.0})
        if config.optim.kind == "sgd":
            self.optimizer: torch.optim.Optimizer = torch.optim.SGD(groups, momentum=0.9, foreach=False)
        else:
            betas = (config.optim.beta1, config.optim.beta2)
            self.optimizer = torch.optim.AdamW(groups, betas=betas, foreach=False, fused=False)
        self.centers = [torch.zeros(config.head.prototypes) for _ in range(2)]
        optim, loss = config.optim, config.loss
        reference, power = (1024, 0.5) if self.v2 else (256, 1.0)
        warm = PER_EPOCH * int(optim.warmup_epochs)
        self.lr = cosine(optim.lr * (BATCH / reference) ** power, optim.min_lr, warm)
        self.decay = cosine(optim.weight_decay, optim.weight_decay_end)
        self.momentum = cosine(optim.momentum, 1.0)
        spread = 1 if self.v2 else PER_EPOCH
        first = 2 * PER_EPOCH // spread
        self.temperatures = [
            np.repeat(np.concatenate((np.linspace(low, high, first), np.full(2 * first, high))), spread)
            for low, high in (
                (loss.warmup_teacher_temp, loss.teacher_temp),
                (loss.warmup_teacher_patch_temp or 0.04, loss.teacher_patch_temp or 0.07),
            )
        ]

    def scale(self, name: str) -> float:
        """Return DINOv2's factor of the learning rate of a weight."""
        if not self.v2 or not name.startswith("backbone"):
            return 1.0
        layer = self.config.model.depth + 1
        if any(part in name for part in ("pos_embed", "patch_embed", "mask_token", "cls_token", "register")):
            layer = 0
        elif ".blocks." in name:
            layer = int(name.split(".blocks.")[1].split(".", maxsplit=1)[0]) + 1
        factor = self.config.optim.layer_decay ** (self.config.model.depth + 1 - layer)
        return factor * (0.2 if "patch_embed" in name else 1.0)

    def targets(self, logits: Tensor, every: Tensor, kind: int, temperature: float) -> Tensor:
        """Return what the teacher says of ``logits``, and move its centre towards ``every``."""
        if self.config.loss.centering == "sinkhorn":
            q = torch.exp(logits / temperature).T
            q /= q.sum()
            for _ in range(3):
                q /= q.sum(dim=1, keepdim=True)
                q /= q.shape[0]
                q /= q.sum(dim=0, keepdim=True)
                q /= q.shape[1]
            return (q * q.shape[1]).T
        found = functional.softmax((logits - self.centers[kind]) / temperature, dim=-1)
        self.centers[kind] = self.centers[kind] * 0.9 + every.mean(dim=0) * 0.1
        return found

    def losses(self, views: Views, masks: Tensor, step: int) -> Tensor:
        """Return the sum of all losses of a step."""
        loss, masked = self.config.loss, self.config.loss.ibot > 0
        student, teacher, goals = self.student, self.teacher, torch.zeros(0)
        cls_temp, patch_temp = (float(schedule[step]) for schedule in self.temperatures)
        with torch.no_grad():
            seen = teacher.backbone(views.globals.flatten(0, 1))
            heads = [network.patch_head or network.head for network in (student, teacher)]
            logits = teacher.head(seen[:, 0])
            wanted = self.targets(logits, logits, 0, cls_temp).chunk(2)
            if masked:
                prefix = teacher.backbone.config.num_prefix
                every = heads[1](seen[:, prefix:].flatten(0, 1))
                chosen = every[masks.flatten()]
                goals = self.targets(chosen, chosen if self.v2 else every, 1, patch_temp)
        tokens = student.backbone(views.globals.flatten(0, 1), masks if masked else None)
        small = student.backbone(views.locals.flatten(0, 1))[:, 0]
        crops = (student.head(torch.cat((tokens[:, 0], small))) / 0.1).chunk(4)
        weights = [1.0, 1.0, *[self.of_local_crops(step)] * (len(crops) - 2)]
        terms = [
            weights[v] * torch.sum(-wanted[q] * functional.log_softmax(crops[v], dim=-1), dim=-1).mean()
            for q in range(2)
            for v in range(len(crops))
            if v != q
        ]
        total = sum(terms, torch.zeros(())) / len(terms)
        if masked:
            rows = iter(goals.split(masks.sum(dim=1).tolist()))
            for crop, mask in zip(tokens, masks, strict=True):
                hidden, goal = crop[student.backbone.config.num_prefix :][mask], next(rows)
                if len(hidden):
                    said = functional.log_softmax(heads[0](hidden) / 0.1, dim=-1)
                    total = total - loss.ibot * (goal * said).sum() / len(hidden) / len(masks)
        total = total + self.anchored(tokens, views, step)
        for part in tokens[:, 0].chunk(2) if loss.koleo else ():
            unit = functional.normalize(part, dim=-1)
            near = (unit @ unit.T - 2 * torch.eye(len(unit))).argmax(dim=1)
            total = (
                total
                - loss.koleo * (functional.pairwise_distance(unit, unit[near], 2, 1e-8) + 1e-8).log().mean()
            )
        return total

    def of_local_crops(self, step: int) -> float:
        """Return the weight of local crops."""
        return 1.0

    def anchored(self, tokens: Tensor, views: Views, step: int) -> Tensor:
        """Return a further loss of the global crops: none here."""
        return tokens.new_zeros(())

    def step(self, views: Views, masks: Tensor, step: int) -> tuple[float, float]:
        """Take a step; return the loss and the norm of the gradients before they are clipped."""
        total = self.losses(views, masks, step)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        weights = [weight for weight in self.student.parameters() if weight.grad is not None]
        norm = math.sqrt(sum(float(weight.grad.double().pow(2).sum()) for weight in weights))
        limit = self.config.optim.clip
        if self.v2:
            for part in self.student.children():
                torch.nn.utils.clip_grad_norm_(part.parameters(), limit)
        else:
            for weight in weights:
                if (factor := limit / (float(weight.grad.norm(2)) + 1e-6)) < 1:
                    weight.grad.mul_(factor)
        frozen = step < self.config.optim.freeze_last_layer_epochs * PER_EPOCH
        for group in self.optimizer.param_groups:
            (weight,), name = group["params"], group["name"]
            last = "last_layer" in name
            group["lr"] = 0.0 if self.v2 and last and frozen else self.lr[step] * self.scale(name)
            group["weight_decay"] = 0.0 if name.endswith(".bias") or weight.ndim == 1 else self.decay[step]
            if last and frozen and not self.v2:
                weight.grad = None
        self.optimizer.step()
        with torch.no_grad():
            for mine, yours in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                mine.mul_(self.momentum[step]).add_((1 - self.momentum[step]) * yours)
        return float(total.detach()), norm


class PublishedV3(Published):
    """The loop of DINOv3's `train.py` and `ssl_meta_arch.py`: other schedules, and Gram anchoring."""

    def __init__(self, config: TrainConfig, student: Any, teacher: Any) -> None:
        super().__init__(config, student, teacher)
        optim, loss, steps = config.optim, config.loss, EPOCHS * PER_EPOCH

        def risen(start: float, peak: float, epochs: float) -> np.ndarray:
            warm = int(epochs * PER_EPOCH)
            rise = np.linspace(start, peak, warm, endpoint=False)
            return np.concatenate((rise, np.full(steps - warm, peak)))

        self.lr = risen(0, optim.lr * (BATCH / 1024) ** 0.5, optim.warmup_epochs)
        self.decay = np.full(steps, optim.weight_decay)
        self.momentum = np.full(steps, optim.momentum)
        warm = loss.warmup_teacher_temp_epochs
        self.temperatures = [risen(loss.warmup_teacher_temp, loss.teacher_temp, warm)] * 2
        before = int(config.gram.start_epochs * PER_EPOCH)
        wave = 1 - (np.cos(np.linspace(0, np.pi, int(config.gram.warmup_epochs * PER_EPOCH))) + 1) / 2
        after = np.ones(steps - before - len(wave))
        self.weights = config.gram.weight * np.concatenate((np.zeros(before), wave, after))
        # local_loss_weight_schedule: start and peak are 1, and the warm-up is the epochs before.
        before = int(loss.local_start_epochs * PER_EPOCH)
        wave = np.cos(np.linspace(0, np.pi, int(loss.local_warmup_epochs * PER_EPOCH)))
        falling = loss.local + 0.5 * (1 - loss.local) * (1 + wave)
        rest = np.full(steps - before - len(wave), loss.local)
        self.local = np.concatenate((np.ones(before), falling, rest))
        self.gram: Any = None
        self.updates = 0

    def of_local_crops(self, step: int) -> float:
        return float(self.local[step])

    def anchored(self, tokens: Tensor, views: Views, step: int) -> Tensor:
        if self.weights[step] == 0:
            return tokens.new_zeros(())
        assert views.undistorted is not None
        prefix = self.student.backbone.config.num_prefix
        with torch.no_grad():
            patches = self.gram(views.undistorted.flatten(0, 1))[:, prefix:]
            grid = patches.transpose(1, 2).unflatten(2, (8, 8))
            small = functional.interpolate(grid, (4, 4), mode="bicubic", align_corners=False, antialias=False)
            goal = functional.normalize(small.flatten(2).transpose(1, 2), dim=-1)
        ours = functional.normalize(tokens[:, prefix:], dim=-1)
        pairs = torch.stack([a @ a.T - b @ b.T for a, b in zip(ours, goal, strict=True)])
        return float(self.weights[step]) * pairs.pow(2).mean()

    def step(self, views: Views, masks: Tensor, step: int) -> tuple[float, float]:
        gram = self.config.gram
        if step == int(gram.copy_epochs * PER_EPOCH):  # it_load_ema_teacher
            self.gram = copy.deepcopy(self.teacher.backbone)
        found = super().step(views, masks, step)
        every = int(gram.renew_epochs * PER_EPOCH)
        first = int(gram.start_epochs * PER_EPOCH) + every  # it_first_update
        if step + 1 >= first and (step + 1) % every == 0 and self.updates < gram.renewals:
            self.gram = copy.deepcopy(self.teacher.backbone)
            self.updates += 1
        return found


GRAM = (
    "model.layerscale=0.1", "head.patch_bottleneck=8", "gram.crop_size=32", "gram.copy_epochs=0.4",
    "gram.start_epochs=1", "gram.warmup_epochs=1", "gram.renew_epochs=1", "gram.renewals=2",
    "optim.freeze_last_layer_epochs=1", "loss.local_start_epochs=1.2", "loss.local_warmup_epochs=1",
    "head.patch_hidden=20", "head.patch_prototypes=28",
)  # fmt: skip


@pytest.mark.parametrize(
    ("recipe", "settings"),
    [
        ("dino", ()),
        ("dino", ("head.norm_last_layer=true", "head.batch_norm=true")),
        ("ibot", ("loss.teacher_patch_temp=0.06",)),
        # With a LayerScale of 1e-5, class tokens are almost equal at first: KoLeo magnifies the last digit.
        ("dinov2_short", ("loss.koleo=0",)),
        ("dinov2_short", ("model.layerscale=0.1",)),
        ("dinov2_short", ("model.layerscale=0.1", "loss.centering=sinkhorn", "model.registers=2")),
        ("dinov2", ("model.layerscale=0.1",)),
        ("dinov3_gram", GRAM),
    ],
)
@pytest.mark.parametrize(
    "double", [pytest.param(False, marks=pytest.mark.slow, id="float32"), pytest.param(True, id="float64")]
)
def test_twenty_steps_are_those_of_the_published_loop(
    recipe: str, settings: tuple[str, ...], double: bool
) -> None:
    with in_double() if double else nullcontext():
        compare(tiny(*SETTINGS, *settings, recipe=recipe), double=double)


def test_twenty_steps_of_a_convolutional_network_are_those_of_the_published_loop() -> None:
    settings = [one for one in SETTINGS if not one.startswith("model.")]
    small = [one for one in TINY if not one.startswith("model.")]
    with in_double():
        # A small ResNet, with crops of several of its strides.
        sizes = ("model.arch=timm:test_resnet", "views.global_size=64", "views.local_size=32")
        compare(read_config("dino_resnet50", [*small, *settings, *sizes]), sides=(64, 32), double=True)


def compare(config: TrainConfig, *, sides: tuple[int, int] = (16, 8), double: bool) -> None:
    learner = Learner(config, torch.device("cpu"))
    loop = PublishedV3 if config.gram.weight else Published
    published = loop(config, copy.deepcopy(learner.student), copy.deepcopy(learner.teacher))
    moved = copy.deepcopy(learner.student.state_dict())
    loss_error, norm_error = (1e-9, 1e-6) if double else (1e-5, 1e-4)
    for step, (views, masks) in enumerate(batches(*sides)):
        now = rates(config, step, PER_EPOCH)
        terms = learner.step(views, masks if config.loss.ibot else None, now, watched=True)
        loss = sum(float(terms[name]) for name in ("dino", "ibot", "koleo", "gram") if name in terms)
        wanted, norm = published.step(views, masks, step)
        assert loss == pytest.approx(wanted, rel=loss_error), step
        assert float(terms["gradient_norm"]) == pytest.approx(norm, rel=norm_error), step
    assert any(not torch.equal(value, moved[name]) for name, value in learner.student.state_dict().items())
