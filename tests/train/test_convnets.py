"""Convolutional networks: trained through the same loop, and models like any other at the end."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ssleval.backbones.weights.checkpoints import read_checkpoint
from ssleval.backbones.zoo import find_card, load
from ssleval.errors import ConfigError, WeightsError
from ssleval.run.measure import evaluate
from ssleval.train.config import TrainConfig, read_config
from ssleval.train.export import export_checkpoint
from ssleval.train.learner import Learner
from ssleval.train.logfile import read_log
from ssleval.train.loop import train
from ssleval.train.optim import optimizer
from ssleval.train.schedules import Rates
from ssleval.train.timm_network import build_timm_network, synchronise
from ssleval.train.views import Views
from tests.train.tiny_training import losses, pictures

SETTINGS = (
    "model.arch=timm:test_resnet", "views.global_size=64", "views.local_size=32", "views.local_crops=1",
    "head.prototypes=32", "head.hidden=24", "head.bottleneck=8", "run.batch_size=4", "run.epochs=2",
    "run.log_every=2", "optim.warmup_epochs=1",
)  # fmt: skip


def small(*settings: str) -> TrainConfig:
    return read_config("dino_resnet50", [*SETTINGS, *settings])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def run(data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    assert train(small("run.evaluate_every=2"), data, out).finished
    return out


def test_the_model_is_one_like_any_other(run: Path, data: str, tmp_path: Path) -> None:
    name = str(run / "teacher.safetensors")
    card = find_card(name)
    assert (card.loader, card.arch, card.supervision) == ("timm", "test_resnet", "self")
    assert (card.image_size, card.resize, card.interpolation, card.patch_size) == (64, 73, "bicubic", 32)
    settings = {"knn": {"ks": (3,), "preprocessing": "card"}}
    (result,) = evaluate(name, "knn", dataset=data, settings=settings, results=tmp_path)
    assert result.model == name
    during = [line["evaluation"] for line in read_log(run) if "evaluation" in line]
    assert len(during) == 1
    images = torch.rand(2, 3, 64, 64)
    trained, untrained = load(name)(images, [-1]), load(f"random:{name}")(images)
    assert trained.blocks[0].patches.shape == (2, 2, 2, card.embed_dim)
    assert not torch.allclose(trained.pooled, untrained.pooled)
    with pytest.raises(WeightsError, match="or of timm"):
        export_checkpoint(run / "checkpoints" / "last.pt", tmp_path / "dino.pth")


def test_a_run_killed_goes_on_with_the_statistics_it_had(
    run: Path, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, left = Learner.step, 4

    def killed(self: Learner, *args: Any, **kwargs: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    monkeypatch.setattr(Learner, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        train(small(), data, tmp_path)
    monkeypatch.undo()
    assert train(small(), data, tmp_path, resume=True).finished
    assert losses(read_log(tmp_path)) == losses(read_log(run))
    ours, theirs = (read_checkpoint(folder / "teacher.safetensors") for folder in (tmp_path, run))
    assert any("running_mean" in name for name in theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_teacher_averages_weights_and_has_statistics_of_its_own() -> None:
    learner = Learner(small(), torch.device("cpu"))
    drawn = torch.randn(3, 4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    views = Views(drawn[:2], drawn[2:])
    before = [one.clone() for one in learner.teacher.parameters()]
    model: Any = learner.teacher.backbone.model
    with torch.no_grad():
        seen = model.conv1(drawn[:2].flatten(0, 1))
    rates = Rates(lr=0.1, weight_decay=0.0, momentum=0.75, teacher_temp=0.04, freeze_last_layer=False)
    learner.step(views, None, rates, watched=False)
    torch.testing.assert_close(model.bn1.running_mean, 0.1 * seen.mean(dim=(0, 2, 3)))
    student = list(learner.student.parameters())
    assert any(not torch.equal(old, new) for old, new in zip(before, student, strict=True))
    for old, new, average in zip(before, student, learner.teacher.parameters(), strict=True):
        torch.testing.assert_close(average, 0.75 * old + 0.25 * new)


def test_the_class_token_is_what_the_loader_gives_as_pooled() -> None:
    network = build_timm_network(small())
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(module.training for module in network.modules())
    images = torch.rand(2, 3, 64, 64)
    backbone = load("random:timm:test_resnet", seed=0)
    expected = backbone(images).pooled
    found = network.eval()((images - backbone.mean) / backbone.std)
    torch.testing.assert_close(found[:, 0], expected)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["loss.ibot=1"], "needs a transformer of ours"),
        (["model.drop_path=0.1"], r"--set model\.drop_path=0"),
        (["optim.layer_decay=0.9"], r"optim\.layer_decay"),
        (["views.global_size=50"], r"no multiple of 32, .*; --set views\.global_size=64"),
        (["model.arch=timm:beit_base_patch16_224"], "neither a convolutional network of timm nor a plain"),
        (["model.arch=timm:swin_tiny_patch4_window7_224"], "neither a convolutional network"),
    ],
)
def test_what_a_convolutional_network_does_not_have_is_refused(settings: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_timm_network(small(*settings))


def test_a_vision_transformer_of_timm_is_trained_at_the_size_of_its_crops(data: str, tmp_path: Path) -> None:
    config = small("model.arch=timm:test_vit", "optim.kind=adamw")
    assert train(config, data, tmp_path).finished
    name = str(tmp_path / "teacher.safetensors")
    card = find_card(name)
    assert (card.arch, card.image_size, card.resize, card.patch_size) == ("test_vit", 64, 73, 16)
    trained: Any = load(name)
    assert trained.model.pos_embed.shape[1] == 4 * 4 + 1
    network = build_timm_network(config)
    images = torch.rand(2, 3, 64, 64)
    expected = load(f"random:{name}", seed=config.run.seed)(images).pooled
    found = network.eval()((images - trained.mean) / trained.std)
    torch.testing.assert_close(found[:, 0], expected)
    assert not torch.allclose(trained(images).pooled, expected)
    for settings, words in (
        (["views.local_size=24"], r"no multiple of 16, .*; --set views\.local_size=32"),
        (["views.high_resolution_size=96", "run.high_resolution_epochs=1"], "needs a transformer of ours"),
        (["model.patch_size=8"], r"model\.patch_size is 8, and its patches have 16 pixels"),
        (["model.positions=size"], r"model\.positions is size"),
        (["model.arch=timm:vit_tiny_r_s16_p8_224", "views.local_crops=0"], "how it embeds patches"),
        (["loss.ibot=1"], "needs a transformer of ours"),
    ):
        with pytest.raises(ConfigError, match=words):
            build_timm_network(small("model.arch=timm:test_vit", *settings))


@pytest.mark.parametrize("arch", ["test_resnet", "test_efficientnet"])
def test_several_processes_share_statistics_where_torch_can(
    arch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build_timm_network(small(f"model.arch=timm:{arch}"))
    norms = [name for name, one in network.named_modules() if isinstance(one, _BatchNorm)]
    images = torch.rand(2, 3, 64, 64)
    before = network.eval()(images)
    synchronise(network, torch.device("cuda"))
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    synchronise(network, torch.device("cpu"))
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in network.modules())
    synchronise(network, torch.device("cuda"))
    shared = [name for name, one in network.named_modules() if isinstance(one, nn.SyncBatchNorm)]
    assert shared == norms != []
    torch.testing.assert_close(network(images), before)


def test_the_recipe_is_the_published_one() -> None:
    config = read_config("dino_resnet50")
    optim, views = config.optim, config.views
    assert (optim.kind, optim.lr, optim.weight_decay, optim.weight_decay_end) == ("sgd", 0.03, 1e-4, 1e-4)
    assert (views.global_scale, views.local_scale) == ((0.14, 1.0), (0.05, 0.14))
    assert (config.loss.teacher_temp, config.head.norm_last_layer) == (0.04, True)


def test_sgd_has_a_momentum_and_decays_weights() -> None:
    weight = nn.Parameter(torch.tensor([2.0]))
    sgd = optimizer([{"params": [weight]}], small().optim)
    value, speed = 2.0, 0.0
    for gradient in (1.0, -0.5):
        sgd.param_groups[0].update(lr=0.1, weight_decay=0.01)
        weight.grad = torch.tensor([gradient])
        sgd.step()
        speed = 0.9 * speed + gradient + 0.01 * value
        value -= 0.1 * speed
        assert float(weight.detach()) == pytest.approx(value)
