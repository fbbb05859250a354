import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image

from ssleval.backbones.zoo import find_card, load
from ssleval.core import COMPUTING_FIELDS
from ssleval.core.geometry import apply
from ssleval.errors import ConfigError, UnknownNameError, WeightsError

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
OWN = {"image_size": 32, "layers": 3, "width": 64, "patch_size": 8}
TRUNK = {"timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear", "image_size": 160}
PREPROCESS: dict[str, Any] = {
    "mean": [0.5, 0.4, 0.3],
    "std": [0.2, 0.2, 0.1],
    "interpolation": "bilinear",
    "resize_mode": "squash",
}


def _folder(path: Path, vision: dict[str, Any], *, weights: bool = True) -> Path:
    model = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": TEXT}
    path.mkdir(exist_ok=True)
    (path / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": model, "preprocess_cfg": PREPROCESS})
    )
    if weights:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            state = open_clip.create_model(f"local-dir:{path}", load_weights=False).state_dict()
        torch.save(state, path / "open_clip_pytorch_model.bin")
    return path


@pytest.mark.parametrize(
    "vision", [OWN, OWN | {"pool_type": "avg"}, OWN | {"final_ln_after_pool": True}, TRUNK]
)
def test_pooled_is_the_projected_embedding(tmp_path: Path, vision: dict[str, Any]):
    backbone: Any = load(f"open_clip:{_folder(tmp_path, vision)}")
    size = backbone.card.image_size
    images = torch.rand(2, 3, size, size)
    features = backbone(images, [-1, 0])
    with torch.no_grad():
        expected = backbone.model.encode_image((images - backbone.mean) / backbone.std)
    assert features.pooled.shape == (2, 24)
    assert torch.allclose(features.pooled, expected, atol=1e-5)
    assert torch.allclose(backbone(images).pooled, expected, atol=1e-5)
    assert not torch.allclose(features.blocks[0].patches, features.blocks[1].patches)
    unnormed = backbone(images, [-1], norm=False).blocks[0]
    assert not torch.allclose(features.blocks[0].patches, unnormed.patches)


def test_the_last_class_token_is_what_is_projected(tmp_path: Path):
    backbone: Any = load(f"open_clip:{_folder(tmp_path, OWN)}")
    features = backbone(torch.rand(1, 3, 32, 32), [-1])
    cls = features.blocks[0].cls
    assert cls is not None
    assert torch.allclose(cls @ backbone.model.visual.proj, features.pooled, atol=1e-6)


def test_positions_are_resampled_off_the_native_size(tmp_path: Path):
    backbone: Any = load(f"open_clip:{_folder(tmp_path, OWN)}")
    assert backbone(torch.rand(1, 3, 48, 24), [-1]).blocks[0].patches.shape == (1, 6, 3, 64)


def test_a_trunk_of_fixed_size_refuses_others(tmp_path: Path):
    backbone: Any = load(f"open_clip:{_folder(tmp_path, TRUNK)}")
    with pytest.raises(ConfigError, match="open_clip fixes"):
        backbone(torch.rand(1, 3, 32, 32))


def test_texts_are_embedded_with_the_models_tokenizer(tmp_path: Path):
    backbone: Any = load(f"open_clip:{_folder(tmp_path, OWN)}")
    texts = ["a photo of a cat", "a dog"]
    with torch.no_grad():
        expected = backbone.model.encode_text(open_clip.SimpleTokenizer()(texts))
    assert torch.allclose(backbone.encode_text(texts), expected)
    assert backbone.similarity() == (pytest.approx(float(backbone.model.logit_scale.exp())), 0.0)
    backbone.model.logit_bias = torch.tensor(-10.0)
    assert backbone.similarity().bias == -10.0


def test_the_card_follows_the_folder(tmp_path: Path):
    card = find_card(f"open_clip:{_folder(tmp_path, OWN, weights=False)}")
    assert (card.embed_dim, card.pooled_dim, card.patch_size, card.image_size) == (64, 24, 8, 32)
    assert (card.mean, card.resize_mode, card.interpolation) == ((0.5, 0.4, 0.3), "square", "bilinear")
    with pytest.raises(WeightsError, match="no weights file"):
        load(f"open_clip:{tmp_path}")


@pytest.mark.parametrize(
    "stated",
    [
        {},
        PREPROCESS,
        {"mean": None, "std": None, "resize_mode": None, "interpolation": None},
        {"mean": 0.5, "std": 0.25, "interpolation": "random", "resize_mode": "shortest"},
        {"size": 48, "fill_color": 7},
    ],
)
def test_pixels_are_those_of_open_clips_transform(tmp_path: Path, stated: dict[str, Any]):
    path = _folder(tmp_path, OWN, weights=False)
    config = json.loads((path / "open_clip_config.json").read_text()) | {"preprocess_cfg": stated}
    (path / "open_clip_config.json").write_text(json.dumps(config))
    card = find_card(f"open_clip:{path}")
    _, _, transform = open_clip.create_model_and_transforms(f"local-dir:{path}", load_weights=False)
    for height, width in ((57, 91), (131, 57), (32, 35)):
        pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        ours = (apply(card.native_geometry(), Image.fromarray(pixels)) / 255 - card.mean) / np.array(card.std)
        theirs: Any = transform
        expected = theirs(Image.fromarray(pixels)).permute(1, 2, 0)
        torch.testing.assert_close(expected, torch.tensor(ours).float())


@pytest.mark.parametrize(
    ("vision", "stated", "message"),
    [
        (OWN | {"image_size": [32, 48]}, {}, "it takes 32x48 pixels; only squares are known"),
        (OWN, {"resize_mode": "longest"}, "resize_mode=longest: known: short, square"),
        (OWN, {"interpolation": "cubic"}, "interpolation=cubic: did you mean bicubic"),
        (OWN, {"std": [0, 0.1, 0.1]}, "expected a number > 0"),
        (OWN, {"mean": [0.5]}, "expected a list of length 3"),
        (OWN, {"mean": "half"}, "expected a number"),
    ],
)
def test_a_preparation_that_no_geometry_does_is_refused(
    tmp_path: Path, vision: dict[str, Any], stated: dict[str, Any], message: str
):
    path = _folder(tmp_path, vision, weights=False)
    config = json.loads((path / "open_clip_config.json").read_text()) | {"preprocess_cfg": stated}
    (path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=message):
        find_card(f"open_clip:{path}")


def test_an_activation_the_weights_were_not_trained_with_is_refused():
    with pytest.raises(ConfigError, match="use open_clip:ViT-B-16-quickgelu/dfn2b"):
        find_card("open_clip:ViT-B-16/dfn2b")


@pytest.mark.parametrize(
    ("name", "hint"), [("ViT-B-33/openai", "ViT-B-32"), ("ViT-B-32/laion3b_s34b_b79k", "laion2b_s34b_b79k")]
)
def test_unknown_names_offer_the_nearest(name: str, hint: str):
    with pytest.raises(UnknownNameError, match=hint):
        find_card(f"open_clip:{name}")


def test_an_unstated_layout_is_refused(tmp_path: Path):
    resnet = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8}
    with pytest.raises(ConfigError, match="token layout of ModifiedResNet"):
        find_card(f"open_clip:{_folder(tmp_path, resnet, weights=False)}")


def mobile(path: Path, name: str = "fastvit_mci0") -> tuple[Path, Any]:
    """Write a folder of MobileCLIP2 with a small text tower, and return its image tower as timm has it."""
    vision = {"timm_model_name": name, "timm_pool": "avg", "timm_proj": None, "image_size": 64}
    folder = _folder(path, vision, weights=False)
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["custom_text"] = True  # puts "text." before the names of the text tower
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    for layer in model.modules():  # statistics as after a training, so that a wrong one is seen
        if hasattr(layer, "running_var"):
            layer.running_mean.normal_(std=0.1)
            layer.running_var.uniform_(0.5, 2)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    safetensors.torch.save_file(state, folder / "open_clip_model.safetensors")
    # A training of open_clip, as the publisher's own files are.
    training = {"epoch": 100, "name": "s0", "state_dict": {f"module.{n}": v for n, v in state.items()}}
    torch.save(training | {"optimizer": {"state": {}}}, folder / "mobileclip2_s0.pt")
    tower = timm.create_model(name, num_classes=24).eval()
    prefix = "visual.trunk."
    tower.load_state_dict({n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)})
    return folder, tower


def test_mobileclip_reads_both_published_layouts_and_takes_any_size(tmp_path: Path):
    folder, tower = mobile(tmp_path)
    backbone: Any = load(f"open_clip:{folder}")
    notes: list[str] = []
    training = load(f"open_clip:{folder}", checkpoint=folder / "mobileclip2_s0.pt", note=notes.append)
    assert training.weights_sha256 == backbone.weights_sha256
    assert "the weights are state_dict of mobileclip2_s0.pt" in notes[0]
    assert (backbone.card.patch_size, backbone.card.embed_dim, backbone.num_blocks) == (32, 512, 1)
    for height, width, grid in ((64, 64, (2, 2)), (96, 33, (3, 2))):
        images = torch.rand(2, 3, height, width)
        pixels = (images - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / torch.tensor([0.2, 0.2, 0.1]).view(
            3, 1, 1
        )
        with torch.no_grad():
            maps, pooled = tower.stages(tower.stem(pixels)), tower(pixels)
        features = backbone(images, [-1])
        torch.testing.assert_close(features.pooled, pooled, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(backbone(images).pooled, pooled, atol=1e-5, rtol=1e-4)
        assert features.blocks[0].patches.shape == (2, *grid, 512)
        torch.testing.assert_close(features.blocks[0].patches, maps.permute(0, 2, 3, 1), atol=1e-5, rtol=1e-4)
        assert features.blocks[0].cls is None
    assert backbone.encode_text(["a cat"]).shape == (1, 24)


@pytest.mark.parametrize("name", ["visual.trunk.stem.0.conv_scale.bn.running_var", "text.ln_final.weight"])
def test_a_file_of_mobileclip_without_a_tensor_is_refused(tmp_path: Path, name: str):
    folder, _ = mobile(tmp_path)
    state = safetensors.torch.load_file(folder / "open_clip_model.safetensors")
    del state[name]
    safetensors.torch.save_file(state, folder / "lacking.safetensors")
    with pytest.raises(WeightsError, match="missing"):
        load(f"open_clip:{folder}", checkpoint=folder / "lacking.safetensors")


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"timm_model_name": "hf-hub:someone/tower"}, "timm has no 'hf-hub:someone/tower'"),
        ({"timm_model_name": "fastvit_mci9"}, "did you mean fastvit_mci"),
        ({"timm_model_name": 7}, "timm has no 7"),
        ({"timm_model_name": "test_convnext"}, "token layout of ConvNeXt"),
        (
            {"timm_model_name": "fastvit_t8", "timm_pool": "", "timm_proj": None},
            "token layout of FastVit with its pooling",
        ),
        ({"timm_model_name": "fastvit_t8", "timm_pool": "abs_attn"}, "token layout of FastVit with its"),
    ],
    ids=str,
)
def test_towers_of_unknown_layout_or_from_elsewhere_are_refused(
    tmp_path: Path, stated: dict[str, Any], message: str
):
    folder = _folder(tmp_path, {"timm_pool": "avg", "timm_proj": "linear", "image_size": 64}, weights=False)
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["vision_cfg"] |= stated
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises((ConfigError, UnknownNameError), match=message):
        find_card(f"open_clip:{folder}")


def test_a_folder_with_the_weights_of_another_architecture_is_refused_in_one_line(tmp_path: Path):
    folder = _folder(tmp_path, OWN)
    state = torch.load(folder / "open_clip_pytorch_model.bin", weights_only=True)
    torch.save({n: v for n, v in state.items() if "ln_post" not in n}, folder / "open_clip_pytorch_model.bin")
    with pytest.raises(WeightsError, match="is no file of this architecture") as caught:
        load(f"open_clip:{folder}")
    assert "\n" not in str(caught.value)
    assert "ln_post" in str(caught.value)


@pytest.mark.parametrize(("size", "patch"), [("S0", 32), ("S2", 32), ("S3", 64), ("S4", 64)])
def test_cards_of_mobileclip2_are_those_that_open_clip_states(size: str, patch: int):
    card, stated = (
        find_card(f"mobileclip2_{size.lower()}"),
        find_card(f"open_clip:MobileCLIP2-{size}/dfndr2b"),
    )
    assert (card.patch_size, card.image_size, card.interpolation) == (patch, 256, "bilinear")
    for field in COMPUTING_FIELDS:
        assert getattr(card, field) == getattr(stated, field), field
    # The image tower, and nothing before it: 0 and 1, or CLIP's mean and deviation.
    assert card.mean[0] == (0.0 if patch == 32 else 0.48145466)
