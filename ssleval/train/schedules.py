"""Schedules as pure functions of the step: resuming restores no scheduler state."""

import math
from dataclasses import dataclass
from functools import partial

from ssleval.train.config import TrainConfig
from ssleval.train.sections import GramConfig, LossConfig


def cosine(
    step: int, *, steps: int, base: float, final: float, warmup: int = 0, full_after: bool = False
) -> float:
    """Return the value at ``step`` of a linear warm-up from 0, then half a cosine from base to final.

    The warm-up goes from 0 at its first step to ``base`` at its last, or with ``full_after`` at the next. The
    cosine starts at ``base`` and would reach ``final`` one step after the end.

    Source:
        facebookresearch/dino utils.py, ``cosine_scheduler``; ``full_after``: facebookresearch/dinov3
        train/cosine_lr_scheduler.py, ``linear_warmup_cosine_decay``.
    """
    if step < warmup:
        return base * risen(step, warmup, full_after=full_after)
    progress = (step - warmup) / max(1, steps - warmup)
    return final + 0.5 * (base - final) * (1 + math.cos(math.pi * progress))


def risen(step: int, warmup: int, *, full_after: bool) -> float:
    """Return the part of its height that a linear warm-up has reached at ``step``."""
    return step / max(1, warmup if full_after else warmup - 1)


def teacher_temperature(
    step: int, *, warmup_value: float, value: float, warmup: int, full_after: bool = False
) -> float:
    """Return the temperature at ``step``: a linear warm-up as in `cosine`, then constant.

    Steps are those of the optimiser, as in DINOv2, or whole epochs, as in DINO and iBOT.
    """
    if step >= warmup:
        return value
    return warmup_value + (value - warmup_value) * risen(step, warmup, full_after=full_after)


def scaled_lr(lr: float, batch: int, reference: int, rule: str) -> float:
    """Scale the learning rate to ``batch`` images a step: linearly (DINO) or by the square root (DINOv2)."""
    ratio = batch / reference
    return lr * (ratio if rule == "linear" else math.sqrt(ratio))


@dataclass(frozen=True, slots=True)
class Rates:
    """The scheduled values of one step."""

    lr: float
    weight_decay: float
    momentum: float
    """EMA momentum of the teacher."""
    teacher_temp: float
    freeze_last_layer: bool
    local_weight: float = 1.0
    """Of local crops in the class-token loss."""
    teacher_patch_temp: float = 0.0
    """Of the targets of patches; 0: as ``teacher_temp``."""
    gram_weight: float = 0.0
    renew_gram: bool = False
    """Whether the Gram teacher becomes a copy of the EMA teacher before this step."""


def rates(config: TrainConfig, step: int, per_epoch: int) -> Rates:
    """Return the values at ``step``, for ``per_epoch`` steps an epoch."""
    optim, loss, run = config.optim, config.loss, config.run
    steps = run.epochs * per_epoch
    base = scaled_lr(optim.lr, run.batch_size, optim.lr_batch, optim.lr_rule)
    # DINOv3's schedules, whose warm-ups are complete one step later than DINO's.
    constant = optim.lr_schedule == "constant"
    final = base if constant else optim.min_lr
    warmup = min(steps, round(optim.warmup_epochs * per_epoch))
    # Steps or epochs: what the temperature moves by.
    of, length = (step, per_epoch) if loss.teacher_temp_by == "step" else (step // per_epoch, 1)
    warm_for = round(loss.warmup_teacher_temp_epochs * length)
    temperature = partial(teacher_temperature, of, warmup=warm_for, full_after=constant)
    warm, patch_warm = loss.warmup_teacher_temp, loss.warmup_teacher_patch_temp
    return Rates(
        lr=cosine(step, steps=steps, base=base, final=final, warmup=warmup, full_after=constant),
        weight_decay=cosine(step, steps=steps, base=optim.weight_decay, final=optim.weight_decay_end),
        momentum=cosine(step, steps=steps, base=optim.momentum, final=optim.momentum_end),
        teacher_temp=temperature(warmup_value=warm, value=loss.teacher_temp),
        freeze_last_layer=step < optim.freeze_last_layer_epochs * per_epoch,
        local_weight=local_weight(loss, step, per_epoch),
        teacher_patch_temp=temperature(
            warmup_value=patch_warm or warm, value=loss.teacher_patch_temp or loss.teacher_temp
        ),
        gram_weight=gram_weight(config.gram, step, per_epoch),
        renew_gram=renews_gram(config.gram, step, per_epoch),
    )


def gram_weight(config: GramConfig, step: int, per_epoch: int) -> float:
    """Return the weight at ``step`` of Gram anchoring: 0, then half a cosine to the full weight."""
    return config.weight * _half_cosine(step, config.start_epochs, config.warmup_epochs, per_epoch)


def local_weight(config: LossConfig, step: int, per_epoch: int) -> float:
    """Return the weight at ``step`` of local crops in the class-token loss: 1, then half a cosine from it."""
    part = _half_cosine(step, config.local_start_epochs, config.local_warmup_epochs, per_epoch)
    return 1 + (config.local - 1) * part


def _half_cosine(step: int, start: float, length: float, per_epoch: int) -> float:
    """Return the part at ``step`` of a change that takes ``length`` epochs from ``start`` on."""
    since, warmup = step - round(start * per_epoch), round(length * per_epoch)
    if since < 0 or since >= warmup:
        return float(since >= 0)
    return 0.5 * (1 - math.cos(math.pi * since / max(1, warmup - 1)))


def renews_gram(config: GramConfig, step: int, per_epoch: int) -> bool:
    """Return whether the EMA teacher becomes the Gram teacher before ``step``: at first, or once more."""
    if config.weight == 0:
        return False
    if not config.teacher and step == round((config.copy_epochs or config.start_epochs) * per_epoch):
        return True
    every = max(1, round(config.renew_epochs * per_epoch))
    since = step - round(config.start_epochs * per_epoch)
    return since > 0 and since % every == 0 and since // every <= config.renewals
