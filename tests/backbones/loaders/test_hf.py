import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING, AutoModel

from ssleval.backbones.zoo import find_card, load
from ssleval.errors import ConfigError, NotApplicableError, WeightsError

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
TOWERS = {
    "vision_config": SMALL,
    "text_config": {k: v for k, v in SMALL.items() if "size" not in k or k == "hidden_size"},
}
CONFIGS: dict[str, dict[str, Any]] = {
    "vit": SMALL,
    "vit_mae": SMALL,
    "vit_msn": SMALL,
    "dinov2": SMALL,
    "dinov2_with_registers": SMALL | {"num_register_tokens": 3},
    "dinov3_vit": SMALL | {"num_register_tokens": 4},
    "dinov3_convnext": {"hidden_sizes": [8, 8, 16, 32], "depths": [1, 1, 2, 1], "image_size": 32},
    "data2vec-vision": SMALL | {"use_shared_relative_position_bias": True},
    "beit": SMALL,
    "ijepa": SMALL,
    "aimv2_vision_model": SMALL,
    "clip": TOWERS | {"projection_dim": 24},
    "siglip": TOWERS,
}
HAS_NO_CLS = {"aimv2_vision_model", "dinov3_convnext", "ijepa", "siglip"}


def _folder(path: Path, kind: str, size: dict[str, int] | None = None) -> Path:
    """Write a snapshot with random weights, as a hub repository has it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModel.from_config(CONFIG_MAPPING[kind](**CONFIGS[kind])).save_pretrained(path)
    settings: dict[str, Any] = {"size": size or {"height": 32, "width": 32}}
    settings |= {"image_processor_type": "ViTImageProcessor"}
    settings |= {
        "resample": 2,
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.2, 0.1],
        "do_resize": True,
    }
    (path / "preprocessor_config.json").write_text(json.dumps(settings))
    return path


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_known_type_gives_its_own_output(tmp_path: Path, kind: str):
    backbone: Any = load(f"hf:{_folder(tmp_path, kind)}")
    images = torch.rand(2, 3, 32, 32)
    features = backbone(images, [-1])
    model, tokens = backbone.model, features.blocks[0]
    inputs: dict[str, Any] = {"pixel_values": (images - backbone.mean) / backbone.std}
    with torch.no_grad():
        if kind == "vit_mae":
            inputs["noise"] = torch.arange(16.0).expand(2, 16)
        output = getattr(model, "vision_model", model)(**inputs)
        state = output.last_hidden_state
        if kind in {"clip", "siglip"}:
            state = model.vision_model.post_layernorm(state) if kind == "clip" else state
            found = model.get_image_features(**inputs)
            expected = found if isinstance(found, torch.Tensor) else found.pooler_output
            assert torch.allclose(features.pooled, expected, atol=1e-5)
    assert (tokens.cls is not None) == (kind not in HAS_NO_CLS)
    assert torch.allclose(
        tokens.patches.flatten(1, 2), state[:, -tokens.patches[0, ..., 0].numel() :], atol=1e-5
    )
    if tokens.cls is not None:
        assert torch.allclose(tokens.cls, state[:, 0], atol=1e-5)
    registers = CONFIGS[kind].get("num_register_tokens", 0)
    assert (tokens.registers.shape[1] if tokens.registers is not None else 0) == registers


@pytest.mark.parametrize("kind", ["vit", "dinov2", "dinov3_vit", "ijepa", "clip", "siglip"])
def test_other_sizes_and_blocks_work(tmp_path: Path, kind: str):
    backbone: Any = load(f"hf:{_folder(tmp_path, kind)}")
    images = torch.rand(1, 3, 48, 24)
    last, first = backbone(images, [-1, 0]).blocks
    unnormed = backbone(images, [0], norm=False).blocks[0]
    assert last.patches.shape == (1, 6, 3, 32)
    assert not torch.allclose(first.patches, last.patches)
    assert not torch.allclose(first.patches, unnormed.patches)


def test_mae_masks_nothing_and_keeps_the_order(tmp_path: Path):
    backbone: Any = load(f"hf:{_folder(tmp_path, 'vit_mae')}")
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(backbone(images, [-1]).blocks[0].patches, backbone(images, [-1]).blocks[0].patches)


def test_a_fixed_size_is_refused_in_a_sentence(tmp_path: Path):
    backbone: Any = load(f"hf:{_folder(tmp_path, 'aimv2_vision_model')}")
    with pytest.raises(ConfigError, match="48x48 pixels, but transformers fixes"):
        backbone(torch.rand(1, 3, 48, 48))


def test_the_card_follows_configuration_and_processor(tmp_path: Path):
    card = find_card(f"hf:{_folder(tmp_path, 'clip')}")
    assert (card.embed_dim, card.pooled_dim, card.patch_size, card.image_size) == (32, 24, 8, 32)
    assert (card.mean, card.std) == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))
    assert (card.interpolation, card.resize_mode, card.supervision) == ("bilinear", "square", "weak")


def test_a_processor_that_no_geometry_expresses_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="no geometry here does that"):
        find_card(f"hf:{_folder(tmp_path, 'vit', {'height': 32, 'width': 48})}")


def test_unknown_model_types_are_refused_by_name(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "swin"}))
    with pytest.raises(ConfigError, match="model type 'swin' is not known"):
        find_card(f"hf:{tmp_path}")


def test_a_file_with_a_tensor_missing_is_refused(tmp_path: Path):
    path = _folder(tmp_path, "dinov2") / "model.safetensors"
    state = load_file(path)
    del state["layernorm.weight"]
    save_file(state, path, {"format": "pt"})
    with pytest.raises(WeightsError, match=r"missing \['layernorm.weight'\]"):
        load(f"hf:{tmp_path}")


def test_a_checkpoint_replaces_the_published_weights(tmp_path: Path):
    folder = _folder(tmp_path / "model", "dinov2")
    state = {key: value + 1 for key, value in load_file(folder / "model.safetensors").items()}
    save_file(state, tmp_path / "other.safetensors")
    published: Any = load(f"hf:{folder}")
    other: Any = load(f"hf:{folder}", checkpoint=tmp_path / "other.safetensors")
    weight = "layernorm.weight"
    assert torch.equal(other.model.state_dict()[weight], published.model.state_dict()[weight] + 1)
    assert other.card.weights == {"file": "other.safetensors"}


def test_seeds_decide_random_weights(tmp_path: Path):
    folder = _folder(tmp_path, "vit")
    hashes = [load(f"random:hf:{folder}", seed=seed).weights_sha256 for seed in (0, 0, 1)]
    assert hashes[0] == hashes[1]
    assert hashes[0] != hashes[2]
    assert load(f"hf:{folder}").weights_sha256 == load(f"hf:{folder}").weights_sha256


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_logits_of_cosines_are_the_models_own(tmp_path: Path, kind: str):
    backbone: Any = load(f"hf:{_folder(tmp_path, kind)}")
    if kind == "siglip":
        backbone.model.logit_bias.data.fill_(-10.0)
        backbone.model.logit_scale.data.fill_(2.0)
    images, tokens = torch.rand(2, 3, 32, 32), torch.tensor([[3, 4, 2], [5, 6, 2]])
    with torch.no_grad():
        output = backbone.model(input_ids=tokens, pixel_values=(images - backbone.mean) / backbone.std)
    scale, bias = backbone.similarity()
    units = torch.nn.functional.normalize(backbone(images).pooled, dim=-1)
    assert torch.allclose(output.logits_per_image, scale * units @ output.text_embeds.T + bias, atol=1e-4)


def test_an_image_model_has_no_similarity(tmp_path: Path):
    with pytest.raises(NotApplicableError, match="no text tower"):
        load(f"hf:{_folder(tmp_path, 'vit')}").similarity()


TOKENS = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "patch_size": 8}
LATER: dict[str, dict[str, Any]] = {
    "metaclip_2": TOWERS | {"projection_dim": 24},
    "pixio": TOKENS | {"image_size": 32, "n_cls_tokens": 4},
    "radio": TOKENS
    | {
        "max_img_size": 64,
        "num_cls_tokens": 3,
        "num_registers": 2,
        "summary_idxs": [0, 2],
        "norm_mean": [0.1] * 3,
    },
    "siglip2": {"vision_config": SMALL | {"num_patches": 16}, "text_config": TOWERS["text_config"]},
    "tipsv2": {
        "vision_config": TOKENS | {"image_size": 32, "num_register_tokens": 1},
        "text_config": TOWERS["text_config"],
    },
    "vjepa2": TOKENS
    | {"crop_size": 32, "pred_hidden_size": 32, "pred_num_hidden_layers": 1, "pred_num_attention_heads": 2},
}
PROCESSORS: dict[str, dict[str, Any]] = {
    "siglip2": {"image_processor_type": "Siglip2ImageProcessor", "patch_size": 8, "max_num_patches": 16},
    "tipsv2": {"image_processor_type": "Tipsv2ImageProcessor", "size": {"height": 32, "width": 32}},
    "vjepa2": {"video_processor_type": "VJEPA2VideoProcessor", "crop_size": {"height": 32, "width": 32}},
}


def _later(path: Path, kind: str) -> Path:
    """Write a snapshot of a newer model type, with a processor of its own kind."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModel.from_config(CONFIG_MAPPING[kind](**LATER[kind])).save_pretrained(path)
    settings = PROCESSORS.get(
        kind,
        {
            "image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}, "resample": 2,
            "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.1],
        },
    )  # fmt: skip
    name = "video_preprocessor_config.json" if kind == "vjepa2" else "preprocessor_config.json"
    (path / name).write_text(json.dumps(settings))
    return path


def _expected(kind: str, model: Any, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The vector and the normed sequence that transformers itself gives."""
    if kind == "vjepa2":
        state = model.encoder(images[:, None]).last_hidden_state
        return state.mean(1), state
    if kind == "radio":
        output = model(images)
        return output.last_hidden_state[:, [0, 2]].flatten(1), output.last_hidden_state
    if kind == "pixio":
        state = model(images).last_hidden_state
        return state[:, :4].mean(1), state
    if kind == "siglip2":
        from transformers import Siglip2ImageProcessor

        pixels = (images * 0.5 + 0.5).mul(255).round().byte()  # NaFlex's own processor makes the patches
        processor = Siglip2ImageProcessor(patch_size=8, max_num_patches=16)
        output = model.vision_model(**processor(list(pixels), return_tensors="pt"))
        return output.pooler_output, output.last_hidden_state
    output = model.vision_model(images)
    if kind == "metaclip_2":
        return model.visual_projection(output.pooler_output), model.vision_model.post_layernorm(
            output.last_hidden_state
        )
    return output.last_hidden_state[:, 0], output.last_hidden_state


PREFIX = {"metaclip_2": 1, "pixio": 4, "radio": 5, "siglip2": 0, "tipsv2": 2, "vjepa2": 0}


@pytest.mark.parametrize("kind", LATER)
def test_newer_types_give_what_transformers_gives(tmp_path: Path, kind: str):
    backbone: Any = load(f"hf:{_later(tmp_path, kind)}")
    images = torch.randint(0, 256, (2, 3, 32, 32)) / 255
    features = backbone(images, [-1, 0])
    with torch.no_grad():
        pooled, state = _expected(kind, backbone.model, (images - backbone.mean) / backbone.std)
    tokens, prefix = features.blocks[0], PREFIX[kind]
    torch.testing.assert_close(features.pooled, pooled, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(tokens.patches.flatten(1, 2), state[:, prefix:], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(tokens.patches, features.blocks[1].patches)
    registers = {"radio": 2, "tipsv2": 1}.get(kind, 0)
    assert (0 if tokens.registers is None else tokens.registers.shape[1]) == registers
    if kind == "pixio":
        torch.testing.assert_close(tokens.cls, state[:, :4].mean(1))
    elif kind in {"tipsv2", "metaclip_2"}:
        assert tokens.cls is not None
        torch.testing.assert_close(tokens.cls, state[:, 0])
    else:
        assert tokens.cls is None


@pytest.mark.parametrize(
    ("kind", "mean"), [("radio", 0.0), ("tipsv2", 0.0), ("vjepa2", 0.485), ("pixio", 0.5)]
)
def test_the_card_normalises_only_what_the_model_does_not(tmp_path: Path, kind: str, mean: float):
    assert find_card(f"hf:{_later(tmp_path, kind)}").mean[0] == mean


def test_v_jepa_has_positions_of_one_size_and_leaves_its_predictor_out(tmp_path: Path):
    backbone: Any = load(f"hf:{_later(tmp_path, 'vjepa2')}")
    assert not any("predictor" in name for name in backbone.state_dict())
    assert (backbone.card.resize, backbone.card.image_size, backbone.card.interpolation) == (
        36,
        32,
        "bilinear",
    )
    with pytest.raises(ConfigError, match="48x48 pixels, but transformers fixes"):
        backbone(torch.rand(1, 3, 48, 48))


@pytest.mark.parametrize("kind", sorted({*LATER} - {"vjepa2"}))
def test_newer_types_take_images_that_are_not_square(tmp_path: Path, kind: str):
    backbone: Any = load(f"hf:{_later(tmp_path, kind)}")
    bright = torch.full((1, 3, 48, 24), 0.3)
    bright[..., 40:, 16:] = 0.9
    features = backbone(torch.cat((torch.full((1, 3, 48, 24), 0.3), bright)), [0], norm=False)
    patches = features.blocks[0].patches
    assert patches.shape == (2, 6, 3, 32)
    assert divmod(int((patches[1] - patches[0]).norm(dim=-1).argmax()), 3) == (5, 2)


def test_logits_of_tips_divide_by_its_temperature(tmp_path: Path):
    backbone: Any = load(f"hf:{_later(tmp_path, 'tipsv2')}")
    assert backbone.similarity().scale == pytest.approx(1 / float(backbone.model.temperature))


def test_a_convolutional_network_takes_any_size(tmp_path: Path):
    backbone: Any = load(f"hf:{_folder(tmp_path, 'dinov3_convnext')}")
    images = torch.rand(1, 3, 40, 70)
    with torch.no_grad():
        state = backbone.model((images - backbone.mean) / backbone.std).last_hidden_state[:, 1:]
    patches = backbone(images, [-1]).blocks[0].patches
    assert patches.shape[1:3] == backbone.patch_grid(images)
    torch.testing.assert_close(patches.flatten(1, 2), state)
    with pytest.raises(ConfigError, match="its layers cannot take 20x20 pixels"):
        backbone(torch.rand(1, 3, 20, 20))
