"""Every card against its library and its publisher, by the audit of `benchmarks/zoo_audit.py`."""

from dataclasses import replace
from typing import Any

import pytest

from benchmarks import zoo_audit
from ssleval.backbones.zoo import find_card, read_zoo
from ssleval.core import BackboneCard
from ssleval.core.vocabulary import datasets
from ssleval.errors import ContractError

ZOO = read_zoo()
SMALL = 30
"""Millions of parameters up to which architectures are built in the fast tests."""
NO_SETS_HERE = {"coco", "gldv2", "mapillary_sls"}


FAMILIES = sorted({card.family for card in ZOO.values()})


def parameters() -> list[Any]:
    """All cards; those of large architectures are for the slow tests."""
    marks = {name: [pytest.mark.slow] if card.parameters > SMALL else [] for name, card in ZOO.items()}
    return [pytest.param(card, id=name, marks=marks[name]) for name, card in ZOO.items()]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_field_is_as_a_library_or_a_publisher_states_it(family: str):
    cards = [card for card in ZOO.values() if card.family == family]
    assert [finding for card in cards for finding in zoo_audit.audit(card, build=False)] == []


@pytest.mark.parametrize("card", parameters())
def test_every_architecture_keeps_the_promises_of_its_card(card: BackboneCard):
    assert list(zoo_audit.audit(card)) == []


def test_the_page_has_the_tables_of_the_command():
    page = zoo_audit.PAGE.read_text(encoding="utf-8")
    tables = page.partition(zoo_audit.BEGIN)[2].partition(zoo_audit.END)[0]
    assert tables.strip().splitlines() == list(zoo_audit.report())


def test_every_source_is_of_a_card_and_says_where():
    facts = {name: set(zoo_audit.facts(card)) for name, card in ZOO.items()}
    for row in zoo_audit.rows():
        for glob in row.models.split():
            assert any(zoo_audit.Row(glob, {}, "").names(name) for name in ZOO), row
        assert row.states
        assert row.source
        # A field that no card has would be compared with nothing.
        fields = {field for field in row.states if not field.startswith("config.")}
        assert all(fields <= facts[name] for name in ZOO if row.names(name)), row


@pytest.mark.parametrize("entry", zoo_audit.EXEMPTIONS, ids=lambda entry: entry.models)
def test_every_exemption_is_needed(entry: zoo_audit.Exemption, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(zoo_audit, "EXEMPTIONS", ())
    cards = [card for name, card in ZOO.items() if zoo_audit.Row(entry.models, {}, "").names(name)]
    differ = {finding.field for card in cards for finding in zoo_audit.audit(card, build=False)}
    assert cards
    assert set(entry.fields.split()) <= differ


@pytest.mark.parametrize(
    ("model", "change"),
    [
        ("swav_resnet50", {"std": (0.229, 0.224, 0.225)}),
        ("simclr_resnet50", {"mean": (0.485, 0.456, 0.406)}),
        ("simclr_resnet50", {"interpolation": "bilinear"}),
        ("mocov3_vitb16", {"interpolation": "bicubic"}),
        ("byol_resnet50", {"interpolation": "bilinear"}),
        ("mocov3_vits16", {"arch": "vit_small/mae"}),
        ("franca_vitl14", {"image_size": 518, "resize": 0}),
        ("vicreg_resnet50", {"license": "CC-BY-NC-4.0"}),
        ("deit_vits16", {"resize": 256}),
        ("clip_vitb32", {"mean": (0.5, 0.5, 0.5)}),
        ("resnet50_v2", {"resize": 256}),
        ("dinov3_vitb16", {"resize_mode": "short"}),
        ("pe_core_vitb16", {"resize_mode": "short"}),
        ("pe_core_vitb16", {"resize": 256}),
        ("dinov3_vitb16", {"resize": 256}),
        ("dfn_vith14", {"resize": 232}),
        ("mobileclip2_s0", {"resize": 292}),
        ("mugs_vits16", {"sha256": "0" * 64}),
        ("dinov3_vitb16", {"seeded_by": ("imagenet1k",)}),
        ("dinov3_vitl16_sat493m", {"seeded_by": ("imagenet1k",)}),
        ("capi_vitl14_in1k", {"weights": {"url": "https://dl.fbaipublicfiles.com/capi/capi_vitl14_lvd.pth"}}),
    ],
    ids=str,
)
def test_the_audit_finds_a_wrong_field(model: str, change: dict[str, Any]):
    wrong = replace(ZOO[model], **change)
    found = {finding.field for finding in zoo_audit.audit(wrong, build=False)}
    assert found & ({"num_heads"} if "arch" in change else {*change})


def test_the_audit_holds_a_squashed_card_to_the_crop_of_its_library():
    squashed = find_card("timm:tf_efficientnetv2_b3.in21k_ft_in1k")  # 240 pixels, crop_pct 0.9
    assert (squashed.resize_mode, squashed.image_size, squashed.resize) == ("square", 240, 266)
    assert list(zoo_audit.audit(squashed, build=False)) == []
    for resize in (0, 240, 252):
        wrong = replace(squashed, resize=resize)
        assert [finding.field for finding in zoo_audit.audit(wrong, build=False)] == ["resize"]
    # A square that is resized to the size of the crop is the whole image, however a card says it.
    assert list(zoo_audit.audit(replace(ZOO["dfn_vith14"], resize=224), build=False)) == []


def test_the_audit_finds_a_wrong_count_and_a_field_that_nothing_states():
    counted = replace(ZOO["mocov3_vits16"], parameters=22.0)
    assert [finding.field for finding in zoo_audit.audit(counted)] == ["parameters"]
    halved = replace(ZOO["mobileclip2_s0"], patch_size=16)
    with pytest.raises(ContractError, match=r"patches \(1, 8, 8, 512\), expected \(1, 16, 16, 512\)"):
        list(zoo_audit.audit(halved))
    unknown = replace(ZOO["dino_vits16"], name="of_nobody")
    assert "num_heads" in {finding.field for finding in zoo_audit.audit(unknown, build=False)}


def test_sets_that_seeded_a_model_are_named_as_the_catalogue_names_them():
    known = {*datasets, *NO_SETS_HERE}
    named = {name for card in ZOO.values() for name in card.seeded_by}
    assert named <= known
    assert not NO_SETS_HERE & set(datasets)
    assert {"nyuv2", "roxford5k", "rparis6k"} <= named


def test_a_card_says_what_its_publisher_contradicts():
    conflicting = {"MSN", "data2vec", "AIMv2", "DeiT", "DeiT III", "SEER", "DINOv2"}
    assert {card.family for card in ZOO.values() if card.notes} >= conflicting
