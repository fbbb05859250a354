"""What the gate measures, and when; measuring itself is replaced by results that are written by hand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ssleval.backbones.weights.weightfile import write_weights
from ssleval.checks.gate import measuring
from ssleval.checks.gate.measuring import Gate, run_gate
from ssleval.checks.gate.verdicts import Verdict
from ssleval.core import BackboneCard, Context, digest
from ssleval.errors import ConfigError, DataError, NotApplicableError, UnknownNameError
from ssleval.results import Result, record
from ssleval.run.jobs import Job
from ssleval.run.sweep import Sweep
from tests.results.test_compare import flipped
from tests.results.test_leaderboard import right, store

SUITE = """
measurements:
  - {task: knn, dataset: digits, margin: 0.05, settings: {ks: [5]}}
  - {task: linear, dataset: digits, settings: {inputs: pooled}}
"""


@dataclass
class Bench:
    """Measures by name: ``bad`` models err more, and no model can do the tasks of ``refused``."""

    folder: Path
    measured: list[tuple[str, int, list[str]]] = field(default_factory=list[tuple[str, int, list[str]]])
    cards: list[Mapping[str, Any]] = field(default_factory=list[Mapping[str, Any]])
    notes: list[str] = field(default_factory=list[str])
    refused: dict[str, set[str]] = field(default_factory=dict[str, set[str]])

    def load(self, name: str, sweep: Sweep, context: Context, note: object) -> str:
        self.cards.append(sweep.card)
        return name if sweep.checkpoint is None else f"{name}+{sweep.checkpoint.name}"

    def measure(
        self, backbone: str, jobs: Sequence[Job], context: Context, folder: Path, *, note: object
    ) -> list[Result]:
        del note
        self.measured.append((backbone, context.seed, [job.name for job in jobs]))
        left = [job for job in jobs if job.name not in self.refused.get(backbone, ())]
        if not left:
            raise NotApplicableError(f"{backbone} can do nothing")
        return [self.result(folder, backbone, job.name, context.seed) for job in left]

    def result(self, folder: Path, model: str, task: str, seed: int) -> Result:
        outcomes = flipped(right(0.7), 60 if "bad" in model else 0, 4)
        made = store(self.folder / "made", model, outcomes, seed=seed, weights=digest([model])[:64])
        key = digest([model, task, seed])
        return record.write(folder, replace(made, task=task, key=key), record.read_samples(made))

    def __call__(self, baseline: str, candidate: str, seed: int = 0, **more: Any) -> list[Verdict]:
        card = more.pop("card", {})
        gate = Gate(Sweep("", suite=str(self.folder / "suite.yaml"), card=card), baseline, candidate, **more)
        context = Context(cache=self.folder / "cache", seed=seed)
        return run_gate(gate, context, self.folder / "results", note=self.notes.append)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    (tmp_path / "suite.yaml").write_text(SUITE)
    made = Bench(tmp_path)
    monkeypatch.setattr(measuring, "measure", made.measure)
    monkeypatch.setattr(measuring, "load_asked", made.load)
    monkeypatch.chdir(tmp_path)
    return made


def test_a_task_that_no_seed_moves_runs_once(bench: Bench) -> None:
    verdicts = bench("m.py:base", "m.py:bad", seed=3, seeds=2)
    both, probes = ["knn", "linear"], ["linear"]
    assert bench.measured == [
        ("m.py:base", 3, both), ("m.py:base", 4, probes), ("m.py:bad", 3, both), ("m.py:bad", 4, probes),
    ]  # fmt: skip
    assert [(one.task, one.seeds, one.outcome) for one in verdicts] == [
        ("knn", 1, "fail"), ("linear", 2, "fail"),
    ]  # fmt: skip
    (bench.folder / "suite.yaml").write_text("measurements: [{task: knn, dataset: digits}]\n")
    bench.measured.clear()
    bench("m.py:base", "m.py:other", seeds=3)
    assert bench.measured == [("m.py:base", 0, ["knn"]), ("m.py:other", 0, ["knn"])]


def test_a_file_without_an_architecture_holds_weights_of_the_baselines_model(bench: Bench) -> None:
    plain, model = bench.folder / "plain.safetensors", bench.folder / "model.safetensors"
    save_file({"weight": torch.zeros(2)}, plain)
    write_weights(model, {"weight": torch.zeros(2)}, BackboneCard("m", "native", "vit", 16, 4), {})
    card = {"mean": (0.5, 0.5, 0.5)}
    for file, architecture, loaded, of_card in (
        (plain, "", "m.py:base+plain.safetensors", card),
        (plain, "m.py:large", "m.py:large+plain.safetensors", card),
        (model, "m.py:large", "m.py:large+model.safetensors", card),
        (model, "", str(model), card),
    ):
        bench.measured.clear()
        bench.cards.clear()
        bench("m.py:base", str(file), architecture=architecture, seeds=1, card=card)
        assert [name for name, *_ in bench.measured] == ["m.py:base", loaded]
        assert bench.cards == [{}, of_card], "the card is the candidate's"


def test_stored_results_are_not_measured_again(bench: Bench) -> None:
    made = [bench.result(bench.folder / "main", "m.py:base", task, 0) for task in ("knn", "linear")]
    digits = made[0].weights_sha256[:8]
    for baseline in ("main", f"main@{digits}"):
        bench.measured.clear()
        assert len(bench(baseline, "m.py:other", seeds=1)) == 2
        assert {name for name, *_ in bench.measured} == {"m.py:other"}
    (file,) = (path for path in (bench.folder / "main").rglob("*.json") if "knn" in str(path))
    with pytest.raises(DataError, match=r"no comparable result of linear/digits with seed 0; measure it"):
        bench(str(file), "m.py:other", seeds=1)
    with pytest.raises(UnknownNameError, match=r"no such file or folder: gone\.json"):
        bench("gone.json", "m.py:other", seeds=1)
    # A model's name may hold an @ too.
    bench.measured.clear()
    bench("m.py:base@2", "m.py:other", seeds=1)
    assert bench.measured[0][0] == "m.py:base@2"


def test_what_one_side_lacks_is_no_pass(bench: Bench) -> None:
    bench.refused = {"m.py:blind": {"linear"}, "m.py:dead": {"knn", "linear"}}
    with pytest.raises(NotApplicableError, match="linear/digits cannot be measured on the candidate"):
        bench("m.py:base", "m.py:blind", seeds=1)
    with pytest.raises(DataError, match="no comparable result of linear/digits with seed 0; use a suite"):
        bench("m.py:blind", "m.py:base", seeds=1)
    assert [one.task for one in bench("m.py:blind", "m.py:blind", seeds=1)] == ["knn"]
    bench.notes.clear()
    with pytest.raises(NotApplicableError, match=r"nothing in .*suite\.yaml applies to m\.py:dead"):
        bench("m.py:dead", "m.py:base", seeds=1)
    assert any("m.py:dead can do nothing" in note for note in bench.notes)
    bench.refused = {"m.py:blind": {"knn"}}
    with pytest.raises(DataError, match=r"no comparable result of knn/digits; use a suite that both can do"):
        bench("m.py:blind", "m.py:base", seeds=1)


def test_unknown_models_and_several_are_refused_before_any_is_measured(bench: Bench) -> None:
    for sides in (("pixels", "no_such"), ("no_such", "pixels"), ("no_such", "m.py:base")):
        with pytest.raises(UnknownNameError, match="no_such"):
            bench(*sides)
    assert not bench.measured
    with pytest.raises(UnknownNameError, match=r"if it is to be a folder of results, write \./baseline$"):
        bench("baseline", "pixels")
    with pytest.raises(ConfigError, match=r"one model at a time, not 2: m\.py:a, m\.py:b"):
        bench("m.py:base", "m.py:a,m.py:b", seeds=1)
    with pytest.raises(ConfigError, match="no suite; name one"):
        run_gate(Gate(Sweep(""), "pixels", "pixels"), Context(), bench.folder, note=bench.notes.append)


@pytest.mark.parametrize(
    ("margins", "expected"),
    [
        ({}, {"knn": 0.05, "linear": 0.01}),
        ({"linear": 0.2}, {"knn": 0.05, "linear": 0.2}),
        ({"knn": 0.2}, {"knn": 0.2, "linear": 0.01}),
        ({"knn/digits": 0.2, "knn": 0.3}, {"knn": 0.2, "linear": 0.01}),
    ],
)
def test_the_callers_margins_take_precedence(
    bench: Bench, margins: dict[str, float], expected: dict[str, float]
) -> None:
    assert {one.task: one.margin for one in bench("m.py:a", "m.py:b", seeds=1, margins=margins)} == expected


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"margins": {"knm": 1.0}}, "--margin knm: not in .*did you mean knn"),
        ({"margins": {"knn/scenes": 1.0}}, "--margin knn/scenes: not in"),
        ({"margins": {"knn": 0.0}}, "--margin knn=0.0: expected a number > 0"),
        ({"seeds": 0}, "gate: seeds=0: expected a whole number >= 1"),
        ({"seeds": 10**9}, "gate: seeds=1000000000: expected a whole number <= 1000"),
    ],
)
def test_margins_and_seeds_that_mean_nothing_are_refused(
    bench: Bench, more: dict[str, Any], words: str
) -> None:
    with pytest.raises((ConfigError, UnknownNameError), match=words):
        bench("m.py:a", "m.py:b", **more)
    assert not bench.measured


def test_there_are_three_seeds_unless_asked(bench: Bench) -> None:
    verdicts = bench("m.py:a", "m.py:b")
    assert {one.task: one.seeds for one in verdicts} == {"knn": 1, "linear": 3}
    assert np.isfinite([one.gain for one in verdicts]).all()
