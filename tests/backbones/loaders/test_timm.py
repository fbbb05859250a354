from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from open_clip.pretrained import _PRETRAINED, get_pretrained_cfg
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from ssleval.backbones.loaders.timm import TimmBackbone
from ssleval.backbones.zoo import find_card, load
from ssleval.core.backbone import Backbone, WeightsFrom, backbones
from ssleval.core.geometry import apply
from ssleval.errors import ConfigError, NotApplicableError, UnknownNameError, WeightsError

IMAGES = torch.rand(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
WEIGHTS = Path(__file__).parents[3] / ".." / "shared" / "weights" / "vit_tiny_patch16_224.safetensors"


def _normalised(backbone: Backbone, images: Tensor) -> Tensor:
    return (images - backbone.mean) / backbone.std


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext", "test_efficientnet"])
def test_pooled_is_timms_own(name: str):
    backbone: Any = load(f"random:timm:{name}")
    features = backbone(IMAGES, [-1])
    model = backbone.model
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(_normalised(backbone, IMAGES)), pre_logits=True)
    assert torch.allclose(features.pooled, expected, atol=1e-6)
    assert torch.equal(features.pooled, backbone(IMAGES).pooled)


def _small(name: str, **shape: Any) -> TimmBackbone:
    """Build an architecture of timm with a smaller shape; it takes images of any size."""
    model: Any = timm.create_model(name, num_classes=0, dynamic_img_size=True, **shape)
    width = model.embed_dim
    return TimmBackbone(replace(find_card(f"timm:{name}"), embed_dim=width, pooled_dim=width), model).eval()


REGISTERS = "vit_small_patch14_reg4_dinov2"
SHAPE = {"depth": 2, "embed_dim": 48, "num_heads": 3}


def test_tokens_of_a_transformer_are_the_sequence_in_order():
    backbone: Any = load("random:timm:test_vit")
    images = torch.rand(1, 3, 48, 64)  # not its own size
    tokens = backbone(images, [-1]).blocks[0]
    with torch.no_grad():
        sequence = backbone.model.forward_features(_normalised(backbone, images))
    assert tokens.cls is not None
    assert torch.allclose(tokens.cls, sequence[:, 0], atol=1e-6)
    assert tokens.patches.shape[1:3] == (3, 4)
    assert torch.allclose(tokens.patches.flatten(1, 2), sequence[:, 1:], atol=1e-6)
    assert tokens.registers is None


def test_registers_are_apart_and_blocks_come_in_the_order_asked():
    backbone = _small(REGISTERS, **SHAPE)
    images = torch.rand(1, 3, 56, 70)
    last, first = backbone(images, [-1, 0]).blocks
    again = backbone(images, [0]).blocks[0]
    unnormed = backbone(images, [0], norm=False).blocks[0]
    assert last.registers is not None
    assert last.registers.shape == (1, 4, 48)
    assert last.patches.shape == (1, 4, 5, 48)
    assert torch.equal(first.patches, again.patches)
    assert not torch.allclose(first.patches, last.patches)
    assert not torch.allclose(first.patches, unnormed.patches)


def test_maps_are_channels_last():
    backbone: Any = load("random:timm:test_resnet")
    patches = backbone(IMAGES, [-1]).blocks[0].patches
    with torch.no_grad():
        expected = backbone.model.forward_features(_normalised(backbone, IMAGES))
    assert torch.allclose(patches, expected.permute(0, 2, 3, 1), atol=1e-6)


def test_seeds_decide_random_weights_and_leave_the_generator_alone():
    before = torch.random.get_rng_state()
    first, same, other = (load("random:timm:test_vit", seed=seed).weights_sha256 for seed in (0, 0, 1))
    assert first == same
    assert first != other
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_checkpoint_fills_the_backbone_and_its_classifier_is_left_out(tmp_path: Path):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        source = timm.create_model("test_vit", num_classes=7)
    path = tmp_path / "weights.safetensors"
    save_file(source.state_dict(), path)
    backbone: Any = load("timm:test_vit", checkpoint=path)
    state = backbone.model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in source.state_dict().items() if key in state)
    assert backbone.card.weights == {"file": "weights.safetensors"}
    assert not any(key.startswith("head.") for key in state)


def test_a_checkpoint_of_another_shape_is_refused(tmp_path: Path):
    path = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), path)
    with pytest.raises(WeightsError, match="timm:test_vit"):
        load("timm:test_vit", checkpoint=path)


def test_unknown_names_offer_the_nearest():
    with pytest.raises(UnknownNameError, match="vit_tiny_patch16_224"):
        find_card("timm:vit_tny_patch16_224")
    with pytest.raises(UnknownNameError, match=r"did you mean vit_base_patch32_clip_224\.openai"):
        find_card("timm:vit_base_patch32_clip_224.opnai")


def test_an_architecture_without_published_weights_states_no_normalisation(tmp_path: Path):
    name = "timm:vit_small_patch16_18x2_224"
    assert find_card(name).normalisation == "unknown"
    assert find_card("timm:test_vit").normalisation == "stated"
    (tmp_path / "any.safetensors").write_bytes(b"")
    with pytest.raises(WeightsError, match="no safetensors"):
        load(name, checkpoint=tmp_path / "any.safetensors")
    torch.save({"a": torch.zeros(1)}, tmp_path / "any.pth")
    with pytest.raises(ConfigError, match="state --image-mean"):
        load(name, checkpoint=tmp_path / "any.pth")


def test_unknown_weights_offer_the_nearest():
    with pytest.raises(
        UnknownNameError, match=r"timm has no weights 'vit_tiny_patch16_224\.augreg_in21'; did you"
    ):
        find_card("timm:vit_tiny_patch16_224.augreg_in21")


def test_an_unstated_layout_is_refused_by_name():
    with pytest.raises(ConfigError, match="token layout of Xcit"):
        find_card("timm:xcit_nano_12_p16_224")


def test_a_fixed_size_is_refused_in_a_sentence():
    name = "swin_tiny_patch4_window7_224"
    model = timm.create_model(name, num_classes=0, embed_dim=24, depths=(1, 1), num_heads=(2, 2))
    backbone = TimmBackbone(find_card(f"timm:{name}"), model)
    with pytest.raises(ConfigError, match="64x64 pixels, but timm fixes"):
        backbone(torch.rand(1, 3, 64, 64))


def test_geometry_and_normalisation_follow_timms_configuration():
    card = find_card("timm:vit_tiny_patch16_224")
    assert card.arch == "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    assert (card.resize, card.image_size, card.interpolation) == (248, 224, "bicubic")
    assert card.mean == (0.5, 0.5, 0.5)
    assert card.supervision == "full"
    assert find_card("timm:vit_base_patch16_siglip_224").resize == 248


@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_224",
        "vit_medium_patch16_gap_384.sw_in12k_ft_in1k",  # squashes to 404 pixels and crops 384 of them
        "vit_base_patch16_siglip_224.webli",
        "resnet18.tv_in1k",
        "resnet50.a1_in1k",
    ],
)
def test_pixels_are_those_of_timms_transform(name: str):
    from timm.data.config import resolve_data_config
    from timm.data.transforms_factory import create_transform

    card, config = find_card(f"timm:{name}"), timm.get_pretrained_cfg(name)
    assert config is not None
    transform: Any = create_transform(**resolve_data_config(pretrained_cfg=config.to_dict()))
    for height, width in ((431, 577), (500, 407), (260, 255)):
        pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        image = Image.fromarray(pixels)
        ours = (apply(card.native_geometry(), image) / 255 - np.array(card.mean)) / np.array(card.std)
        torch.testing.assert_close(transform(image).permute(1, 2, 0), torch.tensor(ours).float())


@pytest.mark.parametrize(
    ("name", "size", "mode"),
    [("vit_base_patch16_sapiens2.fb", "1024x768", "center"), ("test_vit", "160x160", "border")],
)
def test_a_preparation_that_no_geometry_does_is_refused(
    name: str, size: str, mode: str, monkeypatch: pytest.MonkeyPatch
):
    config: Any = timm.get_pretrained_cfg(name)

    def changed(*_: Any, **__: Any) -> Any:
        return replace(config, crop_mode=mode)

    monkeypatch.setattr(timm, "get_pretrained_cfg", changed)
    with pytest.raises(ConfigError, match=f"timm prepares images of {size} with crop_mode '{mode}'"):
        find_card(f"timm:{name}")


def _trained_with_quick_gelu() -> list[str]:
    """Names of timm under which open_clip publishes weights that it knows to be trained with QuickGELU."""
    published: list[Any] = [
        get_pretrained_cfg(arch, tag) for arch, tags in _PRETRAINED.items() for tag in tags
    ]
    hubs = {str(config.get("hf_hub", "")) for config in published if config.get("quick_gelu")}
    names = {hub.removeprefix("timm/").rstrip("/") for hub in hubs if hub.startswith("timm/vit_")}
    return sorted(names & set(timm.list_pretrained()))


def test_open_clip_knows_many_of_them():
    assert len(_trained_with_quick_gelu()) >= 12


@pytest.mark.parametrize("name", _trained_with_quick_gelu())
def test_quickgelu_weights_in_an_architecture_with_gelu_are_refused(name: str):
    right = name.replace("_clip_", "_clip_quickgelu_")
    assert right in timm.list_pretrained()
    for prefix in ("timm:", "random:timm:"):
        with pytest.raises(ConfigError, match=f"use timm:{right}$"):
            find_card(f"{prefix}{name}")


@pytest.mark.slow
def test_timm_notes_every_weight_that_has_a_quickgelu_twin():
    twins = {
        name.replace("_clip_quickgelu_", "_clip_") for name in timm.list_pretrained("*_clip_quickgelu_*")
    }
    twins &= set(timm.list_pretrained())
    assert len(twins) >= 15
    for name in twins:
        with pytest.raises(ConfigError, match="trained with QuickGELU"):
            find_card(f"timm:{name}")


def test_quickgelu_and_weights_fitted_anew_with_gelu_are_built():
    right: Any = timm.create_model("vit_base_patch32_clip_quickgelu_224", num_classes=0, depth=1)
    assert type(right.blocks[0].mlp.act).__name__ == "QuickGELU"
    assert find_card("timm:vit_base_patch32_clip_quickgelu_224.openai").supervision == "weak"
    assert find_card("timm:vit_base_patch32_clip_224.openai_ft_in1k").arch.endswith("openai_ft_in1k")
    assert find_card("timm:vit_base_patch32_clip_224").embed_dim == 768


@pytest.mark.skipif(not WEIGHTS.exists(), reason="the shared weights are not beside this checkout")
def test_real_weights_give_what_timm_gives_from_them():
    backbone: Any = load("timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k", checkpoint=WEIGHTS)
    model: Any = timm.create_model("vit_tiny_patch16_224", checkpoint_path=str(WEIGHTS)).eval()
    images = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        expected = model.forward_head(model.forward_features((images - 0.5) / 0.5), pre_logits=True)
    assert torch.allclose(backbone(images).pooled, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "shape"), [("test_vit", {}), (REGISTERS, SHAPE)], ids=["plain", "registers"]
)
def test_attention_is_what_timm_multiplies_values_with(name: str, shape: dict[str, Any]):
    backbone: Any = _small(name, **shape)
    patch = backbone.card.patch_size
    images = torch.rand(2, 3, 2 * patch, 3 * patch)
    found = backbone.attention(images)
    last: Any = backbone.model.blocks[-1].attn
    seen: list[Tensor] = []

    def keep(_: Any, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0])

    last.fused_attn = False
    last.attn_drop.register_forward_pre_hook(keep)
    with torch.no_grad():
        backbone.model.forward_features(_normalised(backbone, images))
    prefix = backbone.model.num_prefix_tokens
    assert found.shape == (2, last.num_heads, 2, 3)
    torch.testing.assert_close(found.flatten(2), seen[0][:, :, 0, prefix:], atol=1e-6, rtol=1e-5)
    assert not found.requires_grad


@pytest.mark.parametrize("name", ["test_resnet", "vit_base_patch16_siglip_224", "beit_base_patch16_224"])
def test_models_without_plain_class_attention_say_so(name: str):
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=0)
    backbone = TimmBackbone(find_card(f"timm:{name}"), model)
    with pytest.raises(NotApplicableError, match=r"class-token attention|attends"):
        backbone.attention(torch.zeros(1, 3, 224, 224, device="meta"))


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("test_efficientnet", (240, 240)), ("test_efficientnet", (380, 301)), ("test_resnet", (260, 300)),
        ("test_convnext", (240, 300)), ("tf_efficientnet_lite0", (300, 240)), ("regnetx_002", (33, 65)),
        ("fastvit_t8", (96, 33)),
    ],
)  # fmt: skip
def test_a_convolutional_network_takes_any_size(name: str, size: tuple[int, int]):
    backbone: Any = load(f"random:timm:{name}")
    images = torch.rand(1, 3, *size)
    with torch.no_grad():
        expected = backbone.model.forward_intermediates(_normalised(backbone, images))[1][-1]
    features = backbone(images, [-1])
    assert backbone.patch_grid(images.to("meta")) == expected.shape[2:]
    assert torch.allclose(features.blocks[0].patches, expected.permute(0, 2, 3, 1), atol=1e-5)


@pytest.mark.parametrize("name", ["test_convnext", "regnetx_002"])
def test_a_convolutional_network_refuses_what_its_layers_cannot_take(name: str):
    backbone = load(f"random:timm:{name}")
    try:
        with torch.no_grad():
            backbone.get_submodule("model").forward_features(torch.zeros(1, 3, 3, 3))  # pyright: ignore[reportCallIssue]
    except RuntimeError:
        with pytest.raises(ConfigError, match="its layers cannot take 3x3 pixels"):
            backbone(torch.rand(1, 3, 3, 3), [-1])
    else:
        assert backbone(torch.rand(1, 3, 3, 3), [-1]).blocks[0].patches.shape[1:3] == (1, 1)


def test_a_transformer_still_refuses_a_partial_patch():
    with pytest.raises(ConfigError, match="100x96 pixels is not a multiple of its patch size 16"):
        load("random:timm:test_vit")(torch.rand(1, 3, 100, 96))


def test_dinov3_is_pooled_as_its_publisher_evaluates_it(monkeypatch: pytest.MonkeyPatch):
    real = timm.create_model
    monkeypatch.setattr(timm, "create_model", partial(real, depth=1, embed_dim=384, num_heads=6))
    card = find_card("timm:vit_small_patch16_dinov3")
    backbone: Any = load("random:timm:vit_small_patch16_dinov3")
    features = backbone(torch.rand(2, 3, 32, 32), [-1])
    assert card.pooling == "cls"
    assert torch.equal(features.pooled, features.blocks[0].cls)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vit_pe_core_base_patch16_224.fb", ("weak", "square", "bilinear")),
        ("vit_pe_spatial_base_patch16_512.fb", ("weak", "square", "bilinear")),
        ("vit_base_patch14_reg1_tipsv2.webli", ("weak", "square", "bilinear")),
        ("vit_base_patch16_clip_224.datacompxl", ("weak", "short", "bicubic")),
        ("vit_base_patch16_clip_224.laion2b_ft_in12k_in1k", ("full", "short", "bicubic")),
        ("vit_base_patch16_clip_224.dfn2b", ("weak", "short", "bicubic")),
        ("convnext_base.dinov3_lvd1689m", ("self", "short", "bicubic")),
        ("convnext_base.clip_laion2b", ("weak", "short", "bicubic")),
        ("regnety_320.swag_lc_in1k", ("weak", "short", "bicubic")),
        ("resnet50.a1_in1k", ("full", "short", "bicubic")),
        ("vit_base_patch16_radio_v3.c_radio", ("unknown", "short", "bicubic")),
    ],
)
def test_a_generated_card_says_what_the_publisher_did(name: str, expected: tuple[str, str, str]):
    card = find_card(f"timm:{name}")
    assert (card.supervision, card.resize_mode, card.interpolation) == expected


WIDTH, HEADS, SIDE = 48, 3, 2
"""A small BEiT with a grid of SIDE x SIDE patches."""


def _beit_v2(path: Path) -> dict[str, Tensor]:
    """Write a pre-training checkpoint as microsoft/unilm, beit2 does: shared positions, heads, layers."""
    generator = torch.Generator().manual_seed(0)
    distances = (2 * SIDE - 1) ** 2 + 3
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, WIDTH), "mask_token": (1, 1, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, 16, 16),
        "patch_embed.proj.bias": (WIDTH,), "norm.weight": (WIDTH,), "norm.bias": (WIDTH,),
        "rel_pos_bias.relative_position_bias_table": (distances, HEADS),
        "lm_head.weight": (8, WIDTH), "lm_head.bias": (8,),
    }  # fmt: skip
    for block in ("blocks.0", "blocks.1", "cls_pt_layers.0"):
        shapes |= {f"{block}.{name}": (WIDTH,) for name in (
            "gamma_1", "gamma_2", "norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "attn.q_bias",
            "attn.v_bias", "attn.proj.bias", "mlp.fc2.bias",
        )}  # fmt: skip
        shapes |= {
            f"{block}.attn.qkv.weight": (3 * WIDTH, WIDTH),
            f"{block}.attn.proj.weight": (WIDTH, WIDTH),
        }
        shapes |= {f"{block}.mlp.fc1.weight": (4 * WIDTH, WIDTH), f"{block}.mlp.fc1.bias": (4 * WIDTH,)}
        shapes |= {f"{block}.mlp.fc2.weight": (WIDTH, 4 * WIDTH)}
    state = {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()}
    index = {"rel_pos_bias.relative_position_index": _distances()}
    torch.save({"model": state | index, "epoch": 1599, "scaler": {}}, path)
    return state


def _distances() -> Tensor:
    """Row of the table for every pair of tokens; the last three are those of the class token."""
    places = [(row, column) for row in range(SIDE) for column in range(SIDE)]
    span, last = 2 * SIDE - 1, (2 * SIDE - 1) ** 2
    index = torch.full((len(places) + 1, len(places) + 1), last)
    index[1:, 0] = last + 1
    index[0, 0] = last + 2
    for one, (row, column) in enumerate(places, 1):
        for two, (other_row, other_column) in enumerate(places, 1):
            index[one, two] = (row - other_row + SIDE - 1) * span + column - other_column + SIDE - 1
    return index


def test_beit_v2_as_pretrained_shares_positions_and_norms_before_it_pools(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    state = _beit_v2(tmp_path / "beit.pth")
    real = timm.create_model
    sizes: dict[str, Any] = {"depth": 2, "embed_dim": WIDTH, "num_heads": HEADS, "img_size": 16 * SIDE}
    monkeypatch.setattr(timm, "create_model", partial(real, **sizes))
    card = replace(find_card("beitv2_vitb16"), embed_dim=WIDTH, image_size=16 * SIDE)
    backbone = backbones.get("timm").build(card, WeightsFrom("checkpoint", tmp_path / "beit.pth")).eval()
    images = torch.rand(2, 3, 16 * SIDE, 16 * SIDE)
    features = backbone(images, [-1])
    x = functional.conv2d(_normalised(backbone, images), state["patch_embed.proj.weight"], stride=16)
    x = (x + state["patch_embed.proj.bias"].view(-1, 1, 1)).flatten(2).transpose(1, 2)
    x = torch.cat((state["cls_token"].expand(2, -1, -1), x), 1)
    bias = state["rel_pos_bias.relative_position_bias_table"][_distances()].permute(2, 0, 1)
    for number in range(2):
        get = {key.partition(f"blocks.{number}.")[2]: value for key, value in state.items()}
        y = functional.layer_norm(x, (WIDTH,), get["norm1.weight"], get["norm1.bias"], 1e-6)
        q, k, v = (y @ get["attn.qkv.weight"].T).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        q = (q + get["attn.q_bias"].view(HEADS, 1, -1)) * (WIDTH / HEADS) ** -0.5
        mixed = (q @ k.transpose(-2, -1) + bias).softmax(-1) @ (v + get["attn.v_bias"].view(HEADS, 1, -1))
        mixed = mixed.transpose(1, 2).flatten(2) @ get["attn.proj.weight"].T + get["attn.proj.bias"]
        x = x + get["gamma_1"] * mixed
        y = functional.layer_norm(x, (WIDTH,), get["norm2.weight"], get["norm2.bias"], 1e-6)
        y = functional.gelu(y @ get["mlp.fc1.weight"].T + get["mlp.fc1.bias"])
        x = x + get["gamma_2"] * (y @ get["mlp.fc2.weight"].T + get["mlp.fc2.bias"])
    x = functional.layer_norm(x, (WIDTH,), state["norm.weight"], state["norm.bias"], 1e-6)
    torch.testing.assert_close(features.pooled, x[:, 1:].mean(1), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(features.blocks[0].patches.flatten(1, 2), x[:, 1:], atol=1e-4, rtol=1e-3)


def test_a_fine_tuned_beit_does_not_fill_the_pretrained_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real = timm.create_model
    sizes: dict[str, Any] = {"depth": 2, "embed_dim": WIDTH, "num_heads": HEADS, "img_size": 16 * SIDE}
    torch.save(real("beitv2_base_patch16_224", **sizes).state_dict(), tmp_path / "tuned.pth")
    monkeypatch.setattr(timm, "create_model", partial(real, **sizes))
    with pytest.raises(WeightsError, match=r"missing norm\.weight, norm\.bias; unexpected fc_norm"):
        load("beitv2_vitb16", checkpoint=tmp_path / "tuned.pth")


def test_weights_that_timm_has_not_are_fetched_from_their_publisher(monkeypatch: pytest.MonkeyPatch):
    asked: list[str] = []

    def fetch(card: Any) -> Path:
        asked.append(card.weights["url"])
        raise WeightsError("offline")

    monkeypatch.setattr("ssleval.backbones.weights.checkpoints.fetch_card", fetch)
    with pytest.raises(WeightsError, match="offline"):
        load("beitv2_vitb16")
    assert asked[0].endswith("/BEiT-v2/beitv2_base_patch16_224_pt1k.pth")
