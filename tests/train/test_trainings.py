"""The short trainings of `benchmarks/plans/`, and the tables made of them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from benchmarks import trainings
from ssleval.train import read_config
from ssleval.train.loop import Trained
from tests.train.tiny_training import SETTINGS, pictures

ROOT = Path(__file__).parents[2]
PLANS = sorted(path.stem for path in (ROOT / "benchmarks" / "plans").glob("*.yaml"))
MEASURED = [name for name in PLANS if (ROOT / "results" / f"{name}.json").is_file()]


@pytest.mark.parametrize("name", PLANS)
def test_variants_differ_in_what_they_are_named_for(name: str) -> None:
    plan = trainings.read_plan(name)
    plain = read_config(plan["recipe"], plan["settings"]).settings()
    seen: list[dict[str, Any]] = []
    for variant, asked in plan["variants"].items():
        found = trainings.config_of(plan, variant, 0).settings()
        assert found not in seen
        seen.append(found)
        if isinstance(asked, list):
            changed = {field for field in plain if found[field] != plain[field]}
            assert changed == {setting.partition("=")[0] for setting in asked}


def test_a_training_is_measured_once_and_goes_on_where_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = {
        "recipe": "dino",
        "settings": [*SETTINGS, "run.checkpoint_every=1"],
        "splits": ["train"],
        "dataset": pictures(tmp_path / "data", 40),
        "scores": {"k-NN": {"task": "knn", "metric": "top1@20"}},
        "indicators": ["information"],
        "variants": {"no part": ["views.local_crops=0"]},
    }

    def stopped(*_: object, **__: object) -> Trained:
        return Trained(3, finished=False, teacher=tmp_path)

    with monkeypatch.context() as patched:
        patched.setattr(trainings, "train", stopped)
        with pytest.raises(SystemExit, match="stopped after step 3; the same call goes on"):
            trainings.run(plan, "no part", 1, tmp_path, threads=1)
    found = trainings.run(plan, "no part", 1, tmp_path, threads=1)
    assert found["values"].keys() == {"k-NN", "information"}
    # The last checkpoint that is kept is the model that is scored.
    (_, (step, last), (end, scored)) = found["curve"]
    assert (step, last) == (end, scored) == (found["steps"], found["values"]["k-NN"])
    config = json.loads((tmp_path / "no_part" / "1" / "config.json").read_text())
    assert (config["run"]["seed"], config["views"]["local_crops"]) == (1, 0)
    monkeypatch.setattr(trainings, "train", None)
    assert trainings.run(plan, "no part", 1, tmp_path, threads=1) == found
    seconds = json.loads((tmp_path / "no_part" / "1" / "seconds.json").read_text())
    assert found["seconds"] == seconds > 0
    with pytest.raises(SystemExit, match="measured by another plan; remove it"):
        trainings.run({**plan, "scored": 5}, "no part", 1, tmp_path, threads=1)


def test_intervals_are_of_the_mean_over_seeds() -> None:
    values = [0.1, 0.2, 0.25]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert trainings.interval(values)[1:] == pytest.approx([expected.low, expected.high])
    seeds = [{"values": {"top-1": value, "nats": value}, "seconds": 9.0, "steps": 2048} for value in values]
    plan = {"scores": {"top-1": {}}, "indicators": ["nats"]}
    assert trainings.table(plan, {"full": seeds}).splitlines() == [
        "| | top-1 | nats | steps | processor seconds |",
        "|:---|---:|---:|---:|---:|",
        "| full | 18.3 [-0.6, 37.3] | 0.18 [-0.01, 0.37] | 2,048 | 9 |",
    ]


@pytest.mark.parametrize("name", MEASURED)
def test_the_table_in_the_documentation_is_of_the_plan_and_of_the_figures_kept(name: str) -> None:
    kept = json.loads((ROOT / "results" / f"{name}.json").read_text(encoding="utf-8"))
    found, plan = kept.pop("found"), trainings.read_plan(name)
    assert kept == plan
    assert [len(seeds) for seeds in found.values()] == [len(plan["seeds"])] * len(plan["variants"])
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    shown = re.search(f"<!-- {name} -->(.*)<!-- end of {name} -->", page, re.DOTALL)
    assert shown is not None
    assert shown[1].strip() == trainings.table(plan, found).strip()
