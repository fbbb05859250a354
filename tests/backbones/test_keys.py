"""Keys of every loader against the tensor that its attention multiplies queries with."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ssleval.backbones.zoo import load
from ssleval.core import Context
from ssleval.errors import NotApplicableError
from ssleval.features import Live
from tests.backbones.loaders import test_hf, test_open_clip, test_timm

Build = Callable[[Path], Any]
BUILD: dict[str, Build] = {
    "native": lambda _: load("random:native:vit_tiny/dinov2_reg4"),
    "timm": lambda _: test_timm._small(test_timm.REGISTERS, **test_timm.SHAPE),
    "hf": lambda path: load(f"hf:{test_hf._later(path, 'tipsv2')}"),
    "hf, several class tokens": lambda path: load(f"hf:{test_hf._later(path, 'pixio')}"),
    "hf, no class token": lambda path: load(f"hf:{test_hf._later(path, 'siglip2')}"),
    "open_clip": lambda path: load(f"open_clip:{test_open_clip._folder(path, test_open_clip.OWN)}"),
    "open_clip of timm": lambda path: load(f"open_clip:{test_open_clip._folder(path, test_open_clip.TRUNK)}"),
}


@pytest.mark.parametrize("name", BUILD)
def test_keys_are_what_attention_multiplies_queries_with(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = BUILD[name](tmp_path)
    patch, side = backbone.card.patch_size, backbone.card.image_size
    fixed = name == "open_clip of timm"
    images = torch.rand(2, 3, *((side, side) if fixed else (2 * patch, 4 * patch)))
    found = backbone.keys(images)
    seen: list[Tensor] = []
    whole = torch.nn.functional.scaled_dot_product_attention

    def attend(query: Tensor, key: Tensor, *rest: Any, **more: Any) -> Tensor:
        seen.append(key)
        return whole(query, key, *rest, **more)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attend)
    backbone(images, [backbone.num_blocks - 1])
    rows, columns = backbone.patch_grid(images)
    key = [one for one in seen if one.shape[2] >= rows * columns][-1]
    expected = key.transpose(1, 2).flatten(2)[:, -rows * columns :]
    assert found.shape[:3] == (2, rows, columns)
    torch.testing.assert_close(found.flatten(1, 2), expected, atol=1e-5, rtol=1e-5)
    assert not found.requires_grad


def test_images_are_filled_up_with_the_mean_colour_below_and_to_the_right() -> None:
    backbone: Any = load("random:native:vit_tiny/dino")
    live = Live(backbone, Context(progress=False))
    images = torch.randint(0, 256, (1, 20, 33, 3), dtype=torch.uint8)
    whole = torch.tensor(backbone.card.mean).view(1, 3, 1, 1).repeat(1, 1, 32, 48)
    whole[:, :, :20, :33] = images.permute(0, 3, 1, 2) / 255
    assert torch.equal(live.keys(images), backbone.keys(whole))
    assert torch.equal(live.keys(images[:, :16, :32]), backbone.keys(whole[:, :, :16, :32]))


def test_models_whose_keys_are_not_known_say_so(tmp_path: Path) -> None:
    for backbone in (load("pixels"), load(f"hf:{test_hf._later(tmp_path, 'vjepa2')}")):
        with pytest.raises(NotApplicableError, match="no keys of a last attention"):
            backbone.keys(torch.zeros(1, 3, 32, 32))
    eva: Any = test_timm._small("eva02_tiny_patch14_224", depth=1)
    with pytest.raises(NotApplicableError, match="keys of timm's Eva are not known"):
        eva.keys(torch.zeros(1, 3, 224, 224))
