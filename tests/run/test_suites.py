"""Packaged suites: their lines are tasks and data that exist, and say what verify compares."""

import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ssleval.core import BackboneCard, DatasetCard, DatasetOptions
from ssleval.core.packaged import packaged
from ssleval.errors import ConfigError
from ssleval.results.ranking import Board, boards
from ssleval.results.verify import _agrees
from ssleval.run.settings import build_task
from ssleval.run.suiteboards import boards_of
from ssleval.run.suites import Measurement, list_suites, read_suite
from ssleval.run.sweep import Sweep, jobs_of
from tests.cli.test_cli import Cli, cli  # noqa: F401  # pyright: ignore[reportUnusedImport]
from tests.results import test_overall
from tests.results.test_verify import CARDS, FIGURES, opened
from tests.train.tiny_training import pictures

SUITES = {name: read_suite(name) for name in list_suites()}
PAPERS = ("dino_paper", "dinov2_paper", "dinov2_table8", "mieb_image")
ALL = {
    *("artefacts", "attention", "attentive", "clustering", "copy_detection", "correspondence", "corruptions"),
    *(
        "curves",
        "depth",
        "discovery",
        "fewshot",
        "finetune",
        "instance_recognition",
        "knn",
        "linear",
        "logreg",
        "normals",
        "retrieval",
        "segmentation",
    ),
    *("segmentation_knn", "segmentation_logreg", "spectrum", "video_classification", "video_segmentation"),
    *("shift", "ood", "detection"),
}
"""What the suite `all` measures: the tasks that need neither a text tower nor ImageNet."""


def settings_as_run(line: Measurement) -> dict[str, Any]:
    """Return what a run of this line would record."""
    task, card = build_task(line.task, line.settings), CARDS[line.dataset.partition(":")[0]]
    done = task.resolved(opened(card)) if isinstance(card, DatasetCard) else task
    return asdict(done)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", SUITES)
def test_every_line_is_a_task_on_data_that_exist(name: str) -> None:
    assert list_suites()[name], "a suite says what it is"
    for line in SUITES[name]:
        build_task(line.task, line.settings)
        assert line.dataset.partition(":")[0] in CARDS


def test_all_has_every_task_that_needs_neither_texts_nor_imagenet() -> None:
    assert {line.task for line in SUITES["all"]} == ALL
    assert {line.dataset.partition(":")[0] for line in SUITES["all"]} == {"scenes"}


def test_targets_of_the_same_pictures_are_measured_together(tmp_path: Path) -> None:
    pictures(tmp_path / "a")
    pictures(tmp_path / "b")
    folders = f"folder:{tmp_path / 'a'},folder:{tmp_path / 'b'}"
    apart = jobs_of(Sweep(models="", tasks="spectrum", datasets=f"digits,{folders}"))
    assert [len(group) for group in apart.groups] == [1, 1, 1]
    options = DatasetOptions(cache=tmp_path)
    together = jobs_of(Sweep(models="", tasks="spectrum", datasets="scenes,scenes:depth", options=options))
    assert [len(group) for group in together.groups] == [2]


def test_all_says_at_which_size_images_are_seen() -> None:
    for line in SUITES["all"]:
        assert {"preprocessing", "size", "crop"} & set(line.settings), line
        for name in ("size", "crop"):
            side = line.settings.get(name, 112)
            assert all(side % patch == 0 for patch in (8, 14, 16)), line


@pytest.mark.parametrize("name", PAPERS)
def test_what_a_paper_suite_measures_is_what_its_figures_are_held_to(name: str) -> None:
    model = {"dino_paper": "dino_vits16"}.get(name, "dinov2_vits14")
    sources = ("2104.14294", "2304.07193", "2304.07193 Table 8", "2504.10471")
    source = sources[PAPERS.index(name)]
    figures = [one for one in FIGURES.mapped if one.row.source.startswith(source)]
    # Clips and lists of few labels lie where the user says, which no suite knows.
    figures = [one for one in figures if one.measured.test.name != "list"]
    tasks = {one.task for one in SUITES[name]} | {"video_classification"}
    held = [one.measured for one in figures if one.measured.model == model]
    assert {one.protocol.task for one in held} <= tasks
    held = [one for one in held if one.protocol.task != "video_classification"]
    assert held
    for measured in held:
        asked = measured.protocol.settings
        same_task = [one for one in SUITES[name] if one.task == measured.protocol.task]
        runs = [settings_as_run(one) for one in same_task if measured.test.is_of(one.dataset)]
        wrong = [{key for key in asked if not _agrees(run[key], asked[key])} for run in runs]
        # DINO saw a hundred augmentations of every image; storing them all is left to who has the disk.
        assert set() in wrong or (measured.protocol.name == "linear-dino" and {"views"} in wrong), measured


@pytest.mark.parametrize("name", PAPERS)
def test_the_numbers_to_expect_are_the_published_ones(name: str) -> None:
    text = (packaged("benchmarks") / f"{name}.yaml").read_text(encoding="utf-8")
    expected = re.findall(r"^# expect (\S+) (\S+)/(\S+) (\S+) (\S+)$", text, re.M)
    assert len(expected) >= 3
    mapped = [(one.measured, one.row.value) for one in FIGURES.mapped]
    figures = {(one.model, one.protocol.task, one.test.name, one.metric, value) for one, value in mapped}
    assert set(expected) <= figures


def board_of(line: Measurement, **changed: object) -> Board:
    """Return the board of a result that was measured as a line says, but for what is ``changed``."""
    card = CARDS[line.dataset.partition(":")[0]]
    assert isinstance(card, DatasetCard)
    data = {**asdict(card), "test_split": changed.pop("test_split", card.test_split)}
    del data["class_names"], data["outputs"]
    protocol = {**settings_as_run(line), "version": build_task(line.task).version, **changed}
    stored = msgspec.json.decode(msgspec.json.encode([data, protocol]))
    result, _ = test_overall.measured("dinov2_vits14", line.task, 0.9, line.dataset)
    result = replace(result, data={**stored[0], "fingerprints": {}}, protocol=stored[1])
    (board,) = boards([result])
    return board


@pytest.mark.parametrize("place", [0, 5, 6], ids=["food101", "aircraft", "voc2007"])
def test_a_board_is_of_a_line_only_if_measured_as_the_line_says(place: int) -> None:
    line = SUITES["dinov2_table8"][place]
    name, usual = f"logreg/{line.dataset}", board_of(line)
    assert boards_of("dinov2_table8", [usual])[0][name] == [usual]
    other = "top1" if line.settings["metric"] != "top1" else "mean_per_class"
    for changed in ({"resize": 256}, {"metric": other}, {"count": 10}, {"test_split": "val"}, {"version": 0}):
        found, _ = boards_of("dinov2_table8", [board_of(line, **changed)])
        assert not any(found.values()), changed
    assert len(found) == 12


def test_what_an_older_result_does_not_record_was_as_by_default() -> None:
    board = board_of(SUITES["dinov2_table8"][0])
    result = board.entries[0].result
    older = {name: value for name, value in result.protocol.items() if name not in {"tolerance", "resize"}}
    boards_found: list[int] = []
    for dropped in ({**older, "resize": 224}, older):
        (again,) = boards([replace(result, protocol=dropped)])
        boards_found.append(len(boards_of("dinov2_table8", [again])[0]["logreg/food101"]))
    assert boards_found == [1, 0], "the usual resize is 256"


@pytest.mark.parametrize(("images", "counted"), [(400_000, [1, 0]), (500_000, [0, 1])])
def test_where_tokens_come_from_is_chosen_by_model_and_data_as_when_they_were_measured(
    images: int, counted: list[int], tmp_path: Path
) -> None:
    """Of 196 patches of 384 channels, 64 GB hold those of 425,170 images."""
    path = tmp_path / "one.yaml"
    path.write_text("average: true\nmeasurements:\n  - {task: attentive, dataset: food101}\n")
    card = CARDS["food101"]
    assert isinstance(card, DatasetCard)
    model = BackboneCard("m", "x", "x", 384, 16)
    data = opened(replace(card, lengths={**card.lengths, "train": images, "test": 100}))
    result = board_of(Measurement("attentive", "food101", {})).entries[0].result
    found: list[int] = []
    for features in ("stored", "onthefly"):
        task = build_task("attentive", {"features": features}).resolved(data).for_model(data, model)
        described = {**asdict(data.card), "fingerprints": {}}
        del described["class_names"], described["outputs"]
        stored = [asdict(model), described, {**task.recorded(), "version": 1}]
        backbone, described, protocol = msgspec.json.decode(msgspec.json.encode(stored))
        (again,) = boards([replace(result, backbone=backbone, data=described, protocol=protocol)])
        found.append(len(boards_of(str(path), [again])[0]["attentive/food101"]))
    assert found == counted


def test_lines_that_would_count_twice_in_an_average_are_refused(tmp_path: Path) -> None:
    twice = tmp_path / "twice.yaml"
    line = "  - {task: knn, dataset: digits}\n"
    twice.write_text(f"average: true\nmeasurements:\n{line}{line}")
    with pytest.raises(ConfigError, match="knn/digits stands twice"):
        boards_of(str(twice), [])
    twice.write_text(f"measurements:\n{line}{line}")
    assert boards_of(str(twice), []) == ({"knn/digits": [], "knn/digits#2": []}, False)


def test_the_average_of_a_suite_of_ones_own(cli: Cli) -> None:  # noqa: F811
    pictures(cli.folder / "images")
    (cli.folder / "mine.yaml").write_text(
        "average: true\nmeasurements:\n"
        "  - {task: knn, dataset: digits, settings: {ks: [5]}}\n"
        "  - {task: knn, dataset: 'folder:images', settings: {ks: [1]}}\n"
    )
    code, out, err = cli("run", "--model", "pixels", "--suite", "mine.yaml", "--limit", "60", "--json")
    assert code == 0, err
    code, _, missing = cli("leaderboard", "--suite", "dinov2_table8")
    assert (code, "no result was measured as a line of dinov2_table8 says" in missing) == (2, True)
    values = [next(iter(json.loads(line)["metrics"].values()))["value"] for line in out.splitlines()]
    other = ("--task", "knn", "--set", "knn.ks=5", "--dataset", "digits", "--limit", "50")
    assert cli("run", "--model", "pixels", *other)[0] == 0
    code, out, err = cli("leaderboard", "--suite", "mine.yaml", "--json")
    assert (code, len(values)) == (0, 2), err
    assert "no average of pixels (limit 50): it lacks knn/folder:images" in err
    mean, *rest = map(json.loads, out.splitlines())
    assert (mean["model"], mean["task"], mean["dataset"]) == ("pixels (limit 60)", "average", "mine")
    assert mean["value"] == pytest.approx(sum(values) / 2)
    assert {row["dataset"] for row in rest} == {"digits", "folder:images"}


def test_a_line_that_a_model_cannot_do_is_skipped_with_its_reason(cli: Cli) -> None:  # noqa: F811
    (cli.folder / "mixed.yaml").write_text(
        "measurements:\n"
        "  - {task: knn, dataset: digits, settings: {ks: [5], preprocessing: card}}\n"
        "  - {task: zeroshot, dataset: 'folder:images'}\n"
    )
    pictures(cli.folder / "images")
    (cli.folder / "texts.yaml").write_text("measurements:\n  - {task: zeroshot, dataset: digits}\n")
    code, out, err = cli("run", "--model", "pixels", "--suite", "mixed.yaml", "--limit", "30")
    assert (code, "knn/digits" in out) == (0, True), err
    assert "not applicable: zeroshot on folder:images: pixels has no text tower" in err
    code, _, err = cli("run", "--model", "pixels", "--suite", "texts.yaml", "--limit", "30")
    assert code == 2, "a suite of which nothing can be done is an error"
    assert "no line has a meaning for pixels: zeroshot on digits: pixels has no text tower" in err


@pytest.mark.parametrize("groups", [("a", "a", ""), ("a", "a", "b"), ("a", "", "")])
def test_lines_of_an_average_all_have_groups_of_several_or_none(
    tmp_path: Path, groups: tuple[str, ...]
) -> None:
    path = tmp_path / "mine.yaml"
    names = zip(("digits", "scenes", "cifar10"), groups, strict=True)
    lines = "".join(f"  - {{task: knn, dataset: {name}, group: '{group}'}}\n" for name, group in names)
    path.write_text(f"average: true\nmeasurements:\n{lines}", encoding="utf-8")
    with pytest.raises(ConfigError, match="every line of an average by groups names its group"):
        boards_of(str(path), [])
    path.write_text(f"measurements:\n{lines}", encoding="utf-8")
    assert boards_of(str(path), [])[1] is False
