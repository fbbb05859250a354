"""The short trainings of `benchmarks/ablations.yaml`, and the table made of them."""

import json
import re
from pathlib import Path

import pytest
from scipy import stats

from benchmarks import ablations
from ssleval.train import read_config
from ssleval.train.loop import Trained
from tests.train.tiny_training import SETTINGS, pictures

ROOT = Path(__file__).parents[2]


def test_every_variant_differs_from_the_full_recipe_in_what_it_is_named_for() -> None:
    asked = ablations.plan()
    full = read_config(asked["recipe"], asked["settings"]).to_dict()
    changed: dict[str, set[str]] = {}
    for variant, settings in asked["variants"].items():
        config = read_config(asked["recipe"], [*asked["settings"], *settings]).to_dict()
        pairs = [(section, name) for section, values in full.items() for name in values]
        changed[variant] = {f"{one}.{name}" for one, name in pairs if config[one][name] != full[one][name]}
        assert changed[variant] == {setting.partition("=")[0] for setting in settings}
    assert [variant for variant, fields in changed.items() if not fields] == ["full"]


def test_a_run_is_scored_once_and_goes_on_where_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = {"recipe": "dino", "settings": SETTINGS, "splits": ["train"]}
    asked = {
        **plan,
        "dataset": pictures(tmp_path / "data", 40),
        "variants": {"no part": ["views.local_crops=0"]},
    }

    def stopped(*_: object, **__: object) -> Trained:
        return Trained(3, finished=False, teacher=tmp_path)

    with monkeypatch.context() as patched:
        patched.setattr(ablations, "train", stopped)
        with pytest.raises(SystemExit, match="stopped after step 3; the same call goes on"):
            ablations.score(asked, "no part", 1, tmp_path, threads=1)
    found = ablations.score(asked, "no part", 1, tmp_path, threads=1)
    assert 0 < found < 1
    config = json.loads((tmp_path / "no_part" / "1" / "config.json").read_text())
    assert (config["run"]["seed"], config["views"]["local_crops"]) == (1, 0)
    monkeypatch.setattr(ablations, "train", None)
    assert ablations.score(asked, "no part", 1, tmp_path, threads=1) == found


def test_intervals_are_of_the_mean_over_seeds() -> None:
    values = [0.1, 0.2, 0.25]
    row = ablations.summary({"full": values})["full"]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert row["ci95"] == pytest.approx([expected.low, expected.high])
    assert (
        ablations.table({"full": row}).splitlines()[-1] == "| full | 18.3 [-0.6, 37.3] | 10.0, 20.0, 25.0 |"
    )


def test_the_table_in_the_documentation_is_of_the_plan_and_of_the_figures_kept() -> None:
    kept = json.loads((ROOT / "results" / "ablations.json").read_text(encoding="utf-8"))
    found = kept.pop("found")
    assert kept == {**ablations.plan(), "metric": ablations.METRIC}
    assert ablations.summary({name: row["seeds"] for name, row in found.items()}) == found
    assert [len(row["seeds"]) for row in found.values()] == [len(kept["seeds"])] * len(kept["variants"])
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    shown = re.search(f"{ablations.START}(.*){ablations.END}", page, re.DOTALL)
    assert shown is not None
    assert shown[1].strip() == ablations.table(found).strip()
