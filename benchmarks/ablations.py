"""Short trainings without one part of DINO each, over several seeds, and their k-NN accuracy.

    python -m benchmarks.ablations [--out runs/ablations] [--jobs 2] [--write]

The runs are those of ``ablations.yaml``, as many at a time as ``--jobs`` says, which share the cores. What
lies finished in ``--out`` is not done again, and a run that was stopped goes on. Prints the table;
``--write`` also puts it into ``results/ablations.json`` and ``docs/training.md``.
"""

import argparse
import json
import multiprocessing
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import torch
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


def score(asked: Mapping[str, Any], variant: str, seed: int, out: Path, threads: int) -> float:
    """Train one variant with one seed and return its accuracy, unless the folder holds it already.

    Raises:
        SystemExit: a signal stopped the training; it is saved.
    """
    folder = out / variant.replace(" ", "_") / str(seed)
    done = folder / "score.json"
    if not done.is_file():
        torch.set_num_threads(threads)
        settings = [*asked["settings"], *asked["variants"][variant], f"run.seed={seed}"]
        config = read_config(asked["recipe"], settings)
        trained = train(config, asked["dataset"], folder, splits=asked["splits"], resume=True, show=False)
        if not trained.finished:
            raise SystemExit(f"{folder}: stopped after step {trained.step}; the same call goes on")
        (result,) = ssleval.evaluate(
            str(trained.teacher),
            "knn",
            dataset=asked["dataset"],
            settings={"knn": {"preprocessing": "card"}},
            context=Context(progress=False),
        )
        done.write_text(json.dumps(result.metrics[METRIC].value) + "\n", encoding="utf-8")
    return float(json.loads(done.read_text(encoding="utf-8")))


def scores(asked: Mapping[str, Any], out: Path, jobs: int) -> dict[str, list[float]]:
    """Return the accuracies of every variant, seed by seed."""
    # Seed by seed, so that a call that is stopped has compared what it could.
    runs = [(variant, seed) for seed in asked["seeds"] for variant in asked["variants"]]
    threads = max(1, len(os.sched_getaffinity(0)) // jobs)
    found: dict[tuple[str, int], float] = {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        started = {pool.submit(score, asked, *run, out, threads): run for run in runs}
        try:
            for future in as_completed(started):
                variant, seed = run = started[future]
                found[run] = future.result()
                print(f"seed {seed}, {variant}: {100 * found[run]:.1f}", flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return {variant: [found[variant, seed] for seed in asked["seeds"]] for variant in asked["variants"]}


def summary(found: Mapping[str, Sequence[float]]) -> dict[str, dict[str, Any]]:
    """Return mean and 95 % interval over seeds (Student's t) of every variant."""
    rows: dict[str, dict[str, Any]] = {}
    for variant, values in found.items():
        mean = float(np.mean(values))
        half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
        rows[variant] = {"mean": mean, "ci95": [mean - half, mean + half], "seeds": list(values)}
    return rows


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the Markdown of a summary."""
    lines = ["| | k-NN top-1 | of single seeds |", "|:---|---:|:---|"]
    for variant, row in rows.items():
        low, high = (100 * bound for bound in row["ci95"])
        seeds = ", ".join(f"{100 * value:.1f}" for value in row["seeds"])
        lines.append(f"| {variant} | {100 * row['mean']:.1f} [{low:.1f}, {high:.1f}] | {seeds} |")
    return "\n".join(lines) + "\n"


def write(rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Keep the figures in ``results/`` and the table in the documentation."""
    text = json.dumps({**plan(), "metric": METRIC, "found": rows}, indent=1)
    (ROOT / "results" / "ablations.json").write_text(text + "\n", encoding="utf-8")
    page = ROOT / "docs" / "training.md"
    inside = re.compile(rf"{START}.*?{END}", re.DOTALL)
    page.write_text(
        inside.sub(f"{START}\n\n{table(rows)}\n{END}", page.read_text(encoding="utf-8")), encoding="utf-8"
    )


def main() -> None:
    """Train what is missing, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--write", action="store_true", help="into results/ and docs/training.md")
    asked = parser.parse_args()
    rows = summary(scores(plan(), asked.out, asked.jobs))
    print(table(rows))
    if asked.write:
        write(rows)


if __name__ == "__main__":
    main()
