"""How images are prepared, as the caller states it in place of the card of a model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ssleval import evaluate
from ssleval.backbones.vit import SIZES
from ssleval.backbones.weights.weightfile import write_weights
from ssleval.backbones.zoo import find_card, load
from ssleval.core import Context
from ssleval.errors import ConfigError, UnknownNameError, WeightsError
from ssleval.results import read_all

SMALL: dict[str, Any] = {"image_size": 32}
HALF: dict[str, Any] = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
OWN_FILE = """
import torch
from ssleval.core import BackboneCard
from ssleval.core.backbone import Backbone, Features, Tokens

class Mean(Backbone):
    def extract(self, images, blocks, *, norm):
        patches = torch.nn.functional.avg_pool2d(images, 16).permute(0, 2, 3, 1)
        return Features(patches.mean((1, 2)), tuple(Tokens(patches) for _ in blocks))

def make():
    return Mean(BackboneCard("own", "own", "own", embed_dim=3, patch_size=16), num_blocks=1)
"""


@pytest.fixture(autouse=True)
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "vit_tiny", (48, 2, 3))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Weights of another program, which state nothing but their tensors."""
    backbone: Any = load("random:native:vit_tiny", card=SMALL)
    save_file(backbone.vit.state_dict(), tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


def test_weights_of_an_architecture_alone_are_refused_until_told(weights: Path):
    with pytest.raises(ConfigError) as caught:
        load("native:vit_tiny", checkpoint=weights)
    assert "state --image-mean and --image-std" in str(caught.value)
    assert "\n" not in str(caught.value)
    told = load("native:vit_tiny", checkpoint=weights, card=HALF | SMALL)
    assert (told.card.mean, told.card.std) == (HALF["mean"], HALF["std"])
    images = torch.rand(1, 3, 32, 32)
    expected = told.extract(images * 2 - 1, [], norm=True).pooled
    torch.testing.assert_close(told(images).pooled, expected)
    assert (told(images).pooled - told.extract(images, [], norm=True).pooled).abs().max() > 1e-2


@pytest.mark.parametrize("name", ["vit_tiny", "vit_small", "vit_base"])
def test_aliases_of_plain_architectures_know_no_normalisation(name: str):
    assert find_card(name).normalisation == "unknown"
    assert find_card(f"native:{name}").normalisation == "unknown"


def test_a_missing_file_and_a_random_network_are_not_asked_for_it(tmp_path: Path):
    with pytest.raises(WeightsError, match="no such file"):
        load("native:vit_tiny", checkpoint=tmp_path / "absent.pth")
    load("random:native:vit_tiny")


def test_a_checkpoint_that_describes_itself_states_it(tmp_path: Path):
    backbone: Any = load("random:native:vit_tiny", card=HALF)
    write_weights(tmp_path / "own.safetensors", backbone.vit.state_dict(), backbone.card, {})
    loaded = load("native:vit_tiny", checkpoint=tmp_path / "own.safetensors")
    assert loaded.card.mean == HALF["mean"]
    other = load("native:vit_tiny", checkpoint=tmp_path / "own.safetensors", card={"mean": 0, "std": 1})
    assert other.card.std == (1, 1, 1)


def test_results_and_features_depend_on_it_and_record_it(weights: Path, tmp_path: Path):
    tables: list[Any] = []
    for card in (HALF, HALF, {"mean": 0.25, "std": 0.5}, HALF | {"resize": 64}):
        tables += evaluate(
            "native:vit_tiny",
            "knn",
            dataset="digits",
            settings={"knn": {"ks": (1,), "preprocessing": "card"}},
            checkpoint=weights,
            card=SMALL | card,
            limit=10,
            context=Context(cache=tmp_path / "cache", progress=False),
            results=tmp_path / "results",
        )
    assert [table.cached for table in tables] == [False, True, False, False]
    assert len({table.key for table in tables}) == 3
    assert tables[2].timings["images_extracted"] == 20, "features of another mean are other features"
    assert tables[3].timings["images_extracted"] == 20
    stored = {tuple(result.backbone["mean"]) for result in read_all(tmp_path / "results")}
    assert stored == {(0.5, 0.5, 0.5), (0.25, 0.25, 0.25)}
    assert {result.backbone["resize"] for result in read_all(tmp_path / "results")} == {37, 64}


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"mean": (0.5, 0.5, 0.5)}, "state --image-mean and --image-std together"),
        ({"std": 0.5}, "state --image-mean and --image-std together"),
        ({"mean": 123.7, "std": 58.4}, "card.mean=123.7,123.7,123.7: expected a number <= 1"),
        ({"mean": 0.5, "std": 58.4}, "card.std=58.4,58.4,58.4: expected a number <= 2"),
        ({"mean": -0.1, "std": 0.5}, "expected a number >= 0"),
        ({"mean": 0.5, "std": 0}, "expected a number > 0"),
        ({"mean": 0.5, "std": -0.5}, "expected a number > 0"),
        ({"mean": float("nan"), "std": 0.5}, "card.mean=nan,nan,nan: expected"),
        ({"mean": 0.5, "std": float("inf")}, "card.std=inf,inf,inf: expected"),
        ({"mean": "0.5,0.4", "std": 0.5}, "card.mean=0.5,0.4: expected a list of length 3"),
        ({"mean": "imagenet", "std": 0.5}, "card.mean=imagenet,imagenet,imagenet: expected a number"),
        (HALF | {"patch_size": 0}, "card.patch_size=0: expected a whole number >= 1"),
        (HALF | {"patch_size": -16}, "card.patch_size=-16: expected a whole number >= 1"),
        (HALF | {"image_size": 0}, "card.image_size=0: expected a whole number >= 1"),
        (HALF | {"image_size": 10**9}, "card.image_size=1000000000: expected a whole number <= 8192"),
        (HALF | {"image_size": 100}, "the model has image_size=32; leave image_size=100 out"),
        (HALF | {"resize": -1}, "card.resize=-1: expected a whole number >= 0"),
        (HALF | {"resize": 100}, "card.resize=100 is less than image_size=224"),
        (HALF | {"resize_mode": "crop"}, "card.resize_mode=crop: known: short, square"),
        (HALF | {"interpolation": "cubic"}, "card.interpolation=cubic: did you mean bicubic"),
    ],
)
def test_impossible_values_are_refused_in_one_line(weights: Path, card: dict[str, Any], message: str):
    with pytest.raises(ConfigError) as caught:
        load("native:vit_tiny", checkpoint=weights, card=card)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_only_preparation_is_stated(weights: Path):
    with pytest.raises(UnknownNameError, match="'image_mean' cannot be stated; known: mean, std"):
        load("native:vit_tiny", checkpoint=weights, card={"image_mean": 0.5})
    with pytest.raises(UnknownNameError, match="'embed_dim' cannot be stated"):
        load("native:vit_tiny", checkpoint=weights, card={"embed_dim": 3})


def test_a_built_model_takes_neither_weights_nor_a_card():
    for stated in ({"card": HALF}, {"checkpoint": "weights.pth"}):
        with pytest.raises(ConfigError, match="for a model that is named"):
            evaluate(load("pixels"), "knn", dataset="digits", **stated)  # pyright: ignore[reportArgumentType]


def test_texts_of_a_command_line_are_read():
    told = load("pixels", card={"mean": " 0.5, 0.25 ,0", "std": " 5e-1"}).card
    assert (told.mean, told.std) == ((0.5, 0.25, 0.0), (0.5, 0.5, 0.5))


def test_a_crop_keeps_its_part_of_images_of_another_size():
    told = load("random:native:vit_tiny", card={"image_size": "448"}).card
    assert (told.image_size, told.resize) == (448, 512)
    assert load("random:native:vit_tiny", card={"image_size": 448, "resize": 448}).card.resize == 448
    assert load("random:native:vit_tiny/dinov2", card={"image_size": 224}).card.resize == 0


def test_patches_of_another_size_are_built_or_refused(weights: Path):
    small: Any = load("random:native:vit_tiny", card={"patch_size": 8, "image_size": 64})
    assert small.vit.patch_embed.proj.weight.shape[-1] == 8
    assert small(torch.rand(1, 3, 16, 16), [-1]).blocks[0].patches.shape[1:3] == (2, 2)
    with pytest.raises(ConfigError, match="the model has patch_size=16; leave patch_size=8 out"):
        load("native:vit_tiny", checkpoint=weights, card=HALF | SMALL | {"patch_size": 8})
    with pytest.raises(ConfigError, match="leave patch_size=8 out"):
        load("random:timm:test_vit", card={"patch_size": 8})


def test_a_model_that_would_ignore_it_is_refused(tmp_path: Path):
    (tmp_path / "own.py").write_text(OWN_FILE)
    with pytest.raises(ConfigError, match="the model takes no other mean; leave mean="):
        load(f"{tmp_path}/own.py:make", card=HALF)
    assert load(f"{tmp_path}/own.py:make", card={"resize": 300}).card.resize == 300


def test_libraries_apply_what_is_stated():
    told = load("random:timm:test_vit", card=HALF | {"image_size": 96, "interpolation": "bilinear"})
    assert told.mean.flatten().tolist() == [0.5, 0.5, 0.5]
    assert told.card.native_geometry().crop == 96
    assert told.card.interpolation == "bilinear"
