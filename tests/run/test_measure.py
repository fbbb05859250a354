import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import ssleval
from ssleval.core import Context, Dataset, DatasetOptions, FeatureRequest, Metric, Samples
from ssleval.core.backbone import Backbone
from ssleval.core.task import Inputs, Task, tasks
from ssleval.errors import NotApplicableError, UnknownNameError
from ssleval.metrics.stats import mean_of, mean_per_class_of
from ssleval.results import comparable, read_all, read_samples
from ssleval.results.compare import mismatches
from ssleval.run.jobs import make_job
from ssleval.run.measure import measure

SHARED = Path(__file__).parents[3] / "shared"
SMALL = {"knn": {"ks": (5, 1)}}


@tasks.register("draws")
@dataclass(frozen=True)
class Draws(Task):
    """Two numbers, drawn: a probe whose score is its seed."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return (Metric("number", mean_of("number")),)

    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        return ()

    def evaluate(self, inputs: Inputs) -> Samples:
        return Samples(["torch", "numpy"], {"number": np.array([float(torch.rand(1)), np.random.rand()])})


@tasks.register("rare_class")
@dataclass(frozen=True)
class RareClass(Draws):
    """Outcomes of two classes, of which one item shows the second."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return (Metric("mean_per_class", mean_per_class_of("right", "label")),)

    def evaluate(self, inputs: Inputs) -> Samples:
        return Samples(list("abcd"), {"right": np.ones(4, bool), "label": np.array([0, 0, 0, 1])})


@tasks.register("impossible")
@dataclass(frozen=True)
class Impossible(Draws):
    """What no model has."""

    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        raise NotApplicableError("nobody has a third eye")


def context(folder: Path) -> Context:
    return Context(cache=folder / "cache", progress=False)


def evaluate(
    model: str | Backbone, names: str | list[str], folder: Path, **more: object
) -> list[ssleval.Result]:
    settings = {name: SMALL[name] for name in SMALL if name in names}
    kwargs: dict[str, object] = {"limit": 80, "settings": settings, "context": context(folder), **more}
    return ssleval.evaluate(model, names, **kwargs)  # pyright: ignore[reportArgumentType]


def test_evaluate_returns_results_that_become_rows(tmp_path: Path) -> None:
    (result,) = evaluate("pixels", "knn", tmp_path)
    frame = pd.DataFrame([result.to_row()])
    score = result.metrics["top1@5"]
    assert frame.loc[0, "top1@5"] == score.value
    assert score.ci95[0] <= score.value <= score.ci95[1]
    assert result.path is None, "without a results folder nothing is stored"
    assert json.dumps(result.to_dict())


def test_samples_are_the_score(tmp_path: Path) -> None:
    (result,) = evaluate("pixels", "knn", tmp_path, results=tmp_path / "results")
    samples = read_samples(result)
    assert result.metrics["top1@5"].value == samples["top1@5"].mean()
    np.testing.assert_array_equal(samples["top1@5"], samples["predicted@5"] == samples["label"])
    assert read_all(tmp_path / "results") == [result]


def test_scores_that_a_task_gives_since_come_from_the_stored_samples(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    (new,) = evaluate("pixels", "knn", tmp_path, results=folder)
    assert new.path is not None
    content = json.loads(new.path.read_text())
    for name in ("mean_per_class@5", "mean_per_class@1"):
        del content["metrics"][name]
    new.path.write_text(json.dumps(content))
    (completed,) = evaluate("pixels", "knn", tmp_path, results=folder)
    assert completed.cached
    assert (completed.key, completed.headline, completed.created) == (new.key, "top1@5", new.created)
    assert completed.metrics == new.metrics
    assert read_all(folder) == [new]


def test_without_samples_a_stored_result_stays_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    (new,) = evaluate("pixels", "knn", tmp_path, results=folder)
    assert new.path is not None
    content = json.loads(new.path.read_text())
    del content["metrics"]["mean_per_class@1"]
    new.path.write_text(json.dumps(content))
    new.path.with_suffix(".arrow").unlink()
    (cached,) = evaluate("pixels", "knn", tmp_path, results=folder)
    assert cached.cached
    assert list(cached.metrics) == list(content["metrics"])


def test_a_note_says_which_class_is_hardly_shown(tmp_path: Path) -> None:
    (result,) = evaluate("pixels", "rare_class", tmp_path)
    score = result.metrics["mean_per_class"]
    absent = "in no item: 18 classes (cylinder, cone, pyramid, ring, capsule and 13 more)"
    rare = "in one or two items: 1 class (block)"
    assert score.note == f"from 4 items; {absent}, left out of the mean (DINOv2's metric counts 0); {rare}"
    assert score.ci95[0] < 0.7


def test_a_constructed_backbone_is_taken_as_it_is(tmp_path: Path) -> None:
    (named,) = evaluate("random:dino_scenes", "knn", tmp_path, limit=60)
    (given,) = evaluate(ssleval.load("random:dino_scenes"), "knn", tmp_path, limit=60)
    assert named.key == given.key
    assert named.metrics == given.metrics


def test_all_tasks_of_a_call_share_one_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = ssleval.load("pixels")
    images = 0
    forward = Backbone.forward

    def counted(self: Backbone, batch: torch.Tensor, *rest: object, **more: object) -> object:
        nonlocal images
        images += len(batch)
        return forward(self, batch, *rest, **more)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(Backbone, "forward", counted)
    from ssleval.core import DatasetOptions
    from ssleval.datasets.catalog import open_dataset

    digits = open_dataset("digits", DatasetOptions()).limited(80)
    several = [{"ks": (5,)}, {"ks": (3,), "readout": "mean"}, {"ks": (1,), "temperature": 0.2}]
    jobs = [make_job("knn", "digits", digits, settings, 80) for settings in several]
    found = list(measure(backbone, jobs, context(tmp_path), None))
    assert len(found) == 3
    assert images == 160 + 2 * 4 + 1  # four of each pass are compared; a black one tells what an image costs


def test_the_seed_is_set_after_the_backbone_was_built(tmp_path: Path) -> None:
    light, heavy = (evaluate(model, "draws", tmp_path)[0] for model in ("pixels", "random:vit_tiny"))
    assert light.metrics["number"].value == heavy.metrics["number"].value
    other = evaluate("pixels", "draws", tmp_path, context=Context(seed=1, cache=tmp_path, progress=False))[0]
    assert other.metrics["number"].value != light.metrics["number"].value


def test_a_task_without_meaning_is_skipped_beside_others_and_raised_alone(tmp_path: Path) -> None:
    (result,) = evaluate("pixels", ["impossible", "draws"], tmp_path)
    assert result.task == "draws"
    with pytest.raises(NotApplicableError, match="third eye"):
        evaluate("pixels", "impossible", tmp_path)


def test_unknown_names_are_errors_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean knn"):
        evaluate("no such model", "knm", tmp_path)


@pytest.mark.slow
def test_two_processes_give_the_result_of_one(tmp_path: Path) -> None:
    command = ["-m", "ssleval", "run", "--model", "random:vit_tiny", "--limit", "80"]
    command += [
        "--dataset",
        f"digits,folder:{tmp_path}/absent",
        "--set",
        "knn.ks=5",
        "--batch-size",
        "8",
        "--json",
        "--cache",
    ]
    one = [sys.executable, *command, str(tmp_path / "one"), "--results", str(tmp_path / "r1")]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    two = [*launch, *command, str(tmp_path / "two"), "--results", str(tmp_path / "r2")]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    lines: list[str] = []
    # torchrun itself knows no code but 1.
    for call, code in ((one, 2), (two, 1)):
        done = subprocess.run(call, capture_output=True, text=True, check=False, env=env)
        assert done.returncode == code, done.stderr
        lines += done.stdout.splitlines()
        said = [line for line in done.stderr.splitlines() if line.startswith("ssleval:")]
        assert said == [f"ssleval: folder:{tmp_path}/absent: no such folder"]
        assert "SIGABRT" not in done.stderr
    single, several = (json.loads(line) for line in lines)
    assert single["metrics"] == several["metrics"]
    assert single["key"] == several["key"]


@pytest.mark.skipif(not SHARED.exists(), reason="needs the real images and weights beside the checkout")
def test_real_weights_see_real_photographs(tmp_path: Path) -> None:
    """160 photographs of 99 classes: far above the floor, and far from what a bug would give."""
    model = "timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    weights = SHARED / "weights" / "vit_tiny_patch16_224.safetensors"
    dataset = f"folder:{SHARED / 'data' / 'caltech101'}"
    more = {"dataset": dataset, "limit": 160}
    (real,) = evaluate(model, "knn", tmp_path, checkpoint=weights, **more)
    (floor,) = evaluate("pixels", "knn", tmp_path, **more)
    assert real.metrics["top1@1"].value > 0.4 > 2 * floor.metrics["top1@1"].value


def test_exif_is_part_of_key_and_record_and_compared_with_itself_alone(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    colours = np.random.default_rng(0).integers(0, 256, (2, 2, 3, 3), np.uint8)
    for split in ("train", "test"):
        for number, name in enumerate("ab"):
            (tmp_path / split / name).mkdir(parents=True)
            image = Image.fromarray(colours[number].repeat(16, 0).repeat(16, 1))
            image.save(tmp_path / split / name / "0.png", exif=exif)
    dataset = {"dataset": f"folder:{tmp_path}", "settings": {"knn": {"ks": (1,)}}}
    plain, turned = (
        evaluate("pixels", "knn", tmp_path, options=DatasetOptions(exif=exif), **dataset)[0]
        for exif in (False, True)
    )
    assert plain.key != turned.key
    assert comparable(plain) != comparable(turned)
    assert "exif" not in plain.data, "records of before stay as they are"
    assert turned.data["exif"] is True
    assert [one.to_row()["exif"] for one in (plain, turned)] == [False, True]
    assert "exif: False against True" in mismatches(plain, turned)
