"""One network in every layout, into every route: the features are those that timm's own class gives."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModel

from ssleval.backbones.vit import SIZES
from ssleval.backbones.weights.checkpoints import in_layout_of, refuse_resampled, to_native
from ssleval.backbones.zoo import load
from ssleval.errors import SslevalError, WeightsError

SHAPE = {"embed_dim": 48, "depth": 2, "num_heads": 3, "dynamic_img_size": True, "num_classes": 0}
SIDE = 56
STATED: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
"""What the name of an architecture does not say about the weights."""


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the small size, its card and timm's model of that name narrow and shallow."""
    monkeypatch.setitem(SIZES, "vit_small", (48, 2, 3))
    created: Any = timm.create_model

    def narrow(name: str, **options: Any) -> Any:
        return created(name, **{**SHAPE, **options})

    monkeypatch.setattr(timm, "create_model", narrow)


def own(patch: int, *, registers: bool = False) -> tuple[Any, dict[str, Tensor]]:
    """Return a DINOv2 of 4 x 4 patches in timm's class, and its tensors under official names."""
    arch = "vit_small_patch14_reg4_dinov2" if registers else "vit_small_patch14_dinov2"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model(arch, img_size=4 * patch, patch_size=patch).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        first = torch.randn(1, 1, 48)
    state: dict[str, Tensor] = dict(model.state_dict())
    if registers:  # timm adds the position of the class token to the token, the official files keep it apart
        state["register_tokens"] = state.pop("reg_token")
        state["cls_token"] = state["cls_token"] - first
        state["pos_embed"] = torch.cat((first, state["pos_embed"]), dim=1)
    return model, {**state, "mask_token": torch.zeros(1, 48)}


def expected(model: Any, images: Tensor, backbone: Any) -> Tensor:
    with torch.no_grad():
        return model.forward_features((images - backbone.mean) / backbone.std)[:, 0]


def chunked(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.replace("blocks.1.", "blocks.1.1.").replace("blocks.0.", "blocks.0.0."): state[name]
        for name in state
    }


def below(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize("layout", ["timm", "official", "official teacher", "chunks"])
@pytest.mark.parametrize(
    ("name", "patch", "registers"),
    [
        ("native:vit_small/dinov2", 14, False),
        ("native:vit_small/dinov2", 16, False),
        ("native:vit_small/dinov2_reg4", 14, True),
        ("timm:vit_small_patch14_dinov2.lvd142m", 14, False),
        ("timm:vit_small_patch14_dinov2.lvd142m", 16, False),
        ("timm:vit_small_patch14_reg4_dinov2.lvd142m", 16, True),
    ],
)
def test_an_own_dinov2_keeps_its_grid(
    name: str, patch: int, registers: bool, layout: str, tmp_path: Path
) -> None:
    model, state = own(patch, registers=registers)
    contents: dict[str, Any] = {
        "timm": dict(model.state_dict()),
        "official": state,
        "official teacher": {
            "teacher": {**below("backbone.", state), "dino_head.mlp.0.weight": torch.ones(2)}
        },
        "chunks": {"model": below("teacher.backbone.", chunked(state))},
    }
    torch.save(contents[layout], tmp_path / "w.pth")
    notes: list[str] = []
    backbone: Any = load(
        name,
        checkpoint=tmp_path / "w.pth",
        card=STATED if name.startswith("native:") else None,
        note=notes.append,
    )
    assert (backbone.card.patch_size, backbone.card.image_size) == (patch, 4 * patch)
    assert any(f"patches of {patch} and positions for images of {4 * patch} pixels" in note for note in notes)
    images = torch.rand(2, 3, 4 * patch, 4 * patch, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(backbone(images).pooled, expected(model, images, backbone), atol=1e-5, rtol=0)


def snapshot(folder: Path, kind: str, **settings: Any) -> Path:
    """Write a folder of the Hugging Face hub with random weights."""
    kept: Any = CONFIG_MAPPING[kind]
    settings |= {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3}
    config = kept(**settings, image_size=SIDE, patch_size=14)
    AutoModel.from_config(config).save_pretrained(folder)
    processor: dict[str, Any] = {
        "image_processor_type": "ViTImageProcessor",
        "resample": 3,
        "do_resize": True,
    }
    processor |= {"size": {"height": SIDE, "width": SIDE}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


@pytest.mark.parametrize(("patch", "side"), [(14, 4), (14, 6), (16, 4)])
@pytest.mark.parametrize("layout", ["timm", "chunks", "hf"])
def test_a_folder_of_transformers_takes_every_layout(
    layout: str, patch: int, side: int, tmp_path: Path
) -> None:
    folder = snapshot(tmp_path / "model", "dinov2")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = timm.create_model(
            "vit_small_patch14_dinov2", img_size=side * patch, patch_size=patch
        ).eval()
    state = dict(model.state_dict())
    with torch.device("meta"):
        targets = AutoModel.from_config(CONFIG_MAPPING["dinov2"].from_pretrained(folder)).state_dict()
    contents = {"timm": state, "chunks": {"teacher": below("backbone.", chunked(state))}}
    contents["hf"] = below("dinov2.", in_layout_of(targets, state))
    torch.save(contents[layout], tmp_path / "w.pth")
    backbone: Any = load(f"hf:{folder}", checkpoint=tmp_path / "w.pth")
    assert (backbone.card.patch_size, backbone.card.image_size) == (patch, side * patch)
    images = torch.rand(1, 3, side * patch, side * patch)
    torch.testing.assert_close(backbone(images).pooled, expected(model, images, backbone), atol=1e-5, rtol=0)


def test_tensors_of_another_width_are_one_line_from_transformers(tmp_path: Path) -> None:
    folder = snapshot(tmp_path / "model", "dinov2")
    wide = {name: torch.cat((tensor, tensor), 0) for name, tensor in own(14)[1].items()}
    torch.save(wide, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="of another shape"):
        load(f"hf:{folder}", checkpoint=tmp_path / "w.pth")


def test_every_layout_of_timm_and_transformers_comes_back_unchanged() -> None:
    model, state = own(14, registers=True)
    back = in_layout_of(model.state_dict(), state)
    assert back.keys() == model.state_dict().keys()
    torch.testing.assert_close(back["cls_token"], model.cls_token, atol=1e-6, rtol=0)
    rest = back.keys() - {"cls_token"}
    assert all(torch.equal(back[name], model.state_dict()[name]) for name in rest)
    assert in_layout_of({"other": torch.ones(1)}, state).keys() == state.keys()


def test_a_packed_swiglu_gets_the_names_of_timm() -> None:
    native = {"blocks.0.mlp.w12.weight": torch.rand(8, 2), "blocks.0.mlp.w3.weight": torch.rand(2, 4)}
    targets = {"blocks.0.mlp.fc1.weight": torch.ones(8, 2), "blocks.0.mlp.fc2.weight": torch.ones(2, 4)}
    packed = in_layout_of(targets, native)
    assert torch.equal(packed["blocks.0.mlp.fc1.weight"], native["blocks.0.mlp.w12.weight"])
    assert to_native(packed).keys() == native.keys()


def test_positions_that_a_library_resampled_are_refused() -> None:
    given = {"positions": torch.ones(1, 17, 4)}
    refuse_resampled(given, {"pos_embed": torch.ones(1, 16, 4)}, "test")
    with pytest.raises(WeightsError, match="never resampled"):
        refuse_resampled(given, {"pos_embed": torch.ones(1, 26, 4)}, "test")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pos_embed": torch.rand(1, 1 + 4 * 5, 48)}, r"misfit pos_embed"),
        ({"patch_embed.proj.weight": torch.rand(48, 3, 14, 16)}, r"misfit.* patch_embed\.proj"),
        ({"register_tokens": torch.rand(1, 4, 48)}, r"unexpected register_tokens"),
        ({"pos_embed": torch.rand(17)}, r"misfit pos_embed"),
        ({"pos_embed": torch.rand(1, 1, 48)}, r"misfit pos_embed"),
        (
            {"patch_embed.proj.weight": torch.rand(1, 1, 1, 1).expand(1, 1, 9000, 9000)},
            r"than the file",
        ),
    ],
)
def test_grids_that_are_none_are_refused(change: dict[str, Tensor], message: str, tmp_path: Path) -> None:
    torch.save({**own(14)[1], **change}, tmp_path / "w.pth")
    with pytest.raises(SslevalError, match=message):
        load("native:vit_small/dinov2", checkpoint=tmp_path / "w.pth", card=STATED)


def test_the_number_of_registers_and_the_feed_forward_are_read_from_the_tensors(tmp_path: Path) -> None:
    _, state = own(14, registers=True)
    state["register_tokens"] = torch.rand(1, 7, 48)
    for block in (0, 1):
        for old, new, shape in (("fc1", "w12", (256, 48)), ("fc2", "w3", (48, 128))):
            del state[f"blocks.{block}.mlp.{old}.weight"], state[f"blocks.{block}.mlp.{old}.bias"]
            state[f"blocks.{block}.mlp.{new}.weight"] = torch.rand(shape)
            state[f"blocks.{block}.mlp.{new}.bias"] = torch.rand(shape[0])
    save_file(state, tmp_path / "w.safetensors")
    backbone: Any = load("native:vit_small/dinov2_reg4", checkpoint=tmp_path / "w.safetensors", card=STATED)
    assert (backbone.vit.config.num_registers, backbone.vit.config.ffn) == (7, "swiglu")


def test_a_folder_in_float8_is_refused(tmp_path: Path) -> None:
    folder = snapshot(tmp_path / "model", "dinov2")
    state = load_file(folder / "model.safetensors")
    narrow = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in state.items()}
    save_file(narrow, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match=r"stored as F8_E4M3, whose scale is unknown"):
        load(f"hf:{folder}")


def test_a_folder_of_zeros_is_refused(tmp_path: Path) -> None:
    folder = snapshot(tmp_path / "model", "dinov2")
    state = load_file(folder / "model.safetensors")
    zeros = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    save_file(zeros, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match=r"its weights are constant"):
        load(f"hf:{folder}")
