import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ssleval.backbones.zoo import find_card, load, match_models, read_zoo
from ssleval.core import BackboneCard
from ssleval.errors import ConfigError, UnknownNameError, WeightsError

ZOO = read_zoo()
ENTRY = """
Family:
  shared: {loader: native, patch_size: 16, license: MIT, source: A, supervision: self, pretraining_data: B}
  models:
    one: {arch: vit_tiny/dino, embed_dim: 192}
"""


@pytest.mark.parametrize("card", ZOO.values(), ids=list(ZOO))
def test_every_card_says_what_a_result_needs(card: BackboneCard):
    assert card.license
    assert card.source
    assert card.pretraining_data
    assert card.family
    assert card.weights or card.unavailable or card.loader == "pixels"
    assert not (card.weights and card.unavailable)
    assert not card.weights or {"url", "repo", "packaged"} & set(card.weights)
    assert card.image_size % card.patch_size == 0
    assert card.gated == (card.family == "DINOv3")


@pytest.mark.parametrize("large", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("source", ["timm", "open_clip", "torchvision", "native"])
def test_cards_agree_with_the_library_that_builds_them(source: str, large: bool):
    compared = 0
    for card in ZOO.values():
        arch = card.arch
        if card.loader != source or card.unavailable or arch == "resnet50" or large != (card.parameters > 87):
            continue
        if "packaged" in card.weights:  # held to its file by a test of its own
            continue
        if (
            source == "timm" and "/" in arch
        ):  # weights that timm has not; held to their publisher by the audit
            continue
        known = find_card(f"{source}:{arch}")
        fields = ["embed_dim", "arch"]
        if source != "native":
            fields += ["patch_size", "image_size", "interpolation", "mean", "std", "sha256", "resize_mode"]
            assert card.native_geometry() == known.native_geometry(), card.name
            assert dict(card.weights).items() >= dict(known.weights).items(), card.name
            assert card.parameters == known.parameters, card.name
        for field in fields:
            assert getattr(card, field) == getattr(known, field), (card.name, field)
        assert (card.pooled_dim or card.embed_dim) == (known.pooled_dim or known.embed_dim), card.name
        compared += 1
    assert compared >= 2


def test_no_card_is_named_like_a_path():
    assert all(name.isidentifier() for name in ZOO)


def test_globs_keep_the_order_given_and_repeat_nothing():
    names = match_models("pixels, dinov2_vit?14, pixels,timm:test_vit")
    assert names == ["pixels", *(f"dinov2_vit{size}14" for size in "sblg"), "timm:test_vit"]


@pytest.mark.parametrize("pattern", ["dinov2_vitb41", "nothing_*"])
def test_unknown_patterns_are_refused(pattern: str):
    with pytest.raises(UnknownNameError, match="no model"):
        match_models(pattern)


def test_unknown_names_offer_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean dinov2_vitb14"):
        find_card("dinov2_vitb41")
    with pytest.raises(UnknownNameError, match="did you mean timm"):
        find_card("tim:resnet50")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "embed_dim: 192, embed_dims: 3",
            "zoo.yaml: one has no setting 'embed_dims'; did you mean embed_dim",
        ),
        ("embed_dims: 192", "zoo.yaml: one has no setting 'embed_dims'; did you mean embed_dim"),
        ("embed_dim: wide", "zoo.yaml: one.embed_dim=wide: expected a whole number"),
        ("embed_dim: 0", "zoo.yaml: one.embed_dim=0: expected a whole number >= 1"),
        ("embed_dim: true", "zoo.yaml: one.embed_dim=True: expected a whole number"),
        ("embed_dim: 192, supervision: seff", "zoo.yaml: one.supervision=seff: did you mean self"),
        ("embed_dim: 192, std: [0.2, 0.2, 0.0]", "zoo.yaml: one.std=0.2,0.2,0.0: expected a number > 0"),
        ("embed_dim: 192, mean: [0.5, 0.5]", "zoo.yaml: one.mean=0.5,0.5: expected a list of length 3"),
        ("embed_dim: 192, weights: {url: 3}", "zoo.yaml: one.weights="),
        ("embed_dim: 192, license: ''", "zoo.yaml: one: no license"),
        ("patch_size: 16", "zoo.yaml: one: no embed_dim"),
    ],
)
def test_mistakes_in_a_card_are_named(tmp_path: Path, change: str, message: str):
    path = tmp_path / "zoo.yaml"
    path.write_text(ENTRY.replace("embed_dim: 192", change))
    with pytest.raises((ConfigError, UnknownNameError), match=re.escape(message)) as caught:
        read_zoo(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_size": 0}, "mine: card.patch_size=0: expected a whole number >= 1"),
        ({"std": (0.2, 0.2, -0.1)}, "mine: card.std=0.2,0.2,-0.1: expected a number > 0"),
        ({"parameters": float("nan")}, "mine: card.parameters=nan: expected"),
    ],
)
def test_a_card_of_python_code_is_checked_when_it_is_made(change: dict[str, Any], message: str):
    card = BackboneCard("mine", "python_file", "mine", embed_dim=8, patch_size=4)
    with pytest.raises(ConfigError, match=re.escape(message)):
        replace(card, **change)


def test_own_fields_win_over_shared_ones(tmp_path: Path):
    path = tmp_path / "zoo.yaml"
    path.write_text(ENTRY.replace("embed_dim: 192", "embed_dim: 192, patch_size: 8"))
    assert read_zoo(path)["one"].patch_size == 8


def test_random_is_the_same_architecture_and_nothing_else():
    card, random = find_card("dinov2_vits14"), find_card("random:dinov2_vits14")
    untrained = replace(card, supervision="none", weights={}, pretraining_data="none", seeded_by=())
    assert random == replace(untrained, name="random:dinov2_vits14")


def test_an_unavailable_model_fails_with_its_sentence():
    with pytest.raises(WeightsError, match="archive in three parts"):
        load("franca_vitg14")


def test_a_random_model_takes_no_checkpoint(tmp_path: Path):
    with pytest.raises(ConfigError, match="random"):
        load("random:vit_tiny", checkpoint=tmp_path / "any.pth")


def test_what_is_loaded_is_frozen_and_stays_in_evaluation():
    backbone = load("random:vit_tiny")
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert not backbone.train().training


def test_data_that_chose_the_pretraining_set_is_stated():
    assert {"food101", "cars", "nyuv2", "roxford5k"} <= set(ZOO["dinov2_vitb14"].seeded_by)
    assert ZOO["dino_vits16"].seeded_by == ("imagenet1k",)


def test_a_path_may_hold_commas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a,b").mkdir()
    for name in ("my,model.py", "x,y.safetensors", "a,b/c.py"):
        (tmp_path / name).write_bytes(b"")
    text = "pixels,my,model.py:make,hf:a,b,x,y.safetensors,random:a,b/c.py:f,dino_vits16"
    assert match_models(text) == [
        "pixels", "my,model.py:make", "hf:a,b", "x,y.safetensors", "random:a,b/c.py:f", "dino_vits16",
    ]  # fmt: skip
    with pytest.raises(UnknownNameError, match="no model 'a'"):
        match_models("a," * 20_000)
    with pytest.raises(UnknownNameError, match="no model 'dino_vitz16'; did you mean"):
        match_models("pixels,dino_vitz16,dino_vits16")
