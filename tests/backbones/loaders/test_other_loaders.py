from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision import models

from ssleval.backbones.zoo import find_card, load
from ssleval.errors import ConfigError, ContractError, UnknownNameError, WeightsError

IMAGES = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def test_pixels_are_mean_colours():
    features = load("pixels")(IMAGES, [-1])
    patches = features.blocks[0].patches
    assert torch.allclose(patches[1, 2, 3], IMAGES[1, :, 32:48, 48:64].mean((1, 2)), atol=1e-6)
    assert torch.allclose(
        features.pooled[0].view(3, 8, 8)[:, 7, 0], IMAGES[0, :, 56:, :12].mean((1, 2)), atol=1e-6
    )
    with pytest.raises(WeightsError, match="no weights"):
        load("pixels", checkpoint="some.pth")


BUILDERS: dict[str, Any] = {
    "resnet50": partial(models.ResNet, models.resnet.Bottleneck, [1, 1, 1, 1], width_per_group=4),
    "vit_b_16": partial(
        models.VisionTransformer, patch_size=16, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=48
    ),
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have torchvision build few narrow blocks: what is tested does not depend on the depth and width."""

    def build(arch: str, weights: None, **options: int) -> Any:
        return BUILDERS[arch](**options)

    monkeypatch.setattr(models, "get_model_builder", lambda arch: partial(build, arch))  # pyright: ignore[reportUnknownLambdaType]


def test_a_torchvision_resnet_equals_torchvision(tmp_path: Path, small: None):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model: Any = BUILDERS["resnet50"]().eval()
    path = tmp_path / "resnet.pth"
    torch.save({"state_dict": {f"module.{key}": value for key, value in model.state_dict().items()}}, path)
    backbone: Any = load("dino_resnet50", checkpoint=path)
    model.fc = torch.nn.Identity()
    features = backbone(IMAGES, [-1])
    with torch.no_grad():
        expected = model((IMAGES - backbone.mean) / backbone.std)
    assert torch.allclose(features.pooled, expected, atol=1e-5)
    assert torch.allclose(features.blocks[0].patches.mean((1, 2)), expected, atol=1e-5)


def test_moco_v3_gives_its_query_encoder(tmp_path: Path, small: None):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        query, momentum = (BUILDERS["resnet50"]().state_dict() for _ in range(2))
    state = {f"module.base_encoder.{key}": value for key, value in query.items()}
    state |= {f"module.momentum_encoder.{key}": value for key, value in momentum.items()}
    torch.save({"state_dict": state}, tmp_path / "moco.pth")
    backbone: Any = load("mocov3_resnet50", checkpoint=tmp_path / "moco.pth")
    assert torch.equal(backbone.model.conv1.weight, query["conv1.weight"])


def test_a_torchvision_vit_equals_torchvision(small: None):
    backbone: Any = load("random:torchvision:vit_b_16/IMAGENET1K_V1")
    images = torch.rand(1, 3, 224, 224)
    features = backbone(images, [-1])
    with torch.no_grad():
        expected = backbone.model((images - backbone.mean) / backbone.std)
    assert torch.allclose(features.pooled, expected, atol=1e-5)
    assert features.blocks[0].cls is not None
    assert torch.allclose(features.blocks[0].cls, expected, atol=1e-5)
    with pytest.raises(ConfigError, match="fixes this model to 224x224"):
        backbone(IMAGES)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("torchvision:resnet51", UnknownNameError, "resnet50"),
        ("torchvision:resnet50/IMAGENET1K_V3", UnknownNameError, "IMAGENET1K_V2"),
        ("torchvision:swin_t", ConfigError, "token layout of torchvision's SwinTransformer"),
        ("torchhub:owner/repo", UnknownNameError, "owner/repo/entry"),
        ("nowhere/file.py:make", UnknownNameError, "no file nowhere/file.py"),
    ],
)
def test_unusable_names_are_refused(name: str, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        find_card(name)


OWN = """
from ssleval.backbones.loaders.pixels import Pixels
from ssleval.backbones.zoo import find_card

def make():
    return Pixels(find_card("pixels"))

def wrong():
    return 3
"""


def test_a_file_of_your_own(tmp_path: Path):
    path = tmp_path / "mine.py"
    path.write_text(OWN)
    backbone: Any = load(f"{path}:make")
    assert backbone.card.loader == "python_file"
    assert torch.equal(backbone(IMAGES).pooled, load("pixels")(IMAGES).pooled)
    with pytest.raises(ContractError, match="returned int"):
        load(f"{path}:wrong")
    with pytest.raises(UnknownNameError, match="did you mean make"):
        load(f"{path}:mak")


HUB = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_dim = 8
        self.patch_embed = nn.Conv2d(3, 8, 16, 16)
        self.patch_embed.patch_size = 16
        self.cls = nn.Parameter(torch.randn(1, 1, 8))
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.norm = nn.LayerNorm(8)

    def get_intermediate_layers(self, x, n=1):
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1)
        found = []
        for block in self.blocks:
            x = block(x)
            found.append(self.norm(x))
        return found[-n:]

def net(pretrained=True):
    return Net()

def plain(pretrained=True):
    return nn.Linear(1, 1)
"""


def test_a_hub_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "someone_things_main"
    folder.mkdir()
    (folder / "hubconf.py").write_text(HUB)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    backbone: Any = load("random:torchhub:someone/things:main/net")
    features = backbone(IMAGES, [-1, 0])
    with torch.no_grad():
        states = backbone.model.get_intermediate_layers((IMAGES - backbone.mean) / backbone.std, 3)
    assert torch.allclose(features.pooled, states[-1][:, 0])
    assert torch.allclose(features.blocks[1].patches.flatten(1, 2), states[0][:, 1:])
    with pytest.raises(ConfigError, match="Linear has no embed_dim"):
        load("torchhub:someone/things:main/plain")
    with pytest.raises(ConfigError, match="state --image-mean and --image-std"):
        load("torchhub:someone/things:main/net")
    told = load("torchhub:someone/things:main/net", card={"mean": 0.5, "std": 0.25, "patch_size": 16})
    assert told.std.flatten().tolist() == [0.25] * 3
    with pytest.raises(ConfigError, match="leave patch_size=8 out"):
        load("random:torchhub:someone/things:main/net", card={"patch_size": 8})


def test_a_hub_entry_takes_the_arguments_that_its_name_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "someone_things_main"
    folder.mkdir()
    wide = """
def wide(pretrained=True, weights="IN21K"):
    assert weights == "LAION", weights
    return Net()
"""
    (folder / "hubconf.py").write_text(HUB + wide)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert load("random:torchhub:someone/things:main/wide?weights=LAION").num_blocks == 3
    with pytest.raises(ContractError, match="IN21K"):
        load("random:torchhub:someone/things:main/wide")
    with pytest.raises(ConfigError, match=r"NAME=VALUE, joined by &, got 'weights'"):
        load("random:torchhub:someone/things:main/wide?weights")
    with pytest.raises(ConfigError, match="pretrained is this loader's to choose"):
        load("random:torchhub:someone/things:main/wide?weights=LAION&pretrained=0")


@pytest.mark.parametrize("size", [(240, 240), (300, 97), (33, 64)])
def test_a_torchvision_resnet_takes_any_size(size: tuple[int, int], small: None):
    backbone: Any = load("random:torchvision:resnet50")
    patches = backbone(torch.rand(1, 3, *size), [-1]).blocks[0].patches
    assert patches.shape[1:3] == tuple(-(-side // 32) for side in size)
