from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
import torchvision
import transformers
from torch import Tensor, nn

import ssleval
from ssleval.core import Context, Readout
from ssleval.core.backbone import Backbone
from ssleval.core.task import Needs
from ssleval.errors import ConfigError, ContractError, NotApplicableError, SslevalError
from ssleval.features import FeatureSource

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.1)


class Patchify(nn.Module):
    """Tokens of 8-pixel patches: ``prefix`` tokens of minus one, two, ... and the patches row by row."""

    def __init__(self, form: str = "tokens", prefix: int = 0) -> None:
        super().__init__()
        self.form, self.prefix = form, prefix
        self.embed = nn.Conv2d(3, 5, 8, stride=8)

    def forward(self, images: Tensor) -> Any:
        grid = self.embed(images)
        tokens = grid.flatten(2).transpose(1, 2)
        first = -torch.arange(1.0, self.prefix + 1).view(1, -1, 1).expand(len(images), -1, 5)
        sequence = torch.cat([first, tokens], dim=1)
        return {
            "tokens": sequence,
            "map": grid,
            "channels_last": grid.permute(0, 2, 3, 1),
            "vector": tokens.mean(1),
            "dinov2": {
                "x_norm_clstoken": tokens.sum(1),
                "x_norm_regtokens": first,
                "x_norm_patchtokens": tokens,
            },
            "hidden": SimpleNamespace(last_hidden_state=sequence, pooler_output=tokens.amax(1)),
            "tuple": (sequence,),
            "five": grid[None],
        }[self.form]


def wrap(module: nn.Module, **options: Any) -> Backbone:
    usual: dict[str, Any] = {"patch_size": 8, "mean": MEAN, "std": STD, "image_size": 32}
    return ssleval.wrap(module, **(usual | options))


def images(count: int = 2, size: int = 32) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def patches_of(module: Patchify, pixels: Tensor) -> Tensor:
    """The same by an explicit loop over patches."""
    mean, std = (torch.tensor(one).view(1, 3, 1, 1) for one in (MEAN, STD))
    normalised = (pixels - mean) / std
    rows = [
        [module.embed(normalised[:, :, y : y + 8, x : x + 8])[:, :, 0, 0] for x in range(0, 32, 8)]
        for y in range(0, 32, 8)
    ]
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)


@pytest.mark.parametrize(
    ("form", "prefix", "options"),
    [
        ("tokens", 0, {}),
        ("tokens", 1, {"cls": True}),
        ("tokens", 3, {"cls": True, "registers": 2}),
        ("tokens", 2, {"cls": False, "registers": 2}),
        ("map", 0, {}),
        ("dinov2", 0, {}),
        ("dinov2", 4, {}),
        ("hidden", 1, {"cls": True}),
    ],
)
def test_patches_are_where_the_layout_says(form: str, prefix: int, options: dict[str, Any]) -> None:
    module = Patchify(form, prefix)
    found = wrap(module, **options)(images(), (-1,))
    torch.testing.assert_close(found.blocks[0].patches, patches_of(module, images()))
    registers = found.blocks[0].registers
    assert (0 if registers is None else registers.shape[1]) == options.get(
        "registers", prefix if form == "dinov2" else 0
    )
    if options.get("cls"):
        assert found.blocks[0].cls is not None
        assert (found.blocks[0].cls == -1).all()
        assert (found.pooled == -1).all()


@pytest.mark.parametrize(
    ("form", "options", "name"),
    [
        ("tokens", {}, "mean"),
        ("map", {}, "mean"),
        ("vector", {}, "mean"),
        ("dinov2", {}, "sum"),
        ("dinov2", {"pooling": "mean"}, "mean"),
        ("hidden", {}, "amax"),
        ("hidden", {"pooling": "mean"}, "mean"),
    ],
)
def test_pooled_is_what_is_given_or_asked_for(form: str, options: dict[str, Any], name: str) -> None:
    module = Patchify(form)
    expected = getattr(patches_of(module, images()), name)((1, 2))
    torch.testing.assert_close(wrap(module, **options)(images()).pooled, expected)


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (Patchify("tokens", 1), {}, r"17 tokens for 4x4 patches; state what comes first: ssleval.wrap\("),
        (Patchify("tokens", 1), {"cls": True, "registers": 1}, "15 patch tokens, expected 4x4"),
        (Patchify("tokens"), {"cls": True}, "15 patch tokens, expected 4x4"),
        (Patchify("map"), {"patch_size": 16}, "a map of 5 x 4 x 4, expected channels x 2 x 2"),
        (Patchify("channels_last"), {}, "a map of 4 x 4 x 5, .*channels first"),
        (Patchify("tuple"), {}, "its output is a tuple; expected a vector"),
        (Patchify("five"), {}, "its output is a Tensor of shape"),
        (Patchify("map"), {"pooling": "cls"}, "pooling=cls, but its output has no such vector"),
        (Patchify("map"), {"pooling": "given"}, "pooling=given, but its output has no such vector"),
        (Patchify("vector"), {"pooling": "mean"}, "pooling=mean, but its output is one vector"),
        (Patchify("map"), {"mean": (0.5, 0.5)}, "one number or three, not 2"),
        (
            torchvision.models.resnet18(weights=None),
            {"patch_size": 32},
            "may be the logits of fc; put torch.nn.Id",
        ),
        (torchvision.models.vgg11(weights=None), {"patch_size": 32}, "may be the logits of classifier.6"),
    ],
)
def test_what_is_not_stated_is_refused_with_what_to_do(
    module: nn.Module, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        wrap(module, **options)


def test_a_trunk_without_its_classifier_is_taken_and_a_stated_vector_too() -> None:
    trunk = torchvision.models.resnet18(weights=None)
    assert wrap(trunk, patch_size=32, pooling="given").card.pooled_dim == 1000
    trunk.fc = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    assert wrap(trunk, patch_size=32).card.pooled_dim == 512


def test_models_of_timm_give_tokens_and_their_descriptor_without_the_classifier() -> None:
    model: Any = timm.create_model(
        "vit_small_patch16_dinov3", pretrained=False, img_size=32, depth=1, embed_dim=24, num_heads=2
    ).eval()
    backbone = wrap(model, patch_size=16)
    found = backbone(images(), (-1,))
    normalised = (images() - backbone.mean) / backbone.std
    tokens = model.forward_features(normalised)
    torch.testing.assert_close(found.pooled, model.forward_head(tokens, pre_logits=True))
    torch.testing.assert_close(found.blocks[0].patches.flatten(1, 2), tokens[:, model.num_prefix_tokens :])
    assert found.blocks[0].registers is not None
    assert found.blocks[0].registers.shape[1] == model.num_prefix_tokens - 1


def test_models_of_transformers_need_their_class_token_stated() -> None:
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=8,
    )
    model = transformers.ViTModel(config, add_pooling_layer=False)
    with pytest.raises(ConfigError, match="17 tokens for 4x4 patches"):
        wrap(model)
    backbone = wrap(model, cls=True)
    expected = model((images() - backbone.mean) / backbone.std).last_hidden_state
    torch.testing.assert_close(backbone(images()).pooled, expected[:, 0])


def test_an_error_of_the_module_is_one_line_that_names_it() -> None:
    with pytest.raises(ContractError, match="Linear: RuntimeError"):
        wrap(nn.Linear(2, 2))


def test_a_module_that_gives_a_vector_has_no_blocks() -> None:
    source = FeatureSource(wrap(Patchify("vector")), Context(progress=False))
    assert not source.gives(Readout("patches"))
    assert not source.gives(Readout("patches", quarter=1))
    with pytest.raises(NotApplicableError, match="no block"):
        source.check_needs("x", Needs(readouts=(Readout("cls"),)))


def test_what_changes_in_the_module_or_the_layout_changes_what_is_stored() -> None:
    module = Patchify("dinov2")
    first = wrap(module)
    hashes = {first.definition["configuration"], wrap(module, pooling="mean").definition["configuration"]}
    module.prefix = 1
    first.forget_hashes()
    hashes.add(first.definition["configuration"])
    assert len(hashes) == 3


def test_training_mode_and_gradients_of_the_parameters_are_left_alone() -> None:
    module = Patchify("map")
    wrap(module)
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_a_wrapped_module_is_evaluated_like_any_other(tmp_path: Path) -> None:
    context, settings = Context(cache=tmp_path, progress=False), {"knn": {"preprocessing": "card"}}
    pixels = nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.Flatten())
    backbone = wrap(pixels, name="mine", interpolation="bilinear")
    (result,) = ssleval.evaluate(
        backbone, "knn", dataset="digits", limit=200, context=context, settings=settings
    )
    assert (result.model, result.backbone["interpolation"]) == ("mine", "bilinear")
    assert result.metrics[result.headline].value > 0.8


def test_a_plain_module_is_refused_with_the_line_that_helps(tmp_path: Path) -> None:
    with pytest.raises(
        SslevalError, match=r"model is a Patchify, expected a backbone: return ssleval.wrap\("
    ):
        ssleval.evaluate(Patchify(), "knn")
    file = tmp_path / "mine.py"
    file.write_text("import torch\ndef make():\n    return torch.nn.Linear(1, 1)\n", encoding="utf-8")
    with pytest.raises(SslevalError, match=r"returned Linear, expected a backbone: return ssleval.wrap\("):
        ssleval.load(f"{file}:make")


def test_a_file_may_return_a_wrapped_module(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch, ssleval\n"
        "def make():\n"
        "    trunk = torch.nn.Conv2d(3, 4, 8, stride=8)\n"
        "    return ssleval.wrap(trunk, patch_size=8, mean=0.5, std=0.5, image_size=32)\n",
        encoding="utf-8",
    )
    backbone = ssleval.load(f"{file}:make")
    assert backbone.card.mean == (0.5, 0.5, 0.5)
    assert backbone(images()).pooled.shape == (2, 4)
