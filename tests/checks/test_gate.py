"""The gate end to end: a model, and the same model with noise on its weights."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
import torch
from safetensors.torch import save_file

from ssleval.backbones.weights.weightfile import describes_itself, write_weights
from ssleval.core import BackboneCard, Context, Dataset, DatasetOptions
from ssleval.datasets.catalog import open_dataset
from ssleval.errors import WeightsError
from ssleval.results import Result, read_all, record
from tests.cli.test_cli import Cli, cli  # noqa: F401  # pyright: ignore[reportUnusedImport]

MODEL = """
from collections.abc import Sequence
import numpy as np, torch
from sklearn.datasets import load_digits
from ssleval.core.backbone import Backbone, Features, Tokens
from ssleval.core import BackboneCard

class Principal(Backbone):
    # Eight principal axes of 8x8 digits: a model that was fitted, and that noise harms.
    def __init__(self, noise):
        card = BackboneCard("principal", "python_file", "principal", 3, 8, pooled_dim=8, supervision="none",
                            mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        super().__init__(card, num_blocks=1)
        pixels = load_digits().data[:400] / 16
        axes = np.linalg.svd(pixels - pixels.mean(0), full_matrices=False)[2][:8]
        axes = axes + noise * np.random.default_rng(0).normal(size=axes.shape)
        self.register_buffer("axes", torch.from_numpy(axes.astype(np.float32)))

    def extract(self, images, blocks: Sequence[int], *, norm: bool):
        grey = torch.nn.functional.adaptive_avg_pool2d(images.mean(1, keepdim=True), 8).flatten(1)
        patches = torch.nn.functional.avg_pool2d(images, 8).permute(0, 2, 3, 1)
        pooled = (grey - grey.mean(1, keepdim=True)) @ self.axes.T
        return Features(pooled, tuple(Tokens(patches) for _ in blocks))

def base(): return Principal(0.0)
def nudged(): return Principal(0.001)
def noisy(): return Principal(1.0)
"""
SUITE = """
description: k-NN on small digits
measurements:
  - {task: knn, dataset: digits, margin: 0.02, settings: {ks: [5], resize: 32, crop: 32}}
"""


@dataclass
class Gate:
    """The command on a suite of one task, in a folder that has the models."""

    cli: Cli

    def __call__(self, *arguments: str, baseline: str = "model.py:base") -> tuple[int, str, str]:
        common = ("--suite", "suite.yaml", "--baseline", baseline, "--out", "gate", "--quiet")
        return self.cli("gate", *common, *arguments)

    def report(self) -> dict[str, object]:
        (task,) = json.loads((self.cli.folder / "gate" / "gate.json").read_text())["tasks"]
        return task


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all tests, whose models are the same."""
    return tmp_path_factory.mktemp("features")


@pytest.fixture
def gate(cli: Cli, features: Path, monkeypatch: pytest.MonkeyPatch) -> Gate:  # noqa: F811
    monkeypatch.setenv("SSLEVAL_CACHE", str(features))
    (cli.folder / "model.py").write_text(MODEL)
    (cli.folder / "suite.yaml").write_text(SUITE)
    return Gate(cli)


def check_junit(text: str) -> ElementTree.Element:
    """Apply the rules of the Jenkins xunit schema that a report of ours can break."""
    root = ElementTree.fromstring(text)
    assert root.tag == "testsuites"
    for suite in root:
        assert suite.tag == "testsuite"
        assert suite.get("name")
        cases = list(suite)
        assert {case.tag for case in cases} == {"testcase"}
        counted = {"failures": "failure", "errors": "error", "skipped": "skipped"}
        for attribute, tag in counted.items():
            assert int(suite.attrib[attribute]) == sum(case.find(tag) is not None for case in cases)
        assert int(suite.attrib["tests"]) == len(cases)
        for case in cases:
            assert case.get("name")
            assert case.get("classname")
            assert float(case.attrib["time"]) >= 0
            assert len(case) <= 1
        names = [(case.get("classname"), case.get("name")) for case in cases]
        assert len(set(names)) == len(names)
    return root


def test_a_clearly_worse_candidate_fails(gate: Gate) -> None:
    code, out, _ = gate("--candidate", "model.py:noisy")
    assert code == 1
    assert "### Gate: ❌ fail" in out
    assert (gate.cli.folder / "gate" / "gate.md").read_text() == out
    report = gate.report()
    assert report["outcome"] == "fail"
    assert report["n"] == 500
    (suite,) = check_junit((gate.cli.folder / "gate" / "gate.xml").read_text())
    failure = suite[0].find("failure")
    assert failure is not None
    assert "worse by more than the margin" in (failure.text or "")


def test_an_equal_candidate_passes_and_only_what_changed_is_computed(gate: Gate) -> None:
    assert gate("--candidate", "model.py:nudged")[0] == 0
    report = gate.report()
    assert report["outcome"] == "pass"
    assert report["reason"] != "the same weights under the same protocol", "the weights do differ"
    assert len(check_junit((gate.cli.folder / "gate" / "gate.xml").read_text())) == 1
    stored = {path: path.stat().st_mtime_ns for path in (gate.cli.folder / "results").rglob("*.json")}
    assert len(stored) == 2
    assert gate("--candidate", "model.py:nudged")[0] == 0
    assert gate("--candidate", "model.py:base")[0] == 0
    assert gate.report()["reason"] == "the same weights under the same protocol"
    assert stored == {path: path.stat().st_mtime_ns for path in stored}


def test_baseline_and_candidate_are_measured_on_data_that_is_opened_once(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def counted(name: str, options: DatasetOptions) -> Dataset:
        opened.append(name)
        return open_dataset(name, options)

    monkeypatch.setattr("ssleval.run.sweep.open_dataset", counted)
    assert gate("--candidate", "model.py:nudged", "--limit", "40")[0] == 3
    assert opened == ["digits"]


def test_too_few_images_are_inconclusive(gate: Gate) -> None:
    code, out, _ = gate("--candidate", "model.py:nudged", "--limit", "40")
    assert code == 3
    assert "takes about" in out
    (suite,) = check_junit((gate.cli.folder / "gate" / "gate.xml").read_text())
    assert suite[0].find("skipped") is not None


def test_the_margin_decides(gate: Gate) -> None:
    assert gate("--candidate", "model.py:noisy", "--margin", "knn=0.9", "--limit", "150")[0] == 0
    assert gate("--candidate", "model.py:noisy", "--margin", "knn/digits=0.001", "--limit", "150")[0] == 1
    for margin, words in (
        ("knn", "expected TASK=NUMBER"),
        ("knn=x", "--margin knn=x: expected a number"),
        ("knm=1", "did you mean knn"),
        ("knn=0", "--margin knn=0: expected a number > 0"),
    ):
        code, _, err = gate("--candidate", "model.py:noisy", "--margin", margin)
        assert (code, words in err) == (2, True), err


def test_stored_results_are_a_baseline_if_they_have_what_is_needed(gate: Gate) -> None:
    run = ("run", "--model", "model.py:base", "--suite", "suite.yaml", "--results", "main", "--quiet")
    assert gate.cli(*run, "--limit", "100")[0] == 0
    code, _, err = gate("--candidate", "model.py:noisy", "--margin", "knn=0.5", baseline="main")
    assert code == 2
    assert "fingerprint.digits/test" in err
    code, _, err = gate("--candidate", "model.py:noisy", "--limit", "100", baseline="main")
    assert code == 1, err
    assert {one.model for one in read_all(gate.cli.folder / "results")} == {"model.py:noisy"}
    assert "part of the difference" not in str(gate.report()["reason"])
    gate("--candidate", "model.py:noisy", "--limit", "100", "--precision", "bf16", baseline="main")
    assert str(gate.report()["reason"]).endswith("; fp32 against bf16 is part of the difference")


def measured(gate: Gate, name: str) -> Result:
    """Return the result of ``model.py:NAME`` that a gate has left behind."""
    return next(one for one in read_all(gate.cli.folder / "results") if one.model == f"model.py:{name}")


def test_weights_pick_a_checkpoint_of_a_folder_that_has_gained_another(gate: Gate) -> None:
    gate("--candidate", "model.py:nudged")
    ours, theirs = measured(gate, "base"), measured(gate, "nudged")
    record.write(gate.cli.folder / "results", replace(theirs, model=ours.model), record.read_samples(theirs))
    for weights, expected, words in (
        ("", 2, f"results/model.py_base@{ours.weights_sha256[:8]}"),
        ("@zzz", 2, "no result of such weights"),
        (f"@{ours.weights_sha256[:8]}", 0, ""),
    ):
        code, _, err = gate("--candidate", "model.py:nudged", baseline=f"results/model.py_base{weights}")
        assert (code, words in err) == (expected, True), err


def test_what_the_candidate_can_no_longer_do_is_no_pass(gate: Gate) -> None:
    line = "  - {task: attention, dataset: 'scenes:instances', settings: {size: 32}}\n"
    (gate.cli.folder / "suite.yaml").write_text(SUITE + line)
    code, _, err = gate("--candidate", "model.py:nudged")
    assert code == 0, err  # neither has a class token
    base = measured(gate, "base")
    looked = replace(base, task="attention", dataset="scenes:instances", key="0" * 64)
    record.write(gate.cli.folder / "results", looked, record.read_samples(base))
    code, _, err = gate("--candidate", "model.py:nudged", baseline="results/model.py_base")
    assert (code, "attention/scenes:instances cannot be measured on the candidate" in err) == (2, True), err


def test_probes_are_trained_with_several_seeds_and_a_baseline_needs_them_too(gate: Gate) -> None:
    settings = "{inputs: pooled, iterations: 30, learning_rates: [0.1], resize: 32, crop: 32}"
    (gate.cli.folder / "suite.yaml").write_text(
        f"measurements:\n  - {{task: linear, dataset: digits, settings: {settings}}}\n"
    )
    gate("--candidate", "model.py:nudged", "--limit", "120", "--seeds", "2")
    assert gate.report()["seeds"] == 2
    seeds = [one.settings["seed"] for one in read_all(gate.cli.folder / "results")]
    assert sorted(seeds) == [0, 0, 1, 1]
    code, _, err = gate("--candidate", "model.py:noisy", "--limit", "120", baseline="results/model.py_base")
    assert code == 2
    assert "linear/digits with seed 2" in err


def test_a_file_that_names_its_architecture_is_a_model_others_are_weights(tmp_path: Path) -> None:
    model, plain = tmp_path / "model.safetensors", tmp_path / "plain.safetensors"
    tensors = {"weight": torch.zeros(2)}
    write_weights(model, tensors, BackboneCard("m", "native", "vit", 16, 4), {})
    save_file(tensors, plain)
    assert [describes_itself(path) for path in (model, plain, tmp_path / "none.safetensors")] == [
        True,
        False,
        False,
    ]
    plain.write_bytes(b"no")
    with pytest.raises(WeightsError, match=r"plain\.safetensors: it is damaged"):
        describes_itself(plain)


@pytest.mark.parametrize("name", ["missing/teacher.pth", "./teacher.pth", "baseline.json"])
@pytest.mark.parametrize("side", ["baseline", "candidate"])
def test_a_missing_file_is_no_unknown_model(side: str, name: str, tmp_path: Path) -> None:
    from ssleval.checks.gate.measuring import Gate as Asked
    from ssleval.checks.gate.measuring import run_gate
    from ssleval.errors import UnknownNameError
    from ssleval.run.sweep import Sweep

    sides = {"baseline": "pixels", "candidate": "pixels", side: name}
    asked = Asked(Sweep("", suite="smoke"), sides["baseline"], sides["candidate"])
    with pytest.raises(UnknownNameError, match=f"no such file or folder: {name}"):
        run_gate(asked, Context(cache=tmp_path), tmp_path / "results", note=lambda _: None)


def test_a_missing_baseline_fails_and_the_line_and_the_reports_say_what_to_do(gate: Gate) -> None:
    code, _, err = gate("--candidate", "model.py:base", baseline="./main")
    assert (code, "--first-run pass" in err) == (2, True), err
    assert "--first-run pass" in error_of(gate)
    assert "could not judge" in (gate.cli.folder / "gate" / "gate.md").read_text()
    assert not (gate.cli.folder / "results").exists(), "nothing is measured"


def error_of(gate: Gate) -> str:
    """Return the message of the one error in the JUnit report, which the other reports state as well."""
    (suite,) = check_junit((gate.cli.folder / "gate" / "gate.xml").read_text())
    error = suite[0].find("error")
    assert error is not None
    written = json.loads((gate.cli.folder / "gate" / "gate.json").read_text())
    assert (written["outcome"], written["reason"]) == ("error", error.get("message"))
    return written["reason"]


@pytest.mark.parametrize("exists", [False, True])
def test_a_first_run_that_passes_makes_the_candidate_the_baseline_of_the_next(
    gate: Gate, exists: bool
) -> None:
    if exists:
        (gate.cli.folder / "main").mkdir()
    first = ("--first-run", "pass", "--limit", "100")
    code, out, _ = gate("--candidate", "model.py:base", *first, baseline="./main")
    assert code == 0
    assert "### Gate: ✅ pass, with nothing to compare with" in out
    assert "first run: the candidate's results are the baseline from now on" in out
    assert "[" not in out.splitlines()[-1], "a gain over itself is none"
    assert json.loads((gate.cli.folder / "gate" / "gate.json").read_text())["first_run"] is True
    assert gate.report()["outcome"] == "pass"
    (suite,) = check_junit((gate.cli.folder / "gate" / "gate.xml").read_text())
    (said,) = suite[0]
    assert (said.tag, "first run" in str(said.text)) == ("system-out", True)
    recorded = {path.name: path.read_bytes() for path in (gate.cli.folder / "main").iterdir()}
    assert {Path(name).suffix for name in recorded} == {".json", ".arrow"}
    assert gate("--candidate", "model.py:noisy", *first, baseline="./main")[0] == 1
    assert gate("--candidate", "model.py:base", *first, baseline="./main")[0] == 0
    assert gate.report()["reason"] == "the same weights under the same protocol"
    assert recorded == {path.name: path.read_bytes() for path in (gate.cli.folder / "main").iterdir()}


@pytest.mark.parametrize(
    ("baseline", "words"),
    [("old/baseline.json", "is a file; name a folder"), ("teachr.pth", "is a file"), ("mian", "mian")],
)
def test_a_first_run_records_only_results_and_only_where_a_path_is_named(
    gate: Gate, baseline: str, words: str
) -> None:
    code, _, err = gate("--candidate", "model.py:base", "--first-run", "pass", baseline=baseline)
    assert (code, words in err) == (2, True), err
    assert not (gate.cli.folder / "results").exists()


def test_times_are_those_of_this_run(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(0, 1000, 7))
    monkeypatch.setattr(
        "ssleval.checks.gate.measuring.time", SimpleNamespace(perf_counter=lambda: float(next(ticks)))
    )
    gate("--candidate", "model.py:nudged", "--limit", "40")
    (suite,) = check_junit((gate.cli.folder / "gate" / "gate.xml").read_text())
    # Seven seconds for either side.
    assert [suite.get("time"), suite[0].get("time")] == ["14.000", "14.000"]


def test_of_absolute_paths_a_comment_shows_the_last_part(gate: Gate) -> None:
    folder = gate.cli.folder
    code, _, _ = gate("--candidate", str(folder / "no.pth"), baseline=str(folder / "none"))
    assert code == 2
    text = (folder / "gate" / "gate.md").read_text()
    assert str(folder) not in text
    assert ": none" in text
