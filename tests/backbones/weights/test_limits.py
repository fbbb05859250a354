"""What a file declares is bounded before anything of that size is made."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ssleval.backbones.vit import VitConfig
from ssleval.backbones.weights.limits import refuse_giant, refuse_giant_settings
from ssleval.backbones.weights.weightfile import write_weights
from ssleval.backbones.zoo import find_card, load
from ssleval.core import BackboneCard
from ssleval.errors import SslevalError, WeightsError

CONFIG = asdict(VitConfig(24, 1, 2, 8, 16))
CARD = BackboneCard("own", "native", "file:own", embed_dim=24, patch_size=8, image_size=16)


@pytest.mark.parametrize(
    "settings",
    [
        {"num_hidden_layers": 10**6},
        {"vision_config": {"hidden_size": 10**7}},
        {"image_size": 10**5},
        {"image_size": [224, 10**5]},
        {"depths": [1, 1, 10**9, 1]},
        {"num_attention_heads": 1e300},
        {"vision_cfg": {"layers": [3, 4, 6, -1]}},
        {"context_length": 10**6},
        {"patch_size": float("nan")},
    ],
)
def test_giant_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(WeightsError, match="expected 0 to"):
        refuse_giant_settings(settings, "test")


def test_settings_of_large_published_models_pass() -> None:
    seven_billion = {
        "hidden_size": 4096,
        "num_hidden_layers": 40,
        "intermediate_size": 8192,
        "vocab_size": 256000,
    }
    refuse_giant_settings({**seven_billion, "label2id": {"layers": 5000}, "image_size": 1024}, "test")


@pytest.mark.parametrize("kind", ["dinov2", "vit", "clip"])
@pytest.mark.parametrize(
    ("setting", "value"), [("num_hidden_layers", 10**10), ("hidden_size", 10**7), ("image_size", 10**5)]
)
def test_a_hub_folder_that_declares_a_giant_is_refused(
    kind: str, setting: str, value: int, tmp_path: Path
) -> None:
    stated = {setting: value} if kind != "clip" else {"vision_config": {setting: value}}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, **stated}))
    with pytest.raises(WeightsError, match=setting):
        load(f"random:hf:{tmp_path}")


def test_a_model_of_too_many_values_is_refused_without_memory() -> None:
    with torch.device("meta"):
        model = torch.nn.Linear(1 << 20, 1 << 18)
    with pytest.raises(WeightsError, match="values"):
        refuse_giant(model, "test")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("depth", 10**6),
        ("embed_dim", 10**7),
        ("image_size", 10**5),
        ("num_heads", 10**6),
        ("num_registers", 10**9),
        ("mlp_ratio", 1e9),
    ],
)
@pytest.mark.parametrize("prefix", ["", "random:"])
def test_a_header_that_declares_a_giant_is_refused(
    prefix: str, name: str, value: float, tmp_path: Path
) -> None:
    path = tmp_path / "own.safetensors"
    write_weights(path, {"x": torch.ones(1)}, CARD, {**CONFIG, name: value})
    with pytest.raises(SslevalError, match=name):
        load(f"{prefix}{path}")


def test_a_header_within_bounds_that_is_a_giant_in_all_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    giant = {**CONFIG, "depth": 9, "embed_dim": 1 << 17}
    write_weights(path, {"x": torch.ones(1)}, replace(CARD, embed_dim=1 << 17), giant)
    with pytest.raises(WeightsError, match="values"):
        load(f"random:{path}")


@pytest.mark.parametrize("field", ["image_size", "embed_dim", "patch_size", "resize"])
def test_a_card_that_declares_a_giant_is_refused(field: str, tmp_path: Path) -> None:
    card = {**asdict(CARD), field: 10**8}
    header = {"format": "ssleval-weights-1", "card": json.dumps(card), "config": json.dumps(CONFIG)}
    save_file({"x": torch.ones(1)}, tmp_path / "own.safetensors", header)
    with pytest.raises(WeightsError, match=field):
        find_card(str(tmp_path / "own.safetensors"))


@pytest.mark.parametrize("loader", ["torchhub", "python_file", "hf", "open_clip", "none"])
def test_a_header_cannot_choose_a_loader_that_runs_code(loader: str, tmp_path: Path) -> None:
    write_weights(tmp_path / "own.safetensors", {"x": torch.ones(1)}, replace(CARD, loader=loader), CONFIG)
    with pytest.raises(WeightsError, match="native or timm"):
        find_card(str(tmp_path / "own.safetensors"))


def test_a_header_cannot_send_timm_to_a_repository(tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    write_weights(
        path, {"x": torch.ones(1)}, replace(CARD, loader="timm", arch="hf-hub:someone/model"), CONFIG
    )
    with pytest.raises(SslevalError, match="timm has no 'hf-hub:someone/model'"):
        load(str(path))
