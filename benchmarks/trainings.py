"""Short trainings that differ in one thing, over several seeds: their scores and how they got there.

    python -m benchmarks.trainings NAME [--out runs] [--jobs 2] [--write]

NAME is a plan in ``benchmarks/plans/``: ``objectives``, ``collapse`` or ``ablation``. As many trainings run
at a time as ``--jobs`` says, which share the cores. What lies finished in ``--out`` is not done again, and a
training that was stopped goes on. Prints the table; ``--write`` also puts it into ``docs/training.md``, the
figures into ``results/NAME.json`` and, where a plan scores checkpoints, the curves into ``docs/images``.
"""

import argparse
import json
import multiprocessing
import os
import re
import time
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
import yaml
from scipy import stats

import ssleval
from ssleval.core import Context
from ssleval.core.backbone import Backbone
from ssleval.train import read_config, train
from ssleval.train.config import TrainConfig, from_dict
from ssleval.train.export import as_backbone, teacher_card
from ssleval.train.logfile import read_log
from ssleval.train.networks import untrained
from ssleval.train.state import read_state

ROOT = Path(__file__).parents[1]
Plan: TypeAlias = Mapping[str, Any]
Run: TypeAlias = dict[str, Any]
"""What is kept of one training: ``values`` by column, ``seconds`` of processor, and ``curve``."""


_ASKED = ("dataset", "splits", "images", "scored", "scores", "indicators")
"""What a plan says beside the settings of a training that decides what is measured."""


def read_plan(name: str) -> dict[str, Any]:
    """Return what ``benchmarks/plans/NAME.yaml`` says."""
    return yaml.safe_load((ROOT / "benchmarks" / "plans" / f"{name}.yaml").read_text(encoding="utf-8"))


def config_of(plan: Plan, variant: str, seed: int) -> TrainConfig:
    """Return the settings of one training."""
    asked = plan["variants"][variant]
    asked = asked if isinstance(asked, dict) else {"settings": asked}
    settings = [*plan["settings"], *asked.get("settings", []), f"run.seed={seed}"]
    return read_config(asked.get("recipe", plan["recipe"]), settings)


def run(plan: Plan, variant: str, seed: int, out: Path, threads: int) -> Run:
    """Train one variant with one seed and measure it, unless the folder holds it already.

    Raises:
        SystemExit: a signal stopped the training; it is saved.
    """
    folder = out / re.sub(r"\W+", "_", variant) / str(seed)
    done, config = folder / "measured.json", config_of(plan, variant, seed)
    asked = {"config": config.to_dict(), **{name: plan.get(name) for name in _ASKED}}
    asked = json.loads(json.dumps(asked))
    if not done.is_file():
        torch.set_num_threads(threads)
        with _timed(folder / "seconds.json"):
            trained = train(
                config,
                plan["dataset"],
                folder,
                splits=plan["splits"],
                limit=plan.get("images"),
                resume=True,
                show=False,
            )
        if not trained.finished:
            raise SystemExit(f"{folder}: stopped after step {trained.step}; the same call goes on")
        seconds = json.loads((folder / "seconds.json").read_text(encoding="utf-8"))
        values = dict(_scores(plan, str(trained.teacher)))
        values |= {name: read_log(folder)[-1][name] for name in plan.get("indicators", ())}
        kept = {"values": values, "seconds": seconds, "steps": trained.step}
        curve = [*_curve(plan, folder, config), [trained.step, next(iter(values.values()))]]
        kept |= {"curve": curve, "asked": asked}
        done.write_text(json.dumps(kept) + "\n", encoding="utf-8")
    kept = json.loads(done.read_text(encoding="utf-8"))
    if kept.pop("asked") != asked:
        raise SystemExit(f"{folder}: measured by another plan; remove it, or choose another --out")
    return kept


@contextmanager
def _timed(file: Path) -> Generator[None]:
    """Add the processor time of what runs inside to the seconds in a file, however it ends."""
    started = time.process_time()
    try:
        yield
    finally:
        before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else 0.0
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(before + time.process_time() - started) + "\n", encoding="utf-8")


def _scores(plan: Plan, model: str | Backbone, columns: slice = slice(None)) -> Iterator[tuple[str, float]]:
    for column in [*plan.get("scores", {})][columns]:
        asked = plan["scores"][column]
        (result,) = ssleval.evaluate(
            model,
            asked["task"],
            dataset=plan["dataset"],
            settings={asked["task"]: {"preprocessing": "card", **asked.get("settings", {})}},
            limit=plan.get("scored"),
            context=Context(progress=False),
        )
        yield column, result.metrics[asked["metric"]].value


def _curve(plan: Plan, folder: Path, config: TrainConfig) -> list[list[float]]:
    """Return the step of every checkpoint that is kept, and its first score."""
    points: list[list[float]] = []
    for path in sorted((folder / "checkpoints").glob("epoch_*.pt")):
        state = read_state(path)
        network = untrained(from_dict(state["config"]), drop_path=0.0)
        network.load_state_dict(state["teacher"])
        card = teacher_card(network, config, plan["dataset"], 0)
        ((_, value),) = _scores(plan, as_backbone(network.eval(), card), slice(1))
        points.append([state["step"], value])
    return points


def runs(plan: Plan, out: Path, jobs: int) -> dict[str, list[Run]]:
    """Return what was measured of every variant, seed by seed."""
    # Seed by seed, so that a call that is stopped has compared what it could.
    asked = [(variant, seed) for seed in plan["seeds"] for variant in plan["variants"]]
    threads = max(1, len(os.sched_getaffinity(0)) // jobs)
    found: dict[tuple[str, int], Run] = {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        started = {pool.submit(run, plan, *one, out, threads): one for one in asked}
        try:
            for future in as_completed(started):
                variant, seed = one = started[future]
                found[one] = future.result()
                shown = ", ".join(f"{name} {value:.3f}" for name, value in found[one]["values"].items())
                print(f"seed {seed}, {variant}: {shown}; {found[one]['seconds']:.0f} s", flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return {variant: [found[variant, seed] for seed in plan["seeds"]] for variant in plan["variants"]}


def interval(values: list[float]) -> tuple[float, float, float]:
    """Return the mean over seeds and the ends of its 95 % interval (Student's t)."""
    mean = float(np.mean(values))
    half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return mean, mean - half, mean + half


def table(plan: Plan, found: Mapping[str, list[Run]]) -> str:
    """Return the Markdown of what was measured; scores in percent, indicators in nats."""
    columns = [*plan.get("scores", ()), *plan.get("indicators", ())]
    lines = ["| | " + " | ".join(columns) + " | steps | processor seconds |"]
    lines.append("|:---|" + "---:|" * (len(columns) + 2))
    for variant, seeds in found.items():
        cells = [_cell(plan, column, [one["values"][column] for one in seeds]) for column in columns]
        seconds = np.mean([one["seconds"] for one in seeds])
        lines.append(f"| {variant} | {' | '.join(cells)} | {seeds[0]['steps']:,} | {seconds:.0f} |")
    return "\n".join(lines) + "\n"


def _cell(plan: Plan, column: str, values: list[float]) -> str:
    scale, digits = (100, 1) if column in plan.get("scores", ()) else (1, 2)
    mean, low, high = (f"{scale * value:.{digits}f}" for value in interval(values))
    return f"{mean} [{low}, {high}]"


def draw(plan: Plan, found: Mapping[str, list[Run]], out: Path) -> None:
    """Draw the first score of every checkpoint against the processor's time: mean and range over seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained", dpi=110)
    axes = figure.subplots()
    for number, (variant, seeds) in enumerate(found.items()):
        scores = 100 * np.array([[value for _, value in one["curve"]] for one in seeds])
        steps = np.array([step for step, _ in seeds[0]["curve"]])
        seconds = steps / seeds[0]["steps"] * np.mean([one["seconds"] for one in seeds])
        color, marker = f"C{number}", "osv^Dx*"[number % 7]
        axes.plot(seconds, scores.mean(axis=0), label=variant, color=color, marker=marker, markersize=4)
        axes.fill_between(seconds, scores.min(axis=0), scores.max(axis=0), color=color, alpha=0.15)
    axes.set_xlabel("processor seconds of training")
    axes.set_ylabel(f"{next(iter(plan['scores']))}, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", ncols=2)
    figure.savefig(out)


def write(name: str, plan: Plan, found: Mapping[str, list[Run]]) -> None:
    """Keep the figures in ``results/``, and the table and the curves in the documentation."""
    text = json.dumps({**plan, "found": found}, indent=1)
    (ROOT / "results" / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    page = ROOT / "docs" / "training.md"
    inside = re.compile(rf"<!-- {name} -->.*?<!-- end of {name} -->", re.DOTALL)
    shown = f"<!-- {name} -->\n\n{table(plan, found)}\n<!-- end of {name} -->"
    text, found_marks = inside.subn(lambda _: shown, page.read_text(encoding="utf-8"))
    if not found_marks:
        raise SystemExit(f"{page}: no marks <!-- {name} --> to write the table between")
    page.write_text(text, encoding="utf-8")
    if len(next(iter(found.values()))[0]["curve"]) > 1:
        draw(plan, found, ROOT / "docs" / "images" / f"{name}.png")


def main() -> None:
    """Train what is missing, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "name", choices=sorted(path.stem for path in (ROOT / "benchmarks/plans").glob("*.yaml"))
    )
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--write", action="store_true", help="into results/ and docs/")
    asked = parser.parse_args()
    plan = read_plan(asked.name)
    found = runs(plan, asked.out / asked.name, asked.jobs)
    print(table(plan, found))
    if asked.write:
        write(asked.name, plan, found)


if __name__ == "__main__":
    main()
