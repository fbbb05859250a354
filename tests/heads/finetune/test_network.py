"""What is fine-tuned: a copy whose layers are ordered as timm orders its own."""

import re
from copy import deepcopy
from dataclasses import replace
from math import cos, pi
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay  # pyright: ignore[reportPrivateImportUsage]
from timm.scheduler.cosine_lr import CosineLRScheduler
from torch import Tensor, nn

from ssleval.backbones.loaders.native import NativeBackbone
from ssleval.backbones.loaders.timm import TimmBackbone
from ssleval.backbones.vit import Vit, VitConfig
from ssleval.backbones.wrapped import wrap
from ssleval.backbones.zoo import load
from ssleval.core import BackboneCard, Readout
from ssleval.core.backbone import Backbone
from ssleval.core.trainable import refuse_untrainable
from ssleval.errors import NotApplicableError
from ssleval.heads.finetune.learner import optimizer
from ssleval.heads.finetune.network import Network
from ssleval.heads.finetune.recipes import RECIPES
from tests.backbones.loaders.test_hf import _folder
from tests.tasks.clip_models import tiny_clip

SIDE = 32
VIT: dict[str, Any] = {"img_size": SIDE, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2}


def card(width: int, patch: int = 8) -> BackboneCard:
    return BackboneCard("m", "test", "m", width, patch, image_size=SIDE)


def ours() -> Backbone:
    return NativeBackbone(card(24), Vit(VitConfig(24, 3, 2, patch_size=8, image_size=SIDE)))


def of_timm(kind: str, classes: int = 0) -> Any:
    torch.manual_seed(0)
    if kind == "vit":
        return timm.models.VisionTransformer(num_classes=classes, **VIT)
    if kind == "resnet":
        block: Any = timm.models.resnet.BasicBlock
        return timm.models.ResNet(block, (1, 1, 1, 2), classes, channels=(4, 4, 8, 8))
    return timm.models.ConvNeXt(num_classes=classes, depths=(1, 1, 2, 1), dims=(4, 4, 8, 8))


WIDTHS = {"vit": 24, "resnet": 8, "convnext": 8}


def backbone_of(kind: str) -> Backbone:
    return (
        ours()
        if kind == "ours"
        else TimmBackbone(card(WIDTHS[kind], 8 if kind == "vit" else 32), of_timm(kind))
    )


def network_of(backbone: Backbone, **changes: Any) -> Network:
    made: dict[str, Any] = {"deviation": 0.02, "drop_path": 0.0, "seed": 0, **changes}
    return Network(backbone, made.pop("readout", Readout("pooled")), 5, **made)


def described(groups: list[dict[str, Any]]) -> list[tuple[float, float, int]]:
    """Return for every weight the scale of its rate, its decay and its size, sorted."""
    return sorted(
        (group["lr_scale"], group["weight_decay"], weight.numel())
        for group in groups
        for weight in group["params"]
    )


@pytest.mark.parametrize("kind", ["ours", "vit", "resnet", "convnext"])
def test_groups_of_layers_are_those_of_timm(kind: str) -> None:
    """The same architecture with timm's own classifier, grouped by timm alone."""
    reference = of_timm("vit" if kind == "ours" else kind, 5)
    expected = param_groups_layer_decay(
        reference, 0.05, reference.no_weight_decay() if kind in {"ours", "vit"} else (), layer_decay=0.7
    )
    made, _ = optimizer(network_of(backbone_of(kind)), _recipe(layer_decay=0.7), 1e-3)
    found = described(made.param_groups)
    assert len({scale for scale, _, _ in found}) > 4
    assert found == described(expected)


def _recipe(**changes: Any) -> Any:
    return replace(RECIPES["short"], iterations=20, **changes)


@pytest.mark.parametrize("kind", ["ours", "vit", "resnet"])
def test_the_schedule_is_timms_and_that_of_maes_code(kind: str) -> None:
    recipe = _recipe(warmup=0.25, min_rate=1e-6, batch_size=512, layer_decay=0.7)
    made, schedule = optimizer(network_of(backbone_of(kind)), recipe, 1e-3)
    plain = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=2e-3)
    timms = CosineLRScheduler(plain, 15, 1e-6, warmup_t=5, warmup_prefix=True, t_in_epochs=False)
    for step in range(20):
        schedule.step_update(step)
        timms.step_update(step)
        # util/lr_sched.py of facebookresearch/mae.
        rate = 2e-3 * step / 5 if step < 5 else 1e-6 + (2e-3 - 1e-6) * 0.5 * (1 + cos(pi * (step - 5) / 15))
        assert plain.param_groups[0]["lr"] == pytest.approx(rate)
        for group in made.param_groups:
            assert group["lr"] == pytest.approx(rate * group["lr_scale"])


class Plain(nn.Module):
    """A transformer that names its parts as nobody does, with a tower that images do not pass through."""

    def __init__(self) -> None:
        super().__init__()
        self.side_tower = nn.Linear(4, 4)
        self.after = nn.LayerNorm(12)
        self.steps = nn.ModuleList([nn.Linear(12, 12) for _ in range(3)])
        self.cut = nn.Conv2d(3, 12, 8, 8)
        self.first_token = nn.Parameter(torch.zeros(1, 1, 12))

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.cut(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.first_token.expand(len(images), -1, -1), tokens], dim=1)
        for step in self.steps:
            tokens = tokens + step(tokens).tanh()
        return self.after(tokens)


def test_an_unknown_transformer_is_ordered_by_what_its_blocks_depend_on() -> None:
    model = wrap(Plain(), patch_size=8, mean=0.5, std=0.5, image_size=SIDE, cls=True)
    model.num_blocks = 3
    network = network_of(model, readout=Readout("pooled"))
    depths = {name.removeprefix("backbone.module."): depth for name, depth in network.depths.items()}
    assert depths["cut.weight"] == depths["first_token"] == 0
    assert [depths[f"steps.{place}.weight"] for place in range(3)] == [1, 2, 3]
    assert (depths["after.weight"], depths["head.weight"]) == (3, 4)
    frozen = [name for name, weight in network.named_parameters() if not weight.requires_grad]
    assert frozen == ["backbone.module.side_tower.weight", "backbone.module.side_tower.bias"]
    decays = optimizer(network, _recipe(), 1e-3)[0].param_groups
    undecayed = [weight for group in decays if not group["weight_decay"] for weight in group["params"]]
    assert any(weight is network.backbone.module.first_token for weight in undecayed)  # pyright: ignore[reportAttributeAccessIssue]


def test_a_network_without_a_list_of_blocks_has_layers_of_twelve_tensors() -> None:
    module = nn.Sequential(
        *(nn.Conv2d(3, 3, 3, padding=1) for _ in range(13)), nn.AvgPool2d(SIDE), nn.Flatten()
    )
    network = network_of(wrap(module, patch_size=8, mean=0.5, std=0.5, image_size=SIDE, pooling="given"))
    assert [network.depths[f"backbone.module.{place}.weight"] for place in (0, 5, 6, 12)] == [0, 0, 1, 2]
    assert network.depths["head.bias"] == 3


def test_the_model_stays_as_it_is() -> None:
    backbone = backbone_of("resnet").eval().requires_grad_(False)
    before, sha256 = deepcopy(backbone.state_dict()), backbone.weights_sha256
    network = network_of(backbone, drop_path=0.3)
    network(torch.randn(4, 3, SIDE, SIDE)).sum().backward()
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(1)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    backbone.forget_hashes()
    assert backbone.weights_sha256 == sha256
    assert not any(part.training for part in backbone.modules())
    assert not any(weight.requires_grad or weight.grad is not None for weight in backbone.parameters())


@pytest.mark.parametrize("kind", ["ours", "vit", "convnext"])
def test_logits_before_training_are_those_of_the_frozen_features(kind: str) -> None:
    backbone, images = backbone_of(kind), torch.rand(3, 3, SIDE, SIDE)
    for readout in (Readout("pooled"), Readout("mean")):
        network = network_of(backbone, readout=readout, drop_path=0.5)
        network.training_mode(mode=False)
        features = backbone(images, (-1,))
        vector = features.pooled if readout.kind == "pooled" else features.blocks[0].patches.mean((1, 2))
        torch.testing.assert_close(network(network.normalised(images)), network.head(vector))


def test_the_mean_before_the_final_norm_has_a_norm_of_its_own() -> None:
    backbone, images = ours(), torch.rand(2, 3, SIDE, SIDE)
    network = network_of(backbone, readout=Readout("mean", norm=False))
    network.training_mode(mode=False)
    raw = backbone(images, (-1,), norm=False).blocks[0].patches.mean((1, 2))
    expected = network.head(nn.functional.layer_norm(raw, (24,), eps=1e-6))
    torch.testing.assert_close(network(network.normalised(images)), expected)
    # The final norm of the backbone is not in the way of the output.
    assert not backbone_weight(network, "norm.weight").requires_grad


def backbone_weight(network: Network, end: str) -> nn.Parameter:
    return next(weight for name, weight in network.named_parameters() if name.endswith(f"vit.{end}"))


@pytest.mark.parametrize("kind", ["ours", "vit", "convnext", "resnet"])
def test_stochastic_depth_grows_from_the_first_block_to_the_last(kind: str) -> None:
    network = network_of(backbone_of(kind), drop_path=0.4)
    ours: list[Any] = [getattr(part, "stochastic_depth", None) for part in network.modules()]
    rates: list[float] = [
        value.drop_prob
        for part in network.modules()
        for name in ("drop_path", "drop_path1")
        if (value := getattr(part, name, None)) is not None
    ]
    rates = rates or [*next(depth for depth in ours if depth is not None).rates]
    assert rates[0] == 0
    assert rates[-1] == pytest.approx(0.4)
    assert rates == sorted(rates)
    with torch.no_grad():
        for part in network.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.weight.fill_(1.0)  # Branches of a residual network begin as zeros.
    images = torch.rand(64, 3, SIDE, SIDE)
    assert not torch.equal(network(images), network(images))


def test_what_cannot_be_dropped_or_trained_is_refused() -> None:
    plain = wrap(Plain(), patch_size=8, mean=0.5, std=0.5, image_size=SIDE, cls=True)
    with pytest.raises(NotApplicableError, match=r"no stochastic depth; --set finetune.drop_path=0"):
        network_of(plain, drop_path=0.1)
    with pytest.raises(NotApplicableError, match="pixels has no weights that torch can train"):
        refuse_untrainable(load("pixels"))
    plain.part = torch.fx.symbolic_trace(nn.Conv2d(3, 8, 8, 8))
    with pytest.raises(NotApplicableError, match="an exported graph cannot be fine-tuned"):
        refuse_untrainable(plain)


class Detached(Plain):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).detach()


def test_a_model_that_hides_its_weights_is_refused() -> None:
    model = wrap(Detached(), patch_size=8, mean=0.5, std=0.5, image_size=SIDE, cls=True)
    with pytest.raises(NotApplicableError, match="no_grad or detach in the model"):
        network_of(model)


def test_a_model_without_a_class_token_is_refused() -> None:
    with pytest.raises(NotApplicableError, match="has no class token"):
        network_of(backbone_of("resnet"), readout=Readout("cls"))


def test_the_linear_layer_is_drawn_by_the_seed_with_the_deviation() -> None:
    first, same, other = (network_of(ours(), seed=seed).head.weight for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    wide = Network(ours(), Readout("pooled"), 2000, deviation=0.5, drop_path=0.0, seed=0).head
    assert float(wide.weight.detach().std()) == pytest.approx(0.5, rel=0.02)
    assert not wide.bias.any()


def trained_depths(network: Network) -> dict[str, int]:
    return {
        name: depth for name, depth in network.depths.items() if network.get_parameter(name).requires_grad
    }


@pytest.mark.parametrize("kind", ["vit", "dinov2", "beit", "clip", "siglip", "dinov3_vit", "ijepa"])
def test_transformers_models_have_their_layers_and_leave_texts_alone(tmp_path: Path, kind: str) -> None:
    network = network_of(load(f"hf:{_folder(tmp_path, kind)}"))
    depths = trained_depths(network)
    stem = re.compile(r"patch_emb|embeddings\.proj")
    assert {depth for name, depth in depths.items() if stem.search(name)} == {0}
    blocks = {name: re.search(r"\.layers?\.(\d+)\.", name) for name in depths}
    assert {int(found[1]) for found in blocks.values() if found} == {0, 1, 2}
    assert all(depths[name] == int(found[1]) + 1 for name, found in blocks.items() if found)
    assert depths["head.weight"] == 4
    assert not any("text" in name for name in depths)


def test_a_model_of_open_clip_has_its_layers_and_leaves_texts_alone(tmp_path: Path) -> None:
    vision = {"image_size": SIDE, "layers": 3, "width": 32, "head_width": 16, "patch_size": 8}
    network = network_of(tiny_clip(tmp_path, vision_cfg=vision))
    depths = trained_depths(network)
    assert all(".visual." in name for name in depths if name.startswith("backbone."))
    tower = {name.partition("visual.")[2]: depth for name, depth in depths.items()}
    stem = ("conv1.weight", "class_embedding", "positional_embedding", "ln_pre.weight")
    assert {tower[name] for name in stem} == {0}
    assert [tower[f"transformer.resblocks.{place}.ln_1.weight"] for place in range(3)] == [1, 2, 3]
    assert (tower["ln_post.weight"], tower["proj"], depths["head.weight"]) == (3, 4, 4)
