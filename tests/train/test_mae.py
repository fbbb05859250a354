"""MAE against a written-out reference: what the encoder sees, what the decoder predicts, and the loss."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

import ssleval
from ssleval.core import Context
from ssleval.errors import ConfigError
from ssleval.train.config import TrainConfig, read_config
from ssleval.train.logfile import read_log
from ssleval.train.loop import train
from ssleval.train.mae import Mae
from ssleval.train.masking import random_masks
from ssleval.train.networks import untrained
from ssleval.train.sections import ViewsConfig
from ssleval.train.state import read_state
from ssleval.train.views import Views, make_views
from tests.train.test_resume import cut
from tests.train.tiny_training import losses, pictures, without_teacher
from tests.train.training_processes import as_pair, start

SMALL = (
    "views.local_crops=0", "mae.decoder_dim=12", "mae.decoder_depth=1", "mae.decoder_heads=3",
    "mae.mask_ratio=0.7", "optim.lr=0.01",
)  # fmt: skip


def small(*settings: str) -> TrainConfig:
    return without_teacher("mae", *SMALL, *settings)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def plain(data: str, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, float]]:
    out = tmp_path_factory.mktemp("plain")
    train(small(), data, out)
    return losses(read_log(out))


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(*settings: str) -> tuple[Any, Mae]:
    """Return encoder and objective in float64, with other values than those they begin with."""
    whole = untrained(small("run.residual=computed", *settings), drop_path=0.0).double()
    with torch.no_grad():
        for seed, weight in enumerate(whole.parameters()):
            if weight.requires_grad:
                weight.add_(0.1 * drawn(*weight.shape, seed=seed))
    assert isinstance(whole.objective, Mae)
    return whole.backbone, whole.objective


def seen(images: Tensor) -> Views:
    return Views(images.unsqueeze(0), images.new_empty(0, len(images), 3, 1, 1))


def position(row: int, column: int, width: int) -> Tensor:
    """Return the sines and cosines of the column, then of the row."""
    rates = [10_000 ** (-4 * index / width) for index in range(width // 4)]
    values = [
        wave(place * rate) for place in (column, row) for wave in (math.sin, math.cos) for rate in rates
    ]
    return torch.tensor(values, dtype=torch.float64)


def written_out(vit: Any, mae: Any, images: Tensor, masks: Tensor, *, normalised: bool) -> Tensor:
    """Return the loss, image by image and patch by patch; patches are of 4 pixels in a grid of 4 x 4."""
    kernel, terms = vit.patch_embed.proj, list[Tensor]()
    for image, hidden in zip(images, masks.tolist(), strict=True):
        squares = [image[:, 4 * (n // 4) :, 4 * (n % 4) :][:, :4, :4] for n in range(16)]
        tokens = [vit.cls_token[0, 0]]
        for place, square in enumerate(squares):
            if not hidden[place]:
                token = (kernel.weight * square).sum(dim=(1, 2, 3)) + kernel.bias
                tokens.append(token + position(place // 4, place % 4, 16))
        encoded = torch.stack(tokens).unsqueeze(0)
        for block in vit.blocks:
            encoded = block(encoded)
        given = iter(mae.projector(vit.norm(encoded))[0])
        decoded = [next(given)]
        for place in range(16):
            token = mae.mask_token[0, 0] if hidden[place] else next(given)
            decoded.append(token + position(place // 4, place % 4, 12))
        predicted = torch.stack(decoded).unsqueeze(0)
        for block in mae.blocks:
            predicted = block(predicted)
        predicted = mae.pixels(mae.norm(predicted))[0, 1:]
        for place in range(16):
            if not hidden[place]:
                continue
            goal = torch.stack(
                [squares[place][c, y, x] for y in range(4) for x in range(4) for c in range(3)]
            )
            if normalised:
                goal = (goal - goal.mean()) / (((goal - goal.mean()) ** 2).sum() / 47 + 1e-6).sqrt()
            squares_of_errors = [(a - b) ** 2 for a, b in zip(predicted[place], goal, strict=True)]
            terms.append(torch.stack(squares_of_errors).sum() / 48)
    return torch.stack(terms).mean()


@pytest.mark.parametrize("normalised", [True, False])
def test_loss_and_gradients_are_those_of_the_definition(normalised: bool) -> None:
    vit, mae = network(f"mae.normalised={normalised}".lower())
    images, masks = drawn(3, 3, 16, 16), torch.from_numpy(random_masks(np.random.default_rng(0), 3, 16, 0.7))
    outputs, classes = mae(vit, seen(images), masks)
    loss = mae.losses(outputs, seen(images), masks)["mae"]
    expected = written_out(vit, mae, images, masks, normalised=normalised)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    weights = [weight for part in (vit, mae) for weight in part.parameters() if weight.requires_grad]
    for ours, theirs in zip(
        torch.autograd.grad(loss, weights), torch.autograd.grad(expected, weights), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    assert classes.shape == (1, 3, 16)


@pytest.mark.parametrize("stem", ["patch", "residual"])
def test_no_pixel_of_a_hidden_patch_is_seen(stem: str) -> None:
    vit, mae = network(f"model.stem={stem}")
    masks = torch.from_numpy(random_masks(np.random.default_rng(0), 2, 16, 0.7))
    pixels = functional.interpolate(masks.view(2, 1, 4, 4).double(), scale_factor=4)
    images = drawn(2, 3, 16, 16)
    outputs = [
        mae(vit, seen(images + change * drawn(2, 3, 16, 16, seed=1)), masks)[0]
        for change in (0, pixels, 1 - pixels)
    ]
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.allclose(outputs[0], outputs[2])


def test_equally_many_patches_are_hidden_and_each_as_often() -> None:
    masks = random_masks(np.random.default_rng(0), 4000, 16, 0.7)
    # int(16 x 0.3) are seen.
    assert set(masks.sum(axis=1)) == {12}
    assert masks.mean(axis=0) == pytest.approx([0.75] * 16, abs=0.03)
    assert len({tuple(mask) for mask in masks[:100]}) > 90


def test_one_crop_is_made_which_is_the_first_of_two() -> None:
    images = [np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)] * 2
    place: dict[str, Any] = {"seed": 1, "step": 2, "first": 0, "total": 2, "device": "cpu"}
    config = ViewsConfig(global_size=16, local_size=8, local_crops=1)
    one, two = make_views(images, config, **place, global_crops=1), make_views(images, config, **place)
    assert torch.equal(one.globals, two.globals[:1])
    assert torch.equal(one.locals, two.locals)


def test_it_begins_as_the_published_one() -> None:
    whole: Any = untrained(read_config("mae", ["model.arch=vit_tiny", "model.depth=1"]), drop_path=0.0)
    bounds = {
        whole.backbone.blocks[0].mlp.fc1.weight: math.sqrt(6 / (192 + 768)),
        whole.backbone.patch_embed.proj.weight: math.sqrt(6 / (192 + 768)),
        whole.objective.blocks[7].attn.qkv.weight: math.sqrt(6 / (512 + 1536)),
        whole.objective.pixels.weight: math.sqrt(6 / (512 + 768)),
    }
    for weight, bound in bounds.items():
        assert 0.99 * bound < float(weight.detach().abs().max()) <= bound
    assert float(whole.objective.mask_token.detach().std()) == pytest.approx(0.02, rel=0.15)
    assert not whole.backbone.pos_embed.requires_grad


@pytest.mark.parametrize(
    "setting",
    [
        "mae.mask_ratio=0.5", "mae.decoder_dim=24", "mae.decoder_depth=2", "mae.decoder_heads=1",
        "mae.normalised=false", "mae.fixed_positions=false", "model.stem=residual", "loss.koleo=0.1",
    ],
)  # fmt: skip
def test_every_setting_changes_the_losses(
    setting: str, plain: list[tuple[int, float]], data: str, tmp_path: Path
) -> None:
    train(small(setting), data, tmp_path)
    assert losses(read_log(tmp_path)) != plain


def test_a_run_resumes_bit_for_bit_and_its_model_is_the_student(
    plain: list[tuple[int, float]], data: str, tmp_path: Path
) -> None:
    cut_config = (*SMALL, "run.save_steps=1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.train.test_resume.tiny", partial(without_teacher, "mae"))
        cut(data, tmp_path, 4, *cut_config)
    assert train(small(), data, tmp_path, resume=True).finished
    assert losses(read_log(tmp_path)) == plain
    state = read_state(tmp_path / "checkpoints" / "last.pt")
    assert all(torch.equal(value, state["student"][name]) for name, value in state["teacher"].items())
    (result,) = ssleval.evaluate(
        str(tmp_path / "teacher.safetensors"),
        "knn",
        dataset=data,
        settings={"knn": {"preprocessing": "card", "ks": (1,)}},
        context=Context(progress=False),
    )
    assert 0 <= result.metrics["top1@1"].value <= 1


def test_micro_batches_add_up(plain: list[tuple[int, float]], data: str, tmp_path: Path) -> None:
    train(small("run.accumulate=2"), data, tmp_path)
    found = [loss for _, loss in losses(read_log(tmp_path))]
    assert found == pytest.approx([loss for _, loss in plain], rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["views.local_crops=2"], "mae sees one crop; --set views.local_crops=0"),
        (["mae.mask_ratio=0.99"], "leaves 0 of 16 patches visible"),
        (["mae.mask_ratio=1e-17"], "leaves 16 of 16 patches visible"),
        (["mae.decoder_dim=10"], "expected a multiple of 4 and of 3 heads"),
        (["mae.decoder_dim=18"], "expected a multiple of 4 and of 3 heads"),
        (["model.arch=timm:resnet18"], "mae needs a transformer of ours"),
    ],
)
def test_what_cannot_be_is_refused(settings: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        small(*settings)


@pytest.mark.parametrize(
    "more", [pytest.param((), marks=pytest.mark.slow), ("run.shard=true", "run.accumulate=2")]
)
def test_two_processes_do_what_one_does(
    more: tuple[str, ...], plain: list[tuple[int, float]], data: str, tmp_path: Path
) -> None:
    arguments = (tmp_path / "meeting", [(small(*more), tmp_path / "two")], data)
    for process in [start(as_pair, rank, *arguments) for rank in range(2)]:
        process.join(180)
        assert process.exitcode == 0
    found = losses(read_log(tmp_path / "two"))
    assert [loss for _, loss in found] == pytest.approx([loss for _, loss in plain], rel=2e-4)


@pytest.mark.parametrize(("residual", "dtype"), [("fp32", torch.float32), ("computed", torch.bfloat16)])
def test_blocks_of_the_decoder_add_up_as_those_of_the_encoder(residual: str, dtype: torch.dtype) -> None:
    whole = untrained(small(f"run.residual={residual}", "run.precision=bf16"), drop_path=0.0)
    mae, seen_by = whole.objective, list[torch.dtype]()
    assert isinstance(mae, Mae)
    mae.blocks[0].register_forward_pre_hook(lambda _, inputs: seen_by.append(inputs[0].dtype))
    masks = torch.zeros(2, 16, dtype=torch.bool)
    masks[:, 4:] = True
    with torch.autocast("cpu", torch.bfloat16):
        mae(whole.backbone, seen(torch.rand(2, 3, 16, 16)), masks)
    assert seen_by == [dtype]
