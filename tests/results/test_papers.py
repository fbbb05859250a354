"""The mapping of published figures names only what exists, and nothing in it is dead."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import yaml

from ssleval.core import DatasetCard
from ssleval.core.backbone import backbones
from ssleval.core.packaged import packaged
from ssleval.core.registry import summaries
from ssleval.core.task import tasks
from ssleval.errors import ConfigError
from ssleval.results.papers import Figure, Protocol, read_figures
from ssleval.results.verify import differences
from tests.results.test_verify import CARDS, FIGURES, ZOO, measured_as_published

FOLDER = packaged("benchmarks/published")
MODELS: Mapping[str, Any] = yaml.safe_load((FOLDER / "models.yaml").read_text(encoding="utf-8"))
PROTOCOLS: Mapping[str, Any] = yaml.safe_load((FOLDER / "protocols.yaml").read_text(encoding="utf-8"))
USED = {figure.measured.protocol.name: figure.measured.protocol for figure in FIGURES.mapped}


def test_every_row_is_mapped_or_says_why_not() -> None:
    lines = packaged("benchmarks/published.csv").read_text(encoding="utf-8").splitlines()
    assert len(FIGURES.mapped) + len(FIGURES.unmapped) == len(lines) - 1 == 2347
    assert {why.partition(":")[0] for _, _, why in FIGURES.unmapped} == {"model", "dataset", "protocol"}
    assert len(FIGURES.mapped) > 300


def test_the_page_on_verify_counts_right() -> None:
    page = (Path(__file__).parents[2] / "docs" / "verify.md").read_text(encoding="utf-8").replace("\n", " ")
    never = sum(bool(one.measured.protocol.unlike) for one in FIGURES.mapped)
    kinds = [why.partition(":")[0] for _, _, why in FIGURES.unmapped]
    assert f"{len(FIGURES.mapped)} figures are mapped, {never} of them never comparable" in page
    assert f"{kinds.count('model'):,} are of models or weights" in page
    assert f"{kinds.count('dataset')} on datasets that ssleval does not have" in page
    assert f"{kinds.count('protocol')} by protocols that no task" in page


def test_models_are_in_the_zoo_and_their_other_names_in_the_libraries() -> None:
    assert set(MODELS) <= set(ZOO)
    published = [tuple(entry["published"]) for entry in MODELS.values()]
    assert len(set(published)) == len(published), "one published model is two of the zoo"
    timms, clips = set(timm.list_pretrained()), {"/".join(pair) for pair in open_clip.list_pretrained()}
    for name in (name for entry in MODELS.values() for name in entry.get("also", ())):
        source, _, identifier = name.partition(":")
        assert source in backbones
        assert source == "hf" or identifier in {"timm": timms, "open_clip": clips}[source], name


def test_nothing_in_the_mapping_is_dead() -> None:
    rows = {
        (one.row.source, one.row.task, one.row.note, one.row.dataset, one.measured.model)
        for one in FIGURES.mapped
    }
    for table in PROTOCOLS["tables"]:
        of_it = [row for row in rows if row[:2] == (table["source"], table["task"])]
        assert set(table.get("notes", [""])) <= {row[2] for row in of_it}
        assert set(table["datasets"]) <= {row[3] for row in of_it}
        assert set(table["models"]) <= {row[4] for row in of_it}
    assert set(PROTOCOLS["protocols"]) == set(USED)
    unknown = {row.dataset for row, _, why in FIGURES.unmapped if why.startswith("protocol")}
    assert set(PROTOCOLS["datasets"]) == {one.row.dataset for one in FIGURES.mapped} | unknown
    assert {one.measured.model for one in FIGURES.mapped} | {"dino_resnet50"} == set(MODELS)


@pytest.mark.parametrize("protocol", USED.values(), ids=list(USED))
def test_a_protocol_is_settings_of_a_task(protocol: Protocol) -> None:
    assert protocol.task in summaries("ssleval.tasks")
    known = {field.name for field in fields(tasks.get(protocol.task))}  # pyright: ignore[reportArgumentType]
    assert set(protocol.settings) <= known
    assert protocol.tolerance > 0
    assert protocol.because
    assert protocol.precision in {"fp32", "fp16"}


def test_datasets_are_ours_with_the_split_and_the_size_that_is_scored() -> None:
    for test in PROTOCOLS["datasets"].values():
        card = CARDS[test["name"]]
        if isinstance(card, DatasetCard):
            # One run scores all variations of ImageNet-9.
            scored = card.lengths if test["name"] == "imagenet9" else [test["split"]]
            assert card.test_split == test["split"]
            assert sum(card.lengths[name] for name in scored) == test["items"]
        else:
            assert test["name"] in {"davis", "boxes", "clips", "list", "navi_pairs"}
            assert test["location"] == "any"


def test_no_dataset_that_is_ours_is_said_to_be_none() -> None:
    absent = {row.dataset.lower() for row, _, why in FIGURES.unmapped if why.startswith("dataset")}
    assert "birdsnap" in absent
    assert not absent & {
        "met",
        "roxford-m",
        "roxford-h",
        "rparis-m",
        "rparis-h",
        "spair",
        "navi",
        "copydays-strong",
        "cub",
    }
    assert not absent & set(CARDS)


@pytest.mark.parametrize(
    "figure",
    {(one.measured.protocol.name, one.row.dataset, one.row.metric): one for one in FIGURES.mapped}.values(),
    ids=lambda figure: f"{figure.measured.protocol.name}-{figure.row.dataset}-{figure.row.metric}",
)
def test_our_task_with_these_settings_gives_the_metric_and_is_comparable(
    figure: Figure, tmp_path: Path
) -> None:
    result = measured_as_published(figure, tmp_path)
    assert figure.measured.metric in result.metrics
    card = ZOO[figure.measured.model]
    unlike = figure.measured.protocol.unlike
    found = [line.partition(":")[0] for line in differences(result, figure.measured, card)]
    assert found == list(unlike)


def test_a_table_that_names_nothing_is_refused(tmp_path: Path) -> None:
    text = (FOLDER / "protocols.yaml").read_text(encoding="utf-8")
    (tmp_path / "models.yaml").write_text((FOLDER / "models.yaml").read_text(encoding="utf-8"))
    for right, wrong in (
        ("protocol: knn-dino,", "protocol: knn-dyno,"),
        ("[dino_vits16, dino_resnet50]", "[dino_vits61]"),
    ):
        assert right in text
        (tmp_path / "protocols.yaml").write_text(text.replace(right, wrong))
        with pytest.raises(ConfigError, match="not defined"):
            read_figures(mapping=tmp_path)
    table = yaml.safe_dump({**PROTOCOLS, "tables": PROTOCOLS["tables"] + PROTOCOLS["tables"][:1]})
    (tmp_path / "protocols.yaml").write_text(table)
    with pytest.raises(ConfigError, match="two tables claim"):
        read_figures(mapping=tmp_path)
