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
