"""Tiny contrastive models with random weights, for tests of tasks that use texts."""

import json
from pathlib import Path
from typing import Any

import open_clip
import torch

from ssleval.backbones.zoo import load
from ssleval.core.backbone import Backbone


def save_clip(folder: Path, *, seed: int = 0, side: int = 32, **model: Any) -> Path:
    """Write a local OpenCLIP checkpoint that can be loaded as ``open_clip:FOLDER``."""
    vision = {"image_size": side, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8}
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    config = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text, **model}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        state = open_clip.create_model(f"local-dir:{folder}", load_weights=False).state_dict()
    torch.save(state, folder / "open_clip_pytorch_model.bin")
    return folder


def tiny_clip(folder: Path, **options: Any) -> Backbone:
    return load(f"open_clip:{save_clip(folder, **options)}")
