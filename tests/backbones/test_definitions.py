"""What a file says of an architecture is part of the key of features, also where no weight shows it."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from ssleval.backbones.vit import VitConfig
from ssleval.backbones.weights.weightfile import write_weights
from ssleval.backbones.zoo import load
from ssleval.core import BackboneCard
from ssleval.core.backbone import Backbone
from tests.backbones.loaders.test_hf import _folder as hf_folder
from tests.backbones.loaders.test_open_clip import OWN
from tests.backbones.loaders.test_open_clip import _folder as open_clip_folder

CONFIG = VitConfig(embed_dim=32, depth=2, num_heads=2, patch_size=8, image_size=32)
MODEL = """
import json
from pathlib import Path
import user_help
from ssleval import load
from tests.features.feature_fakes import Tiny

def tiny():
    return Tiny(scale=user_help.SCALE)

def ours():
    model = load("random:vit_tiny")
    model.vit.norm.eps = user_help.SCALE
    return model
"""


def native(folder: Path, heads: int) -> Backbone:
    path = folder / "teacher.safetensors"
    card = BackboneCard("tiny", "native", "vit_tiny/dino", embed_dim=32, patch_size=8, image_size=32)
    tensors: dict[str, Any] = {}
    if path.exists():
        tensors = dict(load(str(path)).vit.state_dict())  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]
    else:
        from ssleval.backbones.vit import Vit

        tensors = dict(Vit(CONFIG).state_dict())
    write_weights(path, tensors, card, asdict(CONFIG) | {"num_heads": heads})
    return load(str(path))


def hf(folder: Path, heads: int) -> Backbone:
    path = folder / "config.json"
    if not path.exists():
        hf_folder(folder, "vit")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_attention_heads": heads}))
    return load(f"hf:{folder}")


def open_clip(folder: Path, heads: int) -> Backbone:
    path = folder / "open_clip_config.json"
    if not path.exists():
        open_clip_folder(folder, OWN)
    config = json.loads(path.read_text())
    config["model_cfg"]["vision_cfg"]["head_width"] = 32 // heads
    path.write_text(json.dumps(config))
    return load(f"open_clip:{folder}")


@pytest.mark.parametrize("made", [native, hf, open_clip])
def test_the_number_of_heads_is_part_of_the_key(tmp_path: Path, made: Callable[[Path, int], Backbone]):
    two, four, again = (made(tmp_path, heads) for heads in (2, 4, 2))
    assert two.weights_sha256 == four.weights_sha256
    assert two.definition == again.definition
    assert two.definition.keys() == four.definition.keys() == {"configuration"}
    assert two.definition != four.definition


@pytest.mark.parametrize("factory", ["tiny", "ours"])
def test_a_helper_of_a_users_file_is_part_of_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factory: str
):
    (tmp_path / "model.py").write_text(MODEL)
    monkeypatch.syspath_prepend(tmp_path)
    seen: list[object] = []
    for text in ("SCALE = 1e-6\n", "SCALE = 1e-5  # other\n"):
        (tmp_path / "user_help.py").write_text(text)
        monkeypatch.delitem(__import__("sys").modules, "user_help", raising=False)
        backbone = load(f"{tmp_path}/model.py:{factory}")
        seen.append(dict(backbone.definition))
        assert dict(load(f"{tmp_path}/model.py:{factory}").definition) == seen[-1]
    assert seen[0] != seen[1]
