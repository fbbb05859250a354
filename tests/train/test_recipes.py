"""What the recipes add to DINO, and what keeps it from collapsing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssleval.backbones.weights.weightfile import read_config
from ssleval.backbones.zoo import load
from ssleval.train.export import teacher_card, write_teacher
from ssleval.train.logfile import read_log
from ssleval.train.loop import train
from ssleval.train.masking import block_mask, draw_masks
from ssleval.train.networks import build_networks
from ssleval.train.watch import collapse_indicators, collapsed, effective_rank
from tests.train.tiny_training import losses, pictures, tiny


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return pictures(tmp_path_factory.mktemp("pictures"))


EARLY = (
    "gram.start_epochs=0.34", "gram.warmup_epochs=0", "gram.copy_epochs=0", "gram.renew_epochs=0.34",
    "gram.crop_size=32", "loss.local_start_epochs=0.34", "loss.local_warmup_epochs=0",
    "head.patch_prototypes=28", "head.patch_hidden=20",
)  # fmt: skip


@pytest.mark.parametrize(
    ("recipe", "settings", "terms"),
    [
        ("ibot", (), {"dino", "ibot"}),
        ("ibot", ("loss.shared_head=false",), {"dino", "ibot"}),
        ("dinov2", ("model.patch_size=4",), {"dino", "ibot", "koleo"}),
        ("dinov2_short", (), {"dino", "ibot", "koleo"}),
        ("dinov2_short", ("model.registers=2", "model.positions=size_antialias"), {"dino", "ibot", "koleo"}),
        ("scenes", ("model.stem=residual",), {"dino", "koleo"}),
        ("dinov3_gram", EARLY, {"dino", "ibot", "koleo", "gram"}),
        ("dino", ("run.precision=bf16",), {"dino"}),
        ("dino", ("run.precision=fp16",), {"dino"}),
    ],
)
def test_every_recipe_trains(
    recipe: str, settings: tuple[str, ...], terms: set[str], data: str, tmp_path: Path
) -> None:
    trained = train(tiny("run.epochs=1", *settings, recipe=recipe), data, tmp_path)
    lines = read_log(tmp_path)
    assert trained.finished
    assert terms == {"dino", "ibot", "koleo", "gram"} & set(lines[-1])
    assert all(np.isfinite(line["loss"]) for line in lines)


@pytest.mark.parametrize(
    "setting",
    [
        "loss.student_temp=0.2", "loss.warmup_teacher_temp=0.06", "loss.center_momentum=0.5",
        "loss.centering=sinkhorn", "loss.ibot=0.5", "loss.koleo=0.1", "optim.lr=0.05", "optim.beta1=0.5",
        "optim.beta2=0.9", "optim.weight_decay=0.3", "optim.momentum=0.5", "optim.clip=0.001",
        "optim.clip_by=module", "optim.freeze_last_layer_epochs=0", "optim.warmup_epochs=0",
        "loss.centering=none", "loss.teacher_temp_by=step", "model.drop_path_draw=batch", "model.ffn=swiglu",
        "model.class_token_std=0.5", "optim.layer_decay=0.1", "optim.lr_schedule=constant",
        "head.batch_norm=true", "model.stem=residual", "model.drop_path=0.9",
        "model.drop_path_rule=uniform", "model.layerscale=0.1", "model.registers=1",
        "loss.local=0.5", "head.weight_norm=false", "views.local_crops=1", "views.global_scale=0.1,0.2",
        "views.local_scale=0.9,1",
    ],
)  # fmt: skip
def test_every_setting_changes_the_losses(
    setting: str, plain: list[tuple[int, float]], data: str, tmp_path: Path
) -> None:
    # Gradients of so small a network lie below the published limit; a lower one makes clipping visible.
    train(tiny("optim.clip=0.05", "optim.lr=0.01", setting), data, tmp_path)
    assert losses(read_log(tmp_path)) != plain


def test_local_crops_weigh_less_from_their_epoch_on(
    plain: list[tuple[int, float]], data: str, tmp_path: Path
) -> None:
    def found(*settings: str) -> list[dict[str, Any]]:
        out = tmp_path / str(len(settings))
        train(tiny("optim.clip=0.05", "optim.lr=0.01", "loss.local=0", *settings), data, out)
        return read_log(out)

    late, slowly = (
        found("loss.local_start_epochs=1"),
        found("loss.local_start_epochs=1", "loss.local_warmup_epochs=1"),
    )
    assert losses(late)[:3] == losses(slowly)[:3] == plain[:3]
    assert losses(late)[3] < losses(slowly)[3] == plain[3]
    assert losses(slowly)[4:] != losses(late)[4:]
    # Of six pairs, the two of global crops are left; the logged divergence is theirs.
    assert late[5]["kl"] + late[5]["teacher_entropy"] == pytest.approx(3 * late[5]["dino"], rel=1e-4)


@pytest.fixture(scope="module")
def plain(data: str, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, float]]:
    out = tmp_path_factory.mktemp("plain")
    train(tiny("optim.clip=0.05", "optim.lr=0.01"), data, out)
    return losses(read_log(out))


def test_dinov2_drops_branches_at_one_rate_and_its_models_do_not_say_so(data: str, tmp_path: Path) -> None:
    config = tiny("run.epochs=1", recipe="dinov2_short")
    student, teacher = build_networks(config)
    for network, rate in ((student, 0.3), (teacher, 0.0)):
        backbone: Any = network.backbone
        assert backbone.stochastic_depth.rates == pytest.approx([rate, rate])
    write_teacher(tmp_path / "model.safetensors", student, teacher_card(student, config, data, 0))
    stated = read_config(tmp_path / "model.safetensors")
    assert stated["drop_path"] == 0
    assert not {"drop_path_rule", "drop_path_draw", "residual"} & set(stated)
    # The file says how the untrained network begins.
    assert stated["class_token_std"] == 1e-6
    assert float(student.backbone.get_parameter("cls_token").detach().abs().max()) < 1e-5
    assert "class_token_std" not in stated_by_default(data, tmp_path)


def test_what_only_training_knows_is_in_no_key_of_a_model(data: str, tmp_path: Path) -> None:
    student, _ = build_networks(tiny())
    write_teacher(tmp_path / "model.safetensors", student, teacher_card(student, tiny(), data, 0))
    assert set(load(str(tmp_path / "model.safetensors")).configuration) == {
        "embed_dim", "depth", "num_heads", "patch_size", "image_size", "stem", "mlp_ratio", "ffn", "qkv_bias",
        "layerscale", "num_registers", "mask_token", "drop_path", "drop_path_rule", "norm_eps",
        "position_embedding", "fixed_positions",
    }  # fmt: skip


def stated_by_default(data: str, folder: Path) -> dict[str, Any]:
    student, _ = build_networks(tiny())
    write_teacher(folder / "plain.safetensors", student, teacher_card(student, tiny(), data, 0))
    return read_config(folder / "plain.safetensors")


def test_masks_are_blocks_of_the_shares_asked_for() -> None:
    masks = draw_masks(np.random.default_rng(0), 40, 14, 0.5, (0.1, 0.5))
    shares = masks.mean(axis=1)
    assert (shares > 0).sum() == 20
    assert shares.max() <= 0.5
    assert 0.2 < shares[shares > 0].mean() < 0.32
    grid = masks[shares > 0].reshape(-1, 14, 14)
    neighbours = (grid[:, 1:] == grid[:, :-1]).mean()
    assert neighbours > 0.8


@pytest.mark.parametrize("wanted", [0, 1, 4, 30, 98])
def test_a_mask_never_hides_more_than_wanted(wanted: int) -> None:
    assert block_mask(np.random.default_rng(1), 14, wanted).sum() <= wanted


def test_either_kind_of_collapse_is_told_from_health() -> None:
    features = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    uniform, constant = torch.full((2, 4, 8), 1 / 8), torch.eye(8)[torch.zeros(2, 4, dtype=torch.long)]
    healthy = torch.eye(8)[torch.arange(8)].unflatten(0, (2, 4))
    told = {
        name: {key: float(value) for key, value in collapse_indicators(targets, features, None, 1.0).items()}
        for name, targets in (("uniform", uniform), ("constant", constant), ("healthy", healthy))
    }
    assert "uniform" in collapsed(told["uniform"], 8)
    assert "one prototype" in collapsed(told["constant"], 8)
    assert not collapsed(told["healthy"], 8)
    assert told["healthy"]["information"] == pytest.approx(np.log(8), rel=1e-5)


def test_the_effective_rank_counts_directions() -> None:
    flat = torch.outer(torch.arange(6.0), torch.ones(4))
    assert float(effective_rank(flat)) == pytest.approx(1, abs=1e-3)
    assert float(effective_rank(torch.cat((torch.eye(4), -torch.eye(4))))) == pytest.approx(4, abs=1e-3)
