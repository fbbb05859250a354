"""Short trainings without one part of DINO each, over several seeds, and their k-NN accuracy.

    python -m benchmarks.ablations [--out runs/ablations] [--seeds 0,1,2] [--write]

The runs are those of ``ablations.yaml``. What is done already in ``--out`` is not done again, so that calls
with other seeds can share a folder, side by side. Prints the table; ``--write`` also puts it into
``results/`` and ``docs/training.md``.
"""

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy import stats

import ssleval
from ssleval.core import Context
from ssleval.train import read_config, train

ROOT = Path(__file__).parents[1]
METRIC = "top1@20"
START, END = "<!-- ablations -->", "<!-- end of ablations -->"


def plan() -> dict[str, Any]:
    """Return what ``ablations.yaml`` says."""
    return yaml.safe_load((ROOT / "benchmarks" / "ablations.yaml").read_text(encoding="utf-8"))


def score(asked: Mapping[str, Any], variant: str, seed: int, out: Path) -> float:
    """Train one variant with one seed and return its accuracy, unless the folder holds it already."""
    folder = out / variant.replace(" ", "_") / str(seed)
    done = folder / "score.json"
    if not done.is_file():
        settings = [*asked["settings"], *asked["variants"][variant], f"run.seed={seed}"]
        config = read_config(asked["recipe"], settings)
        trained = train(config, asked["dataset"], folder, splits=asked["splits"], resume=True)
        (result,) = ssleval.evaluate(
            str(trained.teacher),
            "knn",
            dataset=asked["dataset"],
            settings={"knn": {"preprocessing": "card"}},
            context=Context(progress=False),
        )
        done.write_text(json.dumps(result.metrics[METRIC].value) + "\n", encoding="utf-8")
    return float(json.loads(done.read_text(encoding="utf-8")))


def summary(scores: Mapping[str, Sequence[float]]) -> dict[str, dict[str, Any]]:
    """Return mean and 95 % interval over seeds (Student's t) of every variant."""
    found: dict[str, dict[str, Any]] = {}
    for variant, values in scores.items():
        half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values) if len(values) > 1 else float("nan")
        mean = float(np.mean(values))
        interval = [mean - float(half), mean + float(half)]
        found[variant] = {"mean": mean, "ci95": interval, "seeds": list(values)}
    return found


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the Markdown of a summary."""
    lines = ["| | k-NN top-1 | of single seeds |", "|:---|---:|:---|"]
    for variant, row in found.items():
        low, high = (100 * bound for bound in row["ci95"])
        seeds = ", ".join(f"{100 * value:.1f}" for value in row["seeds"])
        lines.append(f"| {variant} | {100 * row['mean']:.1f} [{low:.1f}, {high:.1f}] | {seeds} |")
    return "\n".join(lines) + "\n"


def write(found: Mapping[str, Mapping[str, Any]]) -> None:
    """Keep the figures in ``results/`` and the table in the documentation."""
    text = json.dumps({**plan(), "metric": METRIC, "found": found}, indent=1)
    (ROOT / "results" / "ablations.json").write_text(text + "\n", encoding="utf-8")
    page = ROOT / "docs" / "training.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(START)
    after = re.sub(rf".*?{END}", "", rest, count=1, flags=re.DOTALL)
    page.write_text(f"{before}{START}\n\n{table(found)}\n{END}{after}", encoding="utf-8")


def main() -> None:
    """Train what is missing, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--seeds", help="comma list, instead of those of ablations.yaml")
    parser.add_argument("--write", action="store_true", help="into results/ and docs/training.md")
    asked, planned = parser.parse_args(), plan()
    seeds = [int(seed) for seed in asked.seeds.split(",")] if asked.seeds else planned["seeds"]
    scores: dict[str, list[float]] = {name: [] for name in planned["variants"]}
    # Seed by seed, so that a call that is stopped has compared what it could.
    for seed in seeds:
        for variant, values in scores.items():
            values.append(score(planned, variant, seed, asked.out))
            print(f"seed {seed}, {variant}: {100 * values[-1]:.1f}", flush=True)
    found = summary(scores)
    print(table(found))
    if asked.write:
        write(found)


if __name__ == "__main__":
    main()
