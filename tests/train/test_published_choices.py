"""Settings that restore what the published codes do, and recipes that state it."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from ssleval.backbones.vit import Vit
from ssleval.errors import ConfigError
from ssleval.train.config import read_config, recipes
from ssleval.train.head import DinoHead
from ssleval.train.learner import Learner
from ssleval.train.schedules import Rates, rates
from ssleval.train.views import Views
from tests.train.tiny_training import tiny

RATES = Rates(1e-2, weight_decay=0.1, momentum=0.9, teacher_temp=0.05, freeze_last_layer=False)


def views(seed: int = 0) -> Views:
    drawn = torch.randn(2, 4, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    return Views(drawn, drawn.new_empty(0, 4, 3, 1, 1))


def test_the_teacher_temperature_moves_once_an_epoch_or_every_step() -> None:
    settings = ("run.epochs=6", "loss.warmup_teacher_temp_epochs=4", "loss.ibot=1")
    patches = ("loss.teacher_patch_temp=0.09", "loss.warmup_teacher_patch_temp=0.01")
    for by, steps in (("epoch", 5), ("step", 1)):
        config = tiny(*settings, *patches, f"loss.teacher_temp_by={by}")
        found = [rates(config, step, 5) for step in range(30)]
        warm = 4 if by == "epoch" else 20
        for name, first, last in (("teacher_temp", 0.04, 0.07), ("teacher_patch_temp", 0.01, 0.09)):
            line = [*np.linspace(first, last, warm), *[last] * (30 // steps - warm)]
            np.testing.assert_allclose([getattr(rate, name) for rate in found], np.repeat(line, steps))
    plain = rates(tiny(*settings), 7, 5)
    assert plain.teacher_patch_temp == plain.teacher_temp


def test_patches_have_a_temperature_and_a_centre_of_their_own() -> None:
    config = tiny("loss.ibot=1", "loss.patch_center=all", "model.drop_path=0")
    learner, seen = Learner(config, torch.device("cpu")), views()
    masks = torch.rand(8, 16, generator=torch.Generator().manual_seed(1)) < 0.3
    with torch.no_grad():
        tokens = learner.teacher.backbone(seen.globals.flatten(0, 1))
        logits = learner.teacher.head(tokens[:, 1:].flatten(0, 1))
        given = learner.student.head(
            learner.student.backbone(seen.globals.flatten(0, 1), masks)[:, 1:][masks]
        )
    temperatures = Rates(1e-2, 0.1, 0.9, 0.05, False, teacher_patch_temp=0.02)
    terms = learner.step(seen, masks, temperatures, watched=False)
    targets = (logits[masks.flatten()] / 0.02).softmax(dim=-1)
    losses = -(targets * torch.log_softmax(given / 0.1, dim=-1)).sum(dim=-1)
    counts = masks.sum(dim=1, keepdim=True).expand_as(masks)[masks]
    torch.testing.assert_close(terms["ibot"], (losses / counts).sum() / 8)
    torch.testing.assert_close(learner.centers[1], 0.1 * logits.mean(dim=0))
    of_masked = Learner(tiny("loss.ibot=1", "model.drop_path=0"), torch.device("cpu"))
    of_masked.step(seen, masks, temperatures, watched=False)
    torch.testing.assert_close(of_masked.centers[1], 0.1 * logits[masks.flatten()].mean(dim=0))


@pytest.mark.parametrize("by", ["gradient", "lr"])
def test_a_frozen_last_layer_stays_and_gathers_moments_only_at_a_rate_of_zero(by: str) -> None:
    learner = Learner(tiny(f"optim.freeze_last_layer_by={by}"), torch.device("cpu"))
    layer: Any = learner.student.head.last_layer
    before = layer.weight_v.detach().clone()
    frozen = Rates(1e-2, weight_decay=0.1, momentum=0.9, teacher_temp=0.05, freeze_last_layer=True)
    learner.step(views(), None, frozen, watched=False)
    assert torch.equal(layer.weight_v, before)
    state = learner.optimizer.state[layer.weight_v]
    assert (by == "lr") == bool(state)
    if state:
        assert float(state["exp_avg"].abs().max()) > 0
    assert not torch.equal(learner.student.backbone.get_parameter("pos_embed"), torch.zeros(1))
    learner.step(views(), None, RATES, watched=False)
    assert not torch.equal(layer.weight_v, before)


def test_the_sum_over_blocks_is_as_exact_under_autocast_as_the_published_one() -> None:
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    errors: list[float] = []
    for residual, dtype in (("fp32", torch.float32), ("computed", torch.bfloat16)):
        sizes = ("views.global_size=32", "views.local_size=32")
        config = read_config("dino", ["model.arch=vit_tiny", *sizes, f"run.residual={residual}"])
        torch.manual_seed(0)
        vit = Vit(config.vit()).eval()
        with torch.no_grad():
            exact = vit(images)
            with torch.autocast("cpu", torch.bfloat16):
                assert vit.embed(images).dtype == dtype
                errors.append(float((vit(images).float() - exact).norm() / exact.norm()))
    assert errors[0] < 0.8 * errors[1]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["loss.teacher_patch_temp=0.07"], "needs loss.ibot"),
        (["loss.ibot=1", "head.patch_bottleneck=8"], "loss.shared_head=false"),
        (["loss.ibot=1", "head.patch_hidden=8"], "loss.shared_head=false"),
        (["head.patch_prototypes=8", "loss.shared_head=false"], "loss.shared_head=false"),
        (["head.weight_norm=false", "head.norm_last_layer=true"], "head.norm_last_layer=false"),
        (["loss.local_start_epochs=1"], "loss.local is 1"),
        (["loss.local_warmup_epochs=1"], "loss.local is 1"),
        (["loss.local=0.5", "views.local_crops=0"], "views.local_crops"),
        (["loss.local=0.5", "loss.dino=0", "loss.ibot=1"], "loss.dino, which is 0"),
        (["loss.ibot=1", "loss.shared_head=false", "head.layers=1", "head.patch_hidden=8"], "head.layers=1"),
        (["loss.local=0.5", "loss.local_start_epochs=2"], "end within the run's 2"),
        (
            ["loss.local=0.5", "loss.local_start_epochs=1", "loss.local_warmup_epochs=1.5"],
            "within the run's 2",
        ),
    ],
)
def test_a_setting_without_effect_is_refused(settings: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        tiny(*settings)


def test_a_head_of_patches_has_sizes_of_its_own() -> None:
    sizes = ("head.patch_bottleneck=6", "head.patch_hidden=10", "head.patch_prototypes=28")
    learner = Learner(tiny("loss.ibot=1", "loss.shared_head=false", *sizes), torch.device("cpu"))
    student = learner.student
    assert student.patch_head is not None
    assert student.head.mlp[0].get_parameter("weight").shape == (24, 16)
    assert student.head.last_layer.weight_v.shape == (32, 8)
    assert student.patch_head.mlp[0].get_parameter("weight").shape == (10, 16)
    assert student.patch_head.last_layer.weight_v.shape == (28, 6)
    assert [len(center) for center in learner.centers] == [32, 28]


def test_without_weight_norm_logits_are_products_with_plain_vectors() -> None:
    head = DinoHead(16, replace(tiny("head.weight_norm=false").head, layers=1))
    features = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    state = head.state_dict()
    assert set(state) == {"mlp.0.weight", "mlp.0.bias", "last_layer.weight"}
    assert float(state["last_layer.weight"].std()) == pytest.approx(0.02, rel=0.2)
    bottleneck = features @ state["mlp.0.weight"].T
    unit = bottleneck / bottleneck.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(head(features, 0.5), unit @ state["last_layer.weight"].T / 0.5)


PUBLISHED = {
    "dino": {"loss.teacher_temp": 0.07, "head.norm_last_layer": False, "optim.lr": 5e-4, "run.epochs": 300},
    "ibot": {
        "head.prototypes": 8192, "loss.shared_head": True, "views.local_crops": 10, "run.epochs": 800,
        "loss.teacher_patch_temp": 0.07, "loss.warmup_teacher_patch_temp": 0.04, "model.drop_path": 0.1,
    },
    "dinov2_short": {
        "loss.centering": "centering", "model.patch_size": 16, "views.local_size": 96, "optim.lr": 0.004,
        "optim.layer_decay": 0.9, "optim.weight_decay_end": 0.4, "optim.momentum": 0.992, "run.epochs": 100,
        "head.prototypes": 65536, "loss.shared_head": True, "optim.warmup_epochs": 10.0,
    },
    "dinov2": {
        "loss.centering": "sinkhorn", "model.patch_size": 14, "views.local_size": 98, "optim.lr": 2e-4,
        "optim.layer_decay": 1.0, "optim.weight_decay_end": 0.2, "optim.momentum": 0.994, "run.epochs": 500,
        "head.prototypes": 131072, "loss.shared_head": False, "optim.warmup_epochs": 80.0,
        "head.bottleneck": 384, "head.patch_bottleneck": 256, "model.drop_path": 0.4, "model.ffn": "swiglu",
    },
    "dinov3_gram": {
        "gram.weight": 2.0, "gram.start_epochs": 1000.0, "gram.warmup_epochs": 1.0, "gram.crop_size": 512,
        "gram.renew_epochs": 10.0, "gram.renewals": 3, "gram.tokens": "all", "gram.negatives": "kept",
        "gram.normalised": True, "loss.centering": "sinkhorn", "model.registers": 4, "optim.clip": 30.0,
        "views.global_size": 256, "views.local_size": 112, "views.flip": 0.0, "optim.beta2": 0.99,
        "optim.lr_schedule": "constant", "optim.layer_decay": 0.98, "run.epochs": 1200, "loss.local": 0.5,
        "loss.local_start_epochs": 1000.0, "loss.local_warmup_epochs": 1.0, "head.weight_norm": False,
        "views.blur": (0.0, 0.9, 0.5), "head.patch_prototypes": 98304, "head.patch_hidden": 4096,
        "head.patch_bottleneck": 384,
    },
    "mae": {
        "loss.objective": "mae", "mae.mask_ratio": 0.75, "mae.decoder_dim": 512, "mae.decoder_depth": 8,
        "mae.decoder_heads": 16, "mae.normalised": True, "optim.lr": 1.5e-4, "optim.lr_batch": 256,
        "optim.weight_decay": 0.05, "optim.weight_decay_end": 0.05, "optim.beta2": 0.95,
        "optim.warmup_epochs": 40.0, "views.global_scale": (0.2, 1.0), "views.jitter": 0.0, "run.epochs": 800,
    },
}  # fmt: skip
"""Some values of the published configurations, written down from those files."""


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_recipes_have_the_published_values(recipe: str) -> None:
    config = read_config(recipe)
    settings = config.settings()
    assert {name: settings[name] for name in PUBLISHED[recipe]} == PUBLISHED[recipe]
    # They are whole: a network can be described, and no warm-up is longer than the published run.
    config.vit()
    assert config.fitted() == (config, [])


@pytest.mark.parametrize("recipe", sorted(set(recipes()) - {"scenes"}))
def test_every_field_of_a_recipe_has_its_source_beside_it(recipe: str) -> None:
    from ssleval.train import config

    lines = (config._RECIPES / f"{recipe}.yaml").read_text().splitlines()
    for before, line in pairwise(lines):
        if line.startswith("  ") and not line.lstrip().startswith("#"):
            assert "  # " in line or before.lstrip().startswith("#"), line
