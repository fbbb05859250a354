"""Schedules, groups and clipping against plain references."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from ssleval.train.networks import build_networks, update_teacher
from ssleval.train.optim import clip, parameter_groups
from ssleval.train.schedules import cosine, rates, scaled_lr, teacher_temperature
from tests.train.tiny_training import tiny


@pytest.mark.parametrize(("steps", "warmup"), [(20, 0), (20, 5), (7, 7), (3, 1)])
def test_cosine_is_a_line_from_zero_and_half_a_wave(steps: int, warmup: int) -> None:
    left = np.arange(steps - warmup)
    wave = 0.1 + 0.5 * (2.0 - 0.1) * (1 + np.cos(np.pi * left / max(1, len(left))))
    expected = np.concatenate([np.linspace(0, 2.0, warmup), wave])
    found = [cosine(step, steps=steps, base=2.0, final=0.1, warmup=warmup) for step in range(steps)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_the_teacher_temperature_rises_step_by_step() -> None:
    found = [teacher_temperature(step, warmup_value=0.04, value=0.07, warmup=4) for step in range(6)]
    np.testing.assert_allclose(found, [*np.linspace(0.04, 0.07, 4), 0.07, 0.07])


def test_the_learning_rate_follows_the_batch() -> None:
    assert scaled_lr(5e-4, 1024, 256, "linear") == pytest.approx(2e-3)
    assert scaled_lr(4e-3, 256, 1024, "sqrt") == pytest.approx(2e-3)


def test_every_schedule_of_a_run_moves() -> None:
    config = tiny()
    first, last = rates(config, 0, 10), rates(config, 19, 10)
    assert first.lr == 0
    assert rates(config, 9, 10).lr == pytest.approx(5e-4 * 4 / 256)
    assert first.weight_decay == pytest.approx(0.04)
    assert last.weight_decay > 0.39
    assert (first.momentum, first.freeze_last_layer) == (pytest.approx(0.996), True)
    assert last.momentum > 0.9999
    assert (last.teacher_temp, last.freeze_last_layer) == (0.07, False)


def test_biases_and_norms_do_not_decay_and_early_blocks_learn_slower() -> None:
    config = tiny("optim.layer_decay=0.5", "optim.patch_embed_lr=0.2")
    student, _ = build_networks(config)
    names = {id(parameter): name for name, parameter in student.named_parameters()}
    found = {
        names[id(parameter)]: (group["decays"], group["lr_scale"])
        for group in parameter_groups(student, config.optim, depth=2)
        for parameter in group["params"]
    }
    assert set(found) == {name for name, one in student.named_parameters() if one.requires_grad}
    assert found["backbone.cls_token"] == (True, 0.125)
    assert found["backbone.patch_embed.proj.weight"] == (True, 0.125 * 0.2)
    assert found["backbone.blocks.0.attn.qkv.weight"] == (True, 0.25)
    assert found["backbone.blocks.1.norm1.weight"] == (False, 0.5)
    assert found["backbone.norm.weight"] == (False, 1.0)
    assert found["head.mlp.0.bias"] == (False, 1.0)
    assert found["head.last_layer.weight_v"] == (True, 1.0)


def test_prototypes_of_fixed_length_are_no_parameter_of_the_optimiser() -> None:
    student, teacher = build_networks(tiny("head.norm_last_layer=true"))
    assert not student.head.last_layer.weight_g.requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


@pytest.mark.parametrize("by", ["tensor", "module"])
def test_clipping_is_by_tensor_or_by_module(by: str) -> None:
    layer = torch.nn.Linear(3, 2)
    layer.weight.grad, layer.bias.grad = torch.full((2, 3), 2.0), torch.full((2,), 0.1)
    norms = [float(layer.weight.grad.norm()), float(layer.bias.grad.norm())]
    clip([layer], 1.0, by)
    limits = norms if by == "tensor" else [math.hypot(*norms)] * 2
    expected = [norm * min(1.0, 1.0 / (limit + 1e-6)) for norm, limit in zip(norms, limits, strict=True)]
    assert [float(layer.weight.grad.norm()), float(layer.bias.grad.norm())] == pytest.approx(expected)


def test_no_limit_clips_nothing() -> None:
    layer = torch.nn.Linear(3, 2)
    layer.weight.grad = torch.full((2, 3), 200.0)
    clip([layer], 0.0, "tensor")
    assert float(layer.weight.grad.max()) == 200


def test_the_teacher_moves_a_little_towards_the_student() -> None:
    student, teacher = build_networks(tiny())
    ours: Any = student.head.mlp[0]
    theirs: Any = teacher.head.mlp[0]
    before = theirs.weight.clone()
    with torch.no_grad():
        ours.weight.add_(1)
    update_teacher(teacher, student, 0.9)
    torch.testing.assert_close(theirs.weight, before * 0.9 + ours.weight * 0.1)
