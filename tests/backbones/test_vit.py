"""The native ViT against timm, transformers, and the formulas of the official code written out again."""

import math
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import timm
import torch
import transformers
from jaxtyping import Float
from timm.layers.mlp import SwiGLUPacked
from torch import Tensor, nn
from torch.nn import functional

from ssleval.backbones.vit import (
    SIZES,
    PositionEmbedding,
    Vit,
    VitConfig,
    resize_positions,
    sincos_positions,
    sized,
)
from ssleval.backbones.weights.checkpoints import fill, to_native
from ssleval.errors import ConfigError, UnknownNameError

DINO = VitConfig(48, 3, 3, patch_size=8, image_size=32)
DINOV2 = replace(DINO, layerscale=1.0, mask_token=True, position_embedding="dinov2")
REG4 = replace(DINOV2, num_registers=4, position_embedding="size_antialias")
GIANT = replace(DINOV2, ffn="swiglu")
MAE = replace(DINO, fixed_positions=True, position_embedding="size")
FLAVOURS = {"dino": DINO, "dinov2": DINOV2, "reg4": REG4, "giant": GIANT, "mae": MAE}


def shaken(module: nn.Module, seed: int = 0) -> Any:
    """Give every parameter a random value: no zero bias or unit scale can hide a wrong name."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return module.eval()


def pictures(height: int = 32, width: int = 32, batch: int = 2) -> Float[Tensor, "b 3 H W"]:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(7))


def native(config: VitConfig, state: dict[str, Tensor]) -> Vit:
    vit = Vit(replace(config, mask_token=False))
    fill(vit, to_native(state), name="test")
    return vit.eval()


def timm_model(config: VitConfig, **options: Any) -> Any:
    swiglu = {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU, "mlp_ratio": 2 * config.ffn_width / 48}
    return timm.create_model(
        "vit_tiny_patch16_224",
        num_classes=0,
        img_size=32,
        patch_size=8,
        embed_dim=48,
        depth=3,
        num_heads=3,
        init_values=config.layerscale,
        reg_tokens=config.num_registers,
        no_embed_class=config.num_registers > 0,
        dynamic_img_size=True,
        **(swiglu if config.ffn == "swiglu" else {}),
        **options,
    )


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_equals_timm_at_native_resolution(flavour: str) -> None:
    reference = shaken(timm_model(FLAVOURS[flavour]))
    vit = native(FLAVOURS[flavour], reference.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(vit(pictures()), reference.forward_features(pictures()), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["vit_small_patch16_224.dino", "vit_small_patch14_reg4_dinov2.lvd142m"])
def test_equals_a_published_architecture_of_timm(name: str) -> None:
    reference = shaken(timm.create_model(name.partition(".")[0], num_classes=0, depth=2))
    size = reference.patch_embed.img_size[0]
    registers = reference.num_reg_tokens
    scale = 1e-5 if "dinov2" in name else None
    patch = reference.patch_embed.patch_size[0]
    config = VitConfig(
        384, 2, 6, patch_size=patch, image_size=size, layerscale=scale, num_registers=registers
    )
    vit = native(config, reference.state_dict())
    with torch.no_grad():
        expected = reference.forward_features(pictures(size, size, 1))
        torch.testing.assert_close(vit(pictures(size, size, 1)), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(32, 64), (64, 24), (16, 16), (40, 80)])
@pytest.mark.parametrize("flavour", ["dino", "reg4"])
def test_equals_timm_off_native_resolution(flavour: str, height: int, width: int) -> None:
    reference = shaken(timm_model(FLAVOURS[flavour]))
    vit = native(replace(FLAVOURS[flavour], position_embedding="size_antialias"), reference.state_dict())
    images = pictures(height, width)
    with torch.no_grad():
        torch.testing.assert_close(vit(images), reference.forward_features(images), atol=1e-5, rtol=0)


def hf_model(flavour: str) -> Any:
    shape: dict[str, Any] = {
        "hidden_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "intermediate_size": 192,
        "image_size": 32,
        "patch_size": 8,
        "layer_norm_eps": 1e-6,
    }
    if flavour == "dino":
        return transformers.ViTModel(transformers.ViTConfig(**shape))
    if flavour == "mae":
        return transformers.ViTMAEModel(transformers.ViTMAEConfig(**shape, mask_ratio=0.0))
    if flavour == "reg4":
        return transformers.Dinov2WithRegistersModel(transformers.Dinov2WithRegistersConfig(**shape))
    swiglu = flavour == "giant"
    return transformers.Dinov2Model(transformers.Dinov2Config(**shape, use_swiglu_ffn=swiglu))


def hf_tokens(flavour: str, model: Any, images: Tensor) -> Tensor:
    options: dict[str, Any] = (
        {} if flavour in {"dinov2", "reg4", "giant"} else {"interpolate_pos_encoding": True}
    )
    if flavour == "mae":
        count = images.shape[2] * images.shape[3] // 64
        options["noise"] = torch.arange(count).float().expand(len(images), count)  # sorted: nothing moves
    with torch.no_grad():
        return model(images, **options).last_hidden_state


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_equals_transformers_at_native_resolution(flavour: str) -> None:
    reference = shaken(hf_model(flavour))
    vit = native(FLAVOURS[flavour], reference.state_dict())
    expected = hf_tokens(flavour, reference, pictures())
    with torch.no_grad():
        torch.testing.assert_close(vit(pictures()), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(32, 64), (64, 24), (16, 16)])
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_equals_transformers_off_native_resolution(flavour: str, height: int, width: int) -> None:
    reference = shaken(hf_model(flavour))
    how: PositionEmbedding = "size_antialias" if flavour == "reg4" else "size"
    vit = native(replace(FLAVOURS[flavour], position_embedding=how), reference.state_dict())
    images = pictures(height, width)
    with torch.no_grad():
        torch.testing.assert_close(vit(images), hf_tokens(flavour, reference, images), atol=1e-5, rtol=0)


def official_dino(positions: Tensor, height: int, width: int) -> Tensor:
    """Formula of DINO and of DINOv2 without registers, per axis and by hand: bicubic, a = -0.75."""
    side = math.isqrt(positions.shape[1] - 1)
    grid = positions[0, 1:].reshape(side, side, -1).double()
    for axis, patches in enumerate((height, width)):
        matrix = torch.zeros(patches, side, dtype=torch.float64)
        for row in range(patches):
            centre = (row + 0.5) * side / (patches + 0.1) - 0.5
            for tap in range(math.floor(centre) - 1, math.floor(centre) + 3):
                x = abs(centre - tap)
                inner = 1.25 * x**3 - 2.25 * x**2 + 1
                outer = -0.75 * (x**3 - 5 * x**2 + 8 * x - 4)
                matrix[row, min(max(tap, 0), side - 1)] += inner if x <= 1 else outer
        grid = torch.tensordot(matrix, grid.movedim(axis, 0), dims=1).movedim(0, axis)
    return torch.cat((positions[:, :1].double(), grid.reshape(1, height * width, -1)), dim=1)


@pytest.mark.parametrize("how", ["dino", "dinov2"])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (32, 20), (5, 37), (38, 37), (1, 3)])
def test_offset_interpolation_is_the_official_formula(
    how: PositionEmbedding, height: int, width: int
) -> None:
    positions = torch.randn(1, 1 + 37 * 37, 4, generator=torch.Generator().manual_seed(1))
    resized = resize_positions(positions, height, width, how)
    torch.testing.assert_close(resized.double(), official_dino(positions, height, width), atol=2e-5, rtol=0)


@pytest.mark.parametrize("antialias", [True, False])
def test_size_interpolations_are_resizes_to_the_exact_size(antialias: bool) -> None:
    positions = torch.randn(1, 1 + 64, 4, generator=torch.Generator().manual_seed(1))
    grid = positions[:, 1:].reshape(1, 8, 8, 4).permute(0, 3, 1, 2)
    expected = functional.interpolate(grid, size=(5, 11), mode="bicubic", antialias=antialias)
    resized = resize_positions(positions, 5, 11, "size_antialias" if antialias else "size")
    torch.testing.assert_close(resized[:, 1:].reshape(1, 5, 11, 4).permute(0, 3, 1, 2), expected)


def test_interpolations_differ_and_none_touches_the_native_grid() -> None:
    positions = torch.randn(1, 1 + 64, 4, generator=torch.Generator().manual_seed(1))
    ways: tuple[PositionEmbedding, ...] = ("dino", "size", "size_antialias")
    first, second, third = (resize_positions(positions, 6, 6, how) for how in ways)
    assert (first - second).abs().max() > 1e-2
    assert (second - third).abs().max() > 1e-2
    assert all(resize_positions(positions, 8, 8, how) is positions for how in ways)
    # As many patches in another shape are another grid.
    assert not torch.equal(resize_positions(positions, 4, 16, "dino"), positions)


def test_positions_are_resized_in_fp32() -> None:
    positions = torch.randn(1, 1 + 64, 4, generator=torch.Generator().manual_seed(1)).bfloat16()
    exact = resize_positions(positions.float(), 6, 5, "dino").bfloat16()
    assert torch.equal(resize_positions(positions, 6, 5, "dino"), exact)


def test_fixed_positions_are_those_of_the_mae_paper_and_are_not_trained() -> None:
    vit = Vit(replace(MAE, image_size=40))
    for row, column, channel in product(range(5), range(5), range(48)):
        half, place = divmod(channel, 24)
        angle = (row if half else column) / 10000 ** (place % 12 / 12)
        wave = math.cos(angle) if place >= 12 else math.sin(angle)
        assert float(vit.pos_embed[0, 1 + 5 * row + column, channel]) == pytest.approx(wave, abs=1e-6)
    assert not vit.pos_embed[0, 0].any()
    assert not vit.pos_embed.requires_grad
    assert Vit(DINO).pos_embed.requires_grad
    with pytest.raises(ConfigError, match="divisible by 4, got 6"):
        sincos_positions(6, 4)


@pytest.mark.parametrize("flavour", ["dino", "reg4"])
def test_intermediate_blocks_are_what_hooks_see(flavour: str) -> None:
    vit = shaken(Vit(FLAVOURS[flavour]))
    seen: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        seen.append(output)

    for block in vit.blocks:
        block.register_forward_hook(keep)
    with torch.no_grad():
        vit(pictures())
        expected = list(seen)
        got = vit.intermediate(pictures(), [2, 0, 2])
    for tokens, index in zip(got, [2, 0, 2], strict=True):
        assert torch.equal(tokens, expected[index])


@pytest.mark.parametrize("index", [-1, 3])
def test_a_block_that_is_not_there_is_refused(index: int) -> None:
    with pytest.raises(ConfigError, match="it has 3"):
        Vit(DINO).intermediate(pictures(), [index])


@pytest.mark.parametrize("flavour", ["dino", "reg4"])
def test_class_attention_is_an_explicit_softmax(flavour: str) -> None:
    config = FLAVOURS[flavour]
    vit = shaken(Vit(config))
    images = pictures(32, 48)
    with torch.no_grad():
        tokens = vit.blocks[-1].norm1(vit.intermediate(images, [1])[0])
        query, key, _ = vit.blocks[-1].attn.qkv(tokens).chunk(3, dim=-1)
        attention = vit.class_attention(images)
    prefix = 1 + config.num_registers
    for head in range(3):
        channels = slice(16 * head, 16 * (head + 1))
        weights = torch.softmax(query[..., channels] @ key[..., channels].mT / 4, dim=-1)
        torch.testing.assert_close(attention[:, head], weights[:, 0, prefix:].reshape(2, 4, 6))
    assert attention.sum(dim=(2, 3)).max() < 1


def test_masks_put_the_mask_token_before_the_positions() -> None:
    vit = shaken(Vit(REG4))
    masks = torch.zeros(2, 16, dtype=torch.bool)
    masks[0, [1, 5]] = True
    with torch.no_grad():
        plain, hidden = vit.embed(pictures()), vit.embed(pictures(), masks)
    assert torch.equal(hidden[1], plain[1])
    changed = (hidden[0] != plain[0]).any(dim=-1).nonzero().flatten().tolist()
    assert changed == [5 + 1, 5 + 5]  # a class token and four registers come first
    torch.testing.assert_close(hidden[0, 5 + 1], vit.mask_token[0] + vit.pos_embed[0, 1 + 1])


def test_masks_equal_those_of_transformers() -> None:
    reference = shaken(hf_model("reg4"))
    vit = Vit(REG4)
    fill(vit, to_native(reference.state_dict()), name="test")
    masks = torch.rand(2, 16, generator=torch.Generator().manual_seed(3)) < 0.4
    with torch.no_grad():
        expected = reference(pictures(), bool_masked_pos=masks).last_hidden_state
        torch.testing.assert_close(vit.eval()(pictures(), masks), expected, atol=1e-5, rtol=0)


def test_masks_without_a_mask_token_are_refused() -> None:
    with pytest.raises(ConfigError, match="mask_token"):
        Vit(DINO)(pictures(), torch.ones(2, 16, dtype=torch.bool))


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_first_tokens_alone_are_those_of_all_and_move_the_weights_alike(flavour: str) -> None:
    vit = shaken(Vit(replace(FLAVOURS[flavour], drop_path=0.5))).double().train()
    images = pictures().double()

    def moved(count: int | None) -> tuple[Tensor, list[Tensor]]:
        torch.manual_seed(0)
        vit.zero_grad()
        tokens = vit(images, None, count)[:, :2]
        tokens.square().sum().backward()
        return tokens, [weight.grad.clone() for weight in vit.parameters() if weight.grad is not None]

    torch.testing.assert_close(moved(2), moved(None))
    assert vit(images, None, 2).shape[1] == 2


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("first", [None, 1])
def test_attention_in_bfloat16_is_that_of_float32(training: bool, first: int | None) -> None:
    vit = shaken(Vit(replace(DINO, depth=1))).train(training)

    def found(enabled: bool) -> list[Tensor]:
        vit.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            tokens = vit(pictures(), None, first)
        (tokens.float() * torch.arange(48)).sum().backward()
        weight = vit.blocks[0].get_submodule("attn.qkv").get_parameter("weight").grad
        assert weight is not None
        return [tokens.float(), weight.clone()]

    for ours, exact in zip(found(True), found(False), strict=True):
        assert torch.linalg.vector_norm(ours - exact) / torch.linalg.vector_norm(exact) < 0.02


def test_it_trains() -> None:
    vit = Vit(REG4)
    vit(pictures(), torch.eye(2, 16, dtype=torch.bool)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in vit.parameters())


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("num_heads", 6),
        ("norm_eps", 1e-2),
        ("layerscale", 0.5),
        ("position_embedding", "size"),
        ("num_registers", 1),
        ("stem", "residual"),
    ],
)
def test_every_setting_moves_the_output(setting: str, value: Any) -> None:
    outputs: list[Tensor] = []
    for config in (DINO, replace(DINO, **{setting: value})):
        torch.manual_seed(0)
        vit = Vit(config)
        outputs.append(vit.eval()(pictures(48, 48))[:, 0])
    assert (outputs[0] - outputs[1]).abs().max() > 1e-6


def test_a_residual_stem_keeps_the_grid_and_looks_at_no_other_image() -> None:
    vit = Vit(replace(DINO, stem="residual")).eval()
    images = pictures(48, 32)
    together = vit.patch_embed(images)
    assert together.shape == (len(images), 24, 48)
    assert torch.allclose(together[:1], vit.patch_embed(images[:1]), atol=1e-6)
    bright = torch.zeros(1, 3, 48, 48)
    bright[..., 40:, :8] = 1  # the last row of patches, its first column
    change = (vit.patch_embed(bright) - vit.patch_embed(torch.zeros_like(bright))).square().sum(-1)
    assert int(change.argmax()) == 30
    assert change[0, :12].abs().max() == 0  # out of reach
    with pytest.raises(ConfigError, match="power of 2"):
        VitConfig(48, 1, 3, patch_size=14, stem="residual")


def test_shapes_follow_the_config() -> None:
    wide = Vit(replace(DINO, mlp_ratio=2.0, qkv_bias=False, ffn="mlp")).state_dict()
    assert wide["blocks.0.mlp.fc1.weight"].shape == (96, 48)
    assert "blocks.0.attn.qkv.bias" not in wide
    assert VitConfig(*SIZES["vit_giant2"], ffn="swiglu").ffn_width == 4096


@pytest.mark.parametrize(
    ("name", "millions"),
    [("vit_tiny", 5.5), ("vit_small", 21.7), ("vit_base", 85.8), ("vit_large", 303.3), ("vit_huge", 630.8)],
)
def test_sizes_have_the_published_numbers_of_parameters(name: str, millions: float) -> None:
    with torch.device("meta"):
        vit = Vit(VitConfig(*sized(name), patch_size=14 if name == "vit_huge" else 16))
    assert sum(p.numel() for p in vit.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


def test_the_giant_of_dinov2_has_its_published_size() -> None:
    shape = VitConfig(*sized("vit_giant2"), 14, 518, ffn="swiglu", layerscale=1.0, mask_token=True)
    with torch.device("meta"):
        assert sum(p.numel() for p in Vit(shape).parameters()) == 1_136_480_768


def test_unknown_sizes_and_impossible_shapes_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="vit_giant2"):
        sized("vit_giant")
    with pytest.raises(ConfigError, match="patch 16"):
        VitConfig(48, 1, 3, image_size=225)
    with pytest.raises(ConfigError, match="5 heads"):
        VitConfig(48, 1, 5)
    with pytest.raises(ConfigError, match="drop_path"):
        VitConfig(48, 1, 3, drop_path=1.0)
    with pytest.raises(ConfigError, match="30x32 pixels"):
        Vit(DINO)(pictures(30, 32))
