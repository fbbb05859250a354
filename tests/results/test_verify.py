"""Published figures against results written by the real writer, with the protocols of the real tasks."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ssleval.backbones.zoo import read_zoo
from ssleval.core import BackboneCard, Dataset, DatasetCard, Samples, Split, digest
from ssleval.datasets.catalog import list_datasets
from ssleval.results import Result, Score, leaderboard, ranking, record
from ssleval.results.papers import Figure, read_figures
from ssleval.results.verify import Line, differences, verify
from ssleval.run.settings import build_task
from tests.cli.test_cli import Cli, cli  # noqa: F401  # pyright: ignore[reportUnusedImport]

FIGURES, ZOO, CARDS = read_figures(), read_zoo(), list_datasets()


OPEN_CLIP = "mlfoundations/open_clip docs/openclip_classification_results.csv"


def opened(card: DatasetCard) -> Dataset:
    """Return a dataset without images, for what a task makes of its card."""
    trained = CARDS["nyuv2" if card.target == "depth" else "imagenet1k"]
    assert isinstance(trained, DatasetCard)

    def nothing(split: str) -> Split:
        raise NotImplementedError(split)

    return Dataset(card, nothing, lambda: Dataset(trained, nothing))


def figure(model: str, source: str, task: str, metric: str | None = None) -> Figure:
    return next(
        one
        for one in FIGURES.mapped
        if (one.measured.model, one.row.source, one.row.task) == (model, source, task)
        and metric in {None, one.measured.metric}
    )


ADE20K = opened(CARDS["ade20k"])  # pyright: ignore[reportArgumentType]
DINO = figure("dino_vits16", "2104.14294 Table 2", "knn")
"""74.5 of 20 neighbours."""


def measured_as_published(
    published: Figure,
    folder: Path,
    value: float | None = None,
    *,
    card: BackboneCard | None = None,
    others: dict[str, float] | None = None,
    data: dict[str, Any] | None = None,
    items: int | None = None,
    skipped: dict[str, list[str]] | None = None,
    precision: str = "fp32",
    limit: int | None = None,
    **settings: Any,
) -> Result:
    """Store what a run by the published protocol would store, with ``value``, as printed, for its score."""
    measured = published.measured
    card = card or ZOO[measured.model]
    asked: dict[str, Any] = {}
    for name, one in measured.protocol.settings.items():
        asked[name] = one["at_least"] if isinstance(one, dict) else one[0] if isinstance(one, list) else one
    found = CARDS[measured.test.name]
    folders: dict[str, DatasetCard] = {
        "clips": DatasetCard(
            "clips:d", "clips", ("a", "b"), lengths={"train": 99, measured.test.split: measured.test.items}
        ),
        "list": DatasetCard(
            "list:d@imagenet1k",
            class_names=("a", "b"),
            lengths={"train": measured.test.train, measured.test.split: measured.test.items},
            test_split=measured.test.split,
        ),
        "davis": DatasetCard("davis:d", "video", lengths={"val": 1999}),
        "boxes": DatasetCard("boxes:d", "boxes", lengths={measured.test.split: measured.test.items}),
        "navi_pairs": DatasetCard("navi_pairs:d", "views", lengths={"test": measured.test.items}),
    }
    known = found if isinstance(found, DatasetCard) else folders[measured.test.name]
    if measured.protocol.task == "zeroshot":
        # Its texts need the names of the classes, which come with the images.
        task: Any = replace(build_task("zeroshot", asked), metric="top1")  # pyright: ignore[reportArgumentType]
    else:
        task = build_task(measured.protocol.task, {**asked, **settings}).resolved(opened(known))
    names = [metric.name for metric in task.metrics]
    n = items or measured.test.items
    score = published.value if value is None else value

    def scored(name: str) -> Score:
        metric = next(one for one in task.metrics if one.name == name)
        printed = {measured.metric: score, **(others or {})}.get(name, 0.0)
        number = printed / 100 if metric.unit == "fraction" else printed
        return Score(number, (number - 0.004, number + 0.004), n, metric.unit, metric.higher_is_better)

    protocol = {**asdict(task), "version": task.version, **settings}  # pyright: ignore[reportArgumentType]
    made = Result(
        model=card.name,
        task=measured.protocol.task,
        dataset=f"{measured.test.name}:d" if measured.test.location else measured.test.name,
        key=digest([card.name, protocol, score, precision, limit, items, str(data)]),
        metrics={name: scored(name) for name in names},
        protocol=protocol,
        backbone=asdict(card),
        data={
            "test_split": measured.test.split,
            "train_split": known.train_split,
            "lengths": dict(known.lengths),
            "fingerprints": {"x/val": "f"},
            **(data or {}),
        },
        weights_sha256="a" * 64,
        settings={"precision": precision, "seed": 0, "limit": limit, "skip_corrupt": False},
        skipped=skipped or {},
        created="2026-01-01T00:00:00",
    )
    return record.write(folder, made, Samples(["0", "1"], {"top1": np.array([True, False])}))


def lines(*found: Result, of: Figure = DINO) -> list[Line]:
    every = verify(found, FIGURES, ZOO, [of.measured.model])
    return [line for line in every if line.figure == of]


def only(*found: Result, of: Figure = DINO) -> Line:
    (line,) = lines(*found, of=of)
    return line


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (74.5, "match"),
        (74.65, "match"),
        (74.35, "match"),
        (74.34, "drift"),
        (74.67, "drift"),
        (70.0, "drift"),
    ],
)
def test_a_match_is_within_rounding_and_tolerance_on_either_side(
    tmp_path: Path, value: float, status: str
) -> None:
    line = only(measured_as_published(DINO, tmp_path, value))
    assert line.status == status
    assert line.ours == pytest.approx(value)
    assert line.to_dict()["ci95"] == pytest.approx([value - 0.4, value + 0.4])
    assert line.gap == pytest.approx(value - 74.5)
    assert line.figure is not None
    assert line.figure.tolerance == pytest.approx(0.05 + 0.1)


def test_the_sampling_interval_is_no_part_of_a_match(tmp_path: Path) -> None:
    line = only(measured_as_published(DINO, tmp_path, 74.2))
    low, high = line.to_dict()["ci95"]
    assert low < 74.5 < high
    assert line.status == "drift"


def test_rounding_follows_the_printed_digits() -> None:
    printed = {
        value: replace(DINO, row=replace(DINO.row, value=value)) for value in ("74", "74.5", "74.53", "0.417")
    }
    assert [one.rounding for one in printed.values()] == pytest.approx([0.5, 0.05, 0.005, 0.0005])


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"resize": 248}, "resize: 248, published 256"),
        ({"interpolation": "bilinear"}, "interpolation: bilinear, published bicubic"),
        ({"readout": "mean"}, "readout: mean, published pooled"),
        ({"temperature": 0.1}, "temperature: 0.1, published 0.07"),
        ({"limit": 500, "items": 500}, "limit: 500 images of every split, published all of them"),
        ({"items": 49_999}, "items: 49,999, published 50,000"),
        ({"data": {"test_split": "train"}}, "split: train, published val"),
    ],
    ids=str,
)
def test_what_was_measured_otherwise_is_not_comparable_and_named(
    tmp_path: Path, changed: dict[str, Any], field: str
) -> None:
    line = only(measured_as_published(DINO, tmp_path, **changed))
    assert (line.status, line.differs) == ("not comparable", (field,))
    assert line.gap == pytest.approx(0), "equal numbers do not make it comparable"


def test_a_metric_that_was_not_scored_is_named(tmp_path: Path) -> None:
    line = only(measured_as_published(DINO, tmp_path, ks=(10, 5)))
    assert line.status == "not comparable"
    assert line.differs[0].startswith("metric: top1@10")
    assert line.ours is None


def test_a_local_file_is_the_published_weights_only_under_their_name(tmp_path: Path) -> None:
    for file, status in (("dino_deitsmall16_pretrain.pth", "match"), ("mine.pth", "not comparable")):
        card = replace(ZOO["dino_vits16"], weights={"file": file})
        line = only(measured_as_published(DINO, tmp_path / file, card=card))
        assert line.status == status
        assert line.differs == (
            ()
            if status == "match"
            else ("weights: the local file mine.pth, published dino_deitsmall16_pretrain.pth",)
        )


def test_augmented_views_and_the_rule_of_the_papers_are_what_a_linear_probe_needs(tmp_path: Path) -> None:
    linear = figure("dinov2_vits14", "2304.07193 Table 4", "linear")
    assert linear.measured.metric == "top1@paper"
    assert only(measured_as_published(linear, tmp_path / "ten"), of=linear).status == "match"
    line = only(measured_as_published(linear, tmp_path / "none", views=0), of=linear)
    assert line.differs == ("views: 0, published at least 10",)


def test_what_no_setting_repeats_is_never_a_match(tmp_path: Path) -> None:
    dense = figure("dinov2_vits14", "2304.07193 Table 11", "depth_lin1")
    line = only(measured_as_published(dense, tmp_path), of=dense)
    assert (line.status, line.gap) == ("not comparable", pytest.approx(0))
    assert line.differs[0].startswith("training: ")


@pytest.mark.parametrize("task", ["segmentation_linear", "segmentation_ms"])
def test_segmentation_is_comparable_by_the_protocol_of_the_paper_alone(tmp_path: Path, task: str) -> None:
    dense = figure("dinov2_vits14", "2304.07193 Table 10", task)
    asked = {"inputs": dense.measured.protocol.settings["inputs"]}
    paper, fast = (
        asdict(build_task("segmentation", {**asked, "protocol": name}).resolved(ADE20K))  # pyright: ignore[reportArgumentType]
        for name in ("paper", "fast")
    )
    result = measured_as_published(dense, tmp_path)
    assert only(replace(result, protocol=paper), of=dense).status == "match"
    line = only(replace(result, protocol=fast), of=dense)
    assert line.status == "not comparable"
    assert line.differs[0] == "protocol: fast, published paper"
    assert {one.partition(":")[0] for one in line.differs} >= {"size", "crop", "stride", "iterations"}


@pytest.mark.parametrize(
    ("model", "task", "name", "value"),
    [
        ("mae_vitl16", "segmentation_logreg", "every", 2),
        ("mae_vitb16", "finetune", "deviation", 0.02),
        ("mae_vitb16", "finetune", "readout", "pooled"),
    ],
)
def test_another_recipe_is_not_that_of_the_figure(
    tmp_path: Path, model: str, task: str, name: str, value: Any
) -> None:
    published = next(
        one
        for one in FIGURES.mapped
        if (one.measured.model, one.measured.protocol.task) == (model, task)
        and not one.measured.protocol.unlike
    )
    result = measured_as_published(published, tmp_path, precision=published.measured.protocol.precision)
    assert only(result, of=published).status == "match"
    line = only(replace(result, protocol={**result.protocol, name: value}), of=published)
    assert line.status == "not comparable"
    assert [one.partition(":")[0] for one in line.differs] == [name]


def test_errors_are_compared_in_their_own_unit(tmp_path: Path) -> None:
    depth = figure("dinov2_vits14", "2304.07193 Table 11", "depth_lin4")
    line = only(measured_as_published(depth, tmp_path, 0.43), of=depth)
    assert line.ours == pytest.approx(0.43)
    assert line.gap == pytest.approx(0.43 - 0.417)


def test_a_drift_names_the_other_k_that_is_the_published_number(tmp_path: Path) -> None:
    line = only(measured_as_published(DINO, tmp_path, 73.9, others={"top1@10": 74.5, "top1@200": 70.0}))
    assert line.status == "drift"
    assert line.checks[0] == "20: top1@10 of the same result is 74.50"


def test_a_drift_names_the_result_that_is_the_published_number_and_how_it_differs(tmp_path: Path) -> None:
    drifted = measured_as_published(DINO, tmp_path, 74.0)
    other = measured_as_published(DINO, tmp_path, 74.5, resize=248)
    line = only(drifted, other)
    assert line.status == "drift"
    assert line.checks[0].startswith("resize 256 against 248: a result that differs in this is 74.50")


@pytest.mark.parametrize(
    ("gap", "first"), [(0.2, "precision"), (0.6, "position_embedding"), (12.0, "pooling")]
)
def test_of_recorded_differences_those_come_first_whose_usual_effect_is_the_gap(
    tmp_path: Path, gap: float, first: str
) -> None:
    card = replace(ZOO["dino_vits16"], position_embedding="timm", pooling="mean", loader="timm")
    line = only(measured_as_published(DINO, tmp_path, 74.5 - gap, card=card, precision="bf16"))
    assert line.checks[0].partition(":")[0] == first
    assert {check.partition(":")[0] for check in line.checks} == {
        "precision",
        "position_embedding",
        "pooling",
    }


def test_the_same_weights_in_another_library_are_held_to_the_figure_and_say_so(tmp_path: Path) -> None:
    figure_ = figure("dinov2_vits14", "2304.07193 Table 4", "knn")
    card = replace(
        ZOO["dinov2_vits14"],
        name="timm:vit_small_patch14_dinov2.lvd142m",
        loader="timm",
        position_embedding="timm",
    )
    line = only(measured_as_published(figure_, tmp_path, 78.2, card=card, precision="fp16"), of=figure_)
    assert line.status == "drift"
    assert line.checks == ("position_embedding: timm (loader timm), published dinov2",)


def test_images_that_were_left_out_of_training_are_a_thing_to_check(tmp_path: Path) -> None:
    line = only(measured_as_published(DINO, tmp_path, 74.2, skipped={"imagenet1k/train": ["a", "b"]}))
    assert line.checks == ("skipped: 2 images that could not be decoded",)


def test_a_card_decides_the_size_of_images_only_where_the_protocol_leaves_it_to_the_card(
    tmp_path: Path,
) -> None:
    clip = figure(
        "openclip_vitb32_laion2b",
        OPEN_CLIP,
        "zeroshot",
    )
    card = replace(ZOO["openclip_vitb32_laion2b"], interpolation="bilinear")
    line = only(measured_as_published(clip, tmp_path, 66.0, card=card, precision="fp16"), of=clip)
    assert [check.partition(":")[0] for check in line.checks] == ["interpolation"]
    card = replace(ZOO["dino_vits16"], interpolation="bilinear")
    assert (
        "nothing that is recorded differs"
        in only(measured_as_published(DINO, tmp_path, 74.0, card=card)).checks[0]
    )


def test_the_command_says_it_in_lines_and_in_its_exit_code(cli: Cli) -> None:  # noqa: F811
    folder = cli.folder / "results"
    folder.mkdir()
    code, out, _ = cli("verify", "dino_vits16")
    assert code == 3
    assert "ssleval run --model dino_vits16 --task knn --dataset imagenet1k" in out
    measured_as_published(DINO, folder, 74.52)
    code, out, _ = cli("verify", "dino_vits16", "--task", "knn")
    assert code == 0
    assert "MATCH           dino_vits16  knn/imagenet1k  top1@20: 74.52 [74.12, 74.92]" in out
    assert "published 74.5, 2104.14294 Table 2 (20-NN weighted, T=0.07); +0.02" in out
    assert "tolerance 0.15: 0.05 for rounding + 0.1 (" in out
    assert "have no mapping, --all lists them" in out
    measured_as_published(DINO, folder, 73.0, precision="bf16")
    code, out, _ = cli("verify", "--dataset", "imagenet1k", "--json")
    assert code == 1
    found = [json.loads(line) for line in out.splitlines()]
    drift = next(line for line in found if line["status"] == "drift")
    assert drift["checks"][0].startswith("precision bf16 against fp32")
    assert drift["published"] == 74.5
    assert {"match", "drift", "not comparable"} == {line["status"] for line in found}


def test_rows_without_a_mapping_are_listed_on_demand_and_never_dropped(cli: Cli) -> None:  # noqa: F811
    (cli.folder / "results").mkdir()
    code, out, _ = cli("verify", "--all", "--json")
    assert code == 3
    found = [json.loads(line) for line in out.splitlines()]
    assert len(found) == len(FIGURES.unmapped)
    assert all(line["status"] == "not mapped" and line["differs"] for line in found)
    code, out, _ = cli("verify", "dino_vits16", "--all")
    assert code == 3
    assert out.count("NOT MAPPED") == sum(model == "dino_vits16" for _, model, _ in FIGURES.unmapped) > 20


def test_unknown_names_are_refused(cli: Cli) -> None:  # noqa: F811
    (cli.folder / "results").mkdir()
    for words, hint in (
        (("dino_vitz16",), "did you mean dino_vits16"),
        (("dino_vits16", "--task", "knm"), "did you mean knn"),
        (("dino_vits16", "--dataset", "imagenet"), "did you mean imagenet"),
    ):
        code, _, err = cli("verify", *words)
        assert (code, hint in err) == (2, True), err


def boards(*found: Result) -> list[ranking.Board]:
    return leaderboard.with_published(ranking.boards(found), FIGURES.mapped)


def test_published_figures_stand_on_the_board_of_their_protocol_unranked_and_with_their_source(
    tmp_path: Path,
) -> None:
    published = measured_as_published(DINO, tmp_path, 74.6)
    narrow = measured_as_published(DINO, tmp_path, 74.9, crop=192)
    first, second = sorted(boards(published, narrow), key=lambda board: len(board.published))
    assert not first.published, "another crop is another protocol"
    # Efficient probing prints the best of several k, each on the board that has it.
    assert {one.measured.metric for one in second.published} == {"top1@20", "top1@200"}
    assert [entry.result for entry in second.entries] == [published]
    assert (second.entries[0].rank, second.entries[0].tied) == (1, False)
    text = leaderboard.markdown([second])
    # The mark of a model whose training images the set gives.
    assert "| 1 | dino_vits16 | 74.6 [74.2, 75.0]† |" in text
    assert "| published | *dinov2_vitb14, 2304.07193 Table 4* | 82.1 |  |" in text
    assert text.index("| 1 |") < text.index("| published |")


def test_tables_and_json_mark_published_rows(tmp_path: Path) -> None:
    found = boards(measured_as_published(DINO, tmp_path, 74.6))
    rows = leaderboard.records(found)
    json.dumps(rows, allow_nan=False)
    by_kind = [[row for row in rows if (row["published"] is None) is measured] for measured in (True, False)]
    assert {row["model"] for row in by_kind[0]} == {"dino_vits16"}
    (dino,) = [row for row in by_kind[1] if row["model"] == "dino_vits16 (published, 2104.14294 Table 2)"]
    assert (dino["value"], dino["rank"], dino["ci95_low"], dino["n"]) == (0.745, None, None, None)
    assert dino["published"] == "2104.14294 Table 2"
    wide = pd.DataFrame(leaderboard.wide_rows(found))
    cells = dict(zip(wide["model"], wide["knn/imagenet1k/top1@20"], strict=True))
    assert cells["dino_vits16"] == pytest.approx(0.746)
    assert cells["dino_vits16 (published, 2104.14294 Table 2)"] == 0.745
    assert len(wide["published"].dropna()) == len(wide) - 1
    leaderboard.write_tables(found, tmp_path / "out")
    text = (tmp_path / "out" / "leaderboard_long.csv").read_text()
    assert ",50000," in text
    assert leaderboard.long_rows(ranking.boards([])) == []


@pytest.mark.parametrize(
    ("lengths", "said"),
    [
        ({"train": 12811, "val": 50000}, []),
        ({"train": 128116, "val": 50000}, ["train: 128,116 images, published 12,811"]),
        ({"val": 50000}, ["train: 0 images, published 12,811"]),
    ],
)
def test_a_list_of_another_length_is_not_the_published_one(
    tmp_path: Path, lengths: dict[str, int], said: list[str]
) -> None:
    few = next(one for one in FIGURES.mapped if one.row.dataset == "ImageNet-1k-1pct")
    result = measured_as_published(few, tmp_path, data={"lengths": lengths})
    found = differences(result, few.measured, ZOO[few.measured.model])
    assert [line for line in found if line.startswith("train")] == said
