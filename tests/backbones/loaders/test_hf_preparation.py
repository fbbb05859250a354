"""Images as `hf:` cards say to prepare them, against the processors of transformers, slow and fast."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jaxtyping import Float
from PIL import Image
from transformers import CONFIG_MAPPING, AutoImageProcessor, AutoVideoProcessor

from ssleval.backbones.loaders import hf
from ssleval.backbones.zoo import find_card, load
from ssleval.core import BackboneCard
from ssleval.core.geometry import apply
from ssleval.core.settings import updated
from ssleval.errors import ConfigError

MODEL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
BIT: dict[str, Any] = {
    "image_processor_type": "BitImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": 40},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 32, "width": 32},
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.2, 0.1],
}
SQUARE = {"size": {"height": 40, "width": 40}, "do_center_crop": False}
CONVNEXT = {"image_processor_type": "ConvNextImageProcessor", "do_center_crop": False}


def of(kind: str, **settings: Any) -> dict[str, Any]:
    return {"image_processor_type": kind, **settings}


HONOURED: dict[str, dict[str, Any]] = {
    "plain": {},
    "no normalisation": {"do_normalize": False},
    "no rescaling": {"do_rescale": False, "image_mean": [120, 110, 100], "image_std": [60, 50, 40]},
    "values of 0 to 255": {"do_rescale": False, "do_normalize": False},
    "mean 0.5 of 0 to 255": {"do_rescale": False},
    "factor 1/127.5": {"rescale_factor": 1 / 127.5},
    "factor 1/256": {"rescale_factor": 1 / 256},
    "factor alone": {"rescale_factor": 1 / 127.5, "do_normalize": False},
    "one number for all channels": {"image_mean": 0.5, "image_std": 0.25},
    "size as a number": {"size": 40, "crop_size": 32},
    "square, then crop": {"size": {"height": 43, "width": 43}},
    "square": SQUARE,
    "crop of all": {"crop_size": 40},
    "odd margins": {"size": {"shortest_edge": 43}},
    "even margins": {"size": {"shortest_edge": 42}},
    "nearest": {"resample": 0},
    "lanczos": {"resample": 1},
    "bilinear": {"resample": 2},
    "padding of nothing": {"do_pad": True},
    "no conversion": {"do_convert_rgb": False},
    "fast by name": of("BitImageProcessorFast"),
    "ViT": of("ViTImageProcessor", **SQUARE),
    "CLIP": of("CLIPImageProcessor"),
    "SigLIP": of("SiglipImageProcessor", **SQUARE),
    "BEiT": of("BeitImageProcessor", size=40),
    "DeiT": of("DeiTImageProcessor"),
    "DINOv3": of("DINOv3ViTImageProcessorFast", resample=2, **SQUARE),
    "ConvNeXt": {**CONVNEXT, "size": {"shortest_edge": 40}},
    "ConvNeXt, crop_pct": {**CONVNEXT, "size": {"shortest_edge": 40}, "crop_pct": 0.95},
    "ConvNeXt, squashed": {**CONVNEXT, "size": {"shortest_edge": 384}},
}
NONE_DOES, UNUSABLE = "no geometry here does that", "settings of its image processor cannot be used"
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "images of any size": ({"do_resize": False}, NONE_DOES),
    "no crop": ({"do_center_crop": False}, NONE_DOES),
    "crop of two sides": ({"crop_size": {"height": 32, "width": 24}}, NONE_DOES),
    "size of two sides": ({**SQUARE, "size": {"height": 40, "width": 48}}, NONE_DOES),
    "longest edge": ({"size": {"longest_edge": 40}}, NONE_DOES),
    "both edges": ({"size": {"shortest_edge": 40, "longest_edge": 50}}, NONE_DOES),
    "at most": ({"size": {"max_height": 40, "max_width": 40}}, NONE_DOES),
    "no size": ({"size": None}, NONE_DOES),
    "no crop size": ({"crop_size": 0}, NONE_DOES),
    "crop beyond the image": ({"crop_size": 48}, "card.resize=40 is less than image_size=48"),
    "padding": ({"do_pad": True, "pad_size": {"height": 64, "width": 64}}, NONE_DOES),
    "box filter": ({"resample": 4}, "card.interpolation=box: known: bicubic"),
    "no such filter": ({"resample": 99}, UNUSABLE),
    "filter by name": ({"resample": "bicubic"}, UNUSABLE),
    "no filter": ({"resample": None}, UNUSABLE),
    "factor 0": ({"rescale_factor": 0}, UNUSABLE),
    "negative factor": ({"rescale_factor": -1 / 255}, "expected a number >= 0"),
    "mean of 0 to 255": ({"image_mean": [123, 116, 103]}, "expected a number <= 1"),
    "mean of one channel": ({"image_mean": [0.5]}, "expected a list of length 3"),
    "mean as a text": ({"image_mean": "x"}, UNUSABLE),
    "deviation 0": ({"image_std": [0, 0.1, 0.1]}, "expected a number > 0"),
    "not a number": ({"image_mean": [float("nan"), 0.1, 0.1]}, "card.mean=nan"),
    "a size of terabytes": ({"size": 10**6, "crop_size": 10**6}, "expected a whole number <= 8192"),
    "size as a text": ({"size": "big"}, UNUSABLE),
    "class unknown": (of("NoSuchProcessor"), UNUSABLE),
    "code of others": ({"image_processor_type": "X", "auto_map": {"AutoImageProcessor": "x.Y"}}, UNUSABLE),
    "ConvNeXt, cropped twice": (
        {**CONVNEXT, "size": {"shortest_edge": 40}, "do_center_crop": True},
        NONE_DOES,
    ),
    "DINOv3, overshooting": (of("DINOv3ViTImageProcessorFast", **SQUARE), NONE_DOES),
    "SigLIP 2 of any aspect": (of("Siglip2ImageProcessor", **SQUARE), NONE_DOES),
    "EfficientNet, shifted": (of("EfficientNetImageProcessor", rescale_offset=True, **SQUARE), NONE_DOES),
    "LeViT": (of("LevitImageProcessor"), NONE_DOES),
    "channels swapped": (of("MobileViTImageProcessor", do_flip_channel_order=True), NONE_DOES),
    "clips": (of("VideoMAEImageProcessor"), NONE_DOES),
}


def folder(path: Path, settings: dict[str, Any] | None) -> Path:
    CONFIG_MAPPING["vit"](**MODEL).save_pretrained(path)
    if settings is not None:
        (path / "preprocessor_config.json").write_text(json.dumps(BIT | settings))
    return path


def prepared(card: BackboneCard, image: Image.Image) -> Float[np.ndarray, "H W 3"]:
    return (apply(card.native_geometry(), image) / 255 - np.array(card.mean)) / np.array(card.std)


@pytest.mark.parametrize("settings", HONOURED.values(), ids=HONOURED)
def test_pixels_are_those_of_the_processor(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(logging.root.manager, "disable", logging.WARNING)  # use_fast is deprecated
    path = folder(tmp_path, settings)
    card, draw = find_card(f"hf:{path}"), np.random.default_rng(3)
    for fast in (False, True):
        processor: Any = AutoImageProcessor.from_pretrained(path, use_fast=fast)
        exact = type(processor).__name__.endswith("Pil")
        for height, width in ((57, 91), (131, 57), (40, 43), (40, 40), (39, 55)):
            # torchvision clips between its two passes where PIL does not: no value is near 0 or 255.
            pixels = draw.integers(64, 192, (height, width, 3), dtype=np.uint8)
            image = Image.fromarray(pixels)
            theirs = np.asarray(processor(image, return_tensors="np")["pixel_values"][0]).transpose(1, 2, 0)
            ours = prepared(card, image)
            assert ours.shape == theirs.shape
            levels = np.abs(ours - theirs) * np.array(card.std) * 255
            # Twice where noise is enlarged nearly tenfold.
            assert levels.max() <= (1e-3 if exact else 2.01 if card.image_size == 384 else 1.01)


@pytest.mark.parametrize(("settings", "message"), REFUSED.values(), ids=REFUSED)
def test_what_no_card_says_is_refused_in_one_line(tmp_path: Path, settings: dict[str, Any], message: str):
    with pytest.raises(ConfigError) as caught:
        find_card(f"hf:{folder(tmp_path, settings)}")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("text", ["{", "", "\0\1", '"x"', '{"a": ' + "[" * 100_000])
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, text: str):
    folder(tmp_path, None)
    (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises(ConfigError, match="settings of its image processor cannot be used") as caught:
        find_card(f"hf:{tmp_path}")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_folder_without_a_processor_has_no_normalisation_until_told(tmp_path: Path):
    from transformers import AutoModel

    path = folder(tmp_path, None)
    AutoModel.from_config(CONFIG_MAPPING["vit"](**MODEL)).save_pretrained(path)
    with pytest.raises(ConfigError, match="state --image-mean and --image-std"):
        load(f"hf:{path}")
    told = load(f"hf:{path}", card={"mean": 0.5, "std": 0.25})
    assert (told.card.mean, told.card.std, told.card.image_size) == ((0.5,) * 3, (0.25,) * 3, 32)
    assert load(f"random:hf:{path}").card.normalisation == "unknown"


# Processors of clips and of patches -----------------------------------------------------------------

NAFLEX: dict[str, Any] = {"image_processor_type": "Siglip2ImageProcessor", "patch_size": 8}
CLIPS: dict[str, Any] = {"video_processor_type": "VJEPA2VideoProcessor", "crop_size": 32}
TEXT = {key: MODEL[key] for key in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "NaFlex": ("siglip2", NAFLEX | {"max_num_patches": 16}),
    "NaFlex, no square number of patches": ("siglip2", NAFLEX | {"max_num_patches": 23}),
    "NaFlex, bicubic": ("siglip2", NAFLEX | {"max_num_patches": 16, "resample": 3, "image_mean": [0.4] * 3}),
    "NaFlex, values of 0 to 255": ("siglip2", NAFLEX | {"max_num_patches": 16, "do_rescale": False}),
    "clips": ("vjepa2", CLIPS),
    "clips, odd": ("vjepa2", CLIPS | {"crop_size": {"height": 48, "width": 48}, "image_std": [0.5] * 3}),
    "clips, sampled": ("vjepa2", CLIPS | {"do_sample_frames": True, "num_frames": 16}),
}


def folder_of(path: Path, kind: str, settings: dict[str, Any]) -> Path:
    vision = MODEL | {"num_patches": 16}
    sizes: dict[str, Any] = {"vision_config": vision, "text_config": TEXT}
    sizes = sizes if kind == "siglip2" else MODEL | {"crop_size": 32}
    CONFIG_MAPPING[kind](**sizes).save_pretrained(path)
    name = "video_preprocessor_config.json" if kind == "vjepa2" else "preprocessor_config.json"
    (path / name).write_text(json.dumps(settings))
    return path


def their_pixels(path: Path, kind: str, image: Image.Image) -> Float[np.ndarray, "H W 3"]:
    """What the processor gives the model, put together again one patch at a time."""
    if kind == "vjepa2":
        clip: Any = AutoVideoProcessor.from_pretrained(path)
        frames = clip([[image]], do_sample_frames=False, return_tensors="pt")["pixel_values_videos"]
        return frames[0, 0].permute(1, 2, 0).numpy()
    processor: Any = AutoImageProcessor.from_pretrained(path, use_fast=True)
    made = processor(image, return_tensors="np")
    rows, columns = made["spatial_shapes"][0]
    whole = np.zeros((rows * 8, columns * 8, 3))
    for place in range(rows * columns):
        top, left = 8 * (place // columns), 8 * (place % columns)
        whole[top : top + 8, left : left + 8] = made["pixel_values"][0][place].reshape(8, 8, 3)
    return whole


@pytest.mark.parametrize(("kind", "settings"), OTHERS.values(), ids=OTHERS)
def test_pixels_of_clips_and_of_patches_are_those_of_the_processor(
    tmp_path: Path, kind: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(logging.root.manager, "disable", logging.WARNING)
    path = folder_of(tmp_path, kind, settings)
    card, draw = find_card(f"hf:{path}"), np.random.default_rng(4)
    sides = ((57, 91), (131, 57), (40, 43), (40, 40), (39, 55), (32, 32))
    for height, width in sides if kind == "vjepa2" else [(side, side) for side, _ in sides]:
        image = Image.fromarray(draw.integers(64, 192, (height, width, 3), dtype=np.uint8))
        ours, theirs = prepared(card, image), their_pixels(path, kind, image)
        assert ours.shape == theirs.shape
        assert (np.abs(ours - theirs) * np.array(card.std) * 255).max() <= 1.01


def test_a_card_says_that_naflex_keeps_the_aspect_of_other_images(tmp_path: Path):
    path = folder_of(tmp_path, "siglip2", NAFLEX | {"max_num_patches": 16})
    image = Image.fromarray(np.full((40, 80, 3), 100, dtype=np.uint8))
    assert their_pixels(path, "siglip2", image).shape == (24, 40, 3)
    assert prepared(find_card(f"hf:{path}"), image).shape == (32, 32, 3)
    assert "keeps the aspect" in find_card(f"hf:{path}").notes


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("siglip2", {"max_num_patches": 16, "patch_size": 4}, "patches of 4 pixels, the model takes 8"),
        ("siglip2", {"max_num_patches": 0}, ""),
        ("siglip2", {"max_num_patches": 16, "do_resize": False}, NONE_DOES),
        ("vjepa2", {"do_center_crop": False}, NONE_DOES),
        ("vjepa2", {"crop_size": {"height": 32, "width": 24}}, NONE_DOES),
    ],
    ids=str,
)
def test_settings_of_clips_and_of_patches_that_no_card_says_are_refused(
    tmp_path: Path, kind: str, settings: dict[str, Any], message: str
):
    path = folder_of(tmp_path, kind, (NAFLEX if kind == "siglip2" else CLIPS) | settings)
    with pytest.raises(ConfigError) as caught:
        find_card(f"hf:{path}")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["siglip2", "vjepa2"])
@pytest.mark.parametrize("wrong", [{"mean": (0.4, 0.4, 0.4)}, {"interpolation": "nearest"}], ids=str)
def test_clips_and_patches_are_compared_with_what_the_processor_does(
    tmp_path: Path, kind: str, wrong: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    path = folder_of(tmp_path, kind, OTHERS["NaFlex" if kind == "siglip2" else "clips"][1])

    def miscopied(card: BackboneCard, fields: dict[str, Any], owner: str) -> BackboneCard:
        return updated(card, fields | wrong, owner)

    monkeypatch.setattr(hf, "updated", miscopied)
    with pytest.raises(ConfigError, match="makes other pixels of an image"):
        find_card(f"hf:{path}")
