"""Ten thousand results into leaderboard and report: ``python -m benchmarks.ten_thousand``.

A hundred models on a hundred boards of 500 images are written to a temporary folder, files of the same
fields, columns and size as tasks leave them: every second board as k-NN does at four k (8 metrics, 14
columns), the others as linear probing does (2 metrics, 6 columns). Either command runs on them in a fresh
process. Prints seconds, processor seconds and peak memory as JSON, and what ten million additions took just
then, since processors differ by more than the bars' room; exit 1 where a bar is missed. ``--cold`` first has
the system forget the files, so that they come from the disk.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ssleval.core import BackboneCard, DatasetCard, Samples, digest
from ssleval.results import Result, Score, samplefiles

MODELS, BOARDS, ITEMS, CLASSES = 100, 100, 500, 10
TASKS = {
    "knn": {"20": ("top1", "top5"), "10": ("top1", "top5"), "100": ("top1", "top5"), "200": ("top1", "top5")},
    "linear": {"heldout": ("top1",), "paper": ("top1",)},
}
"""By task, what stands behind the ``@`` of its metrics, and which metrics."""
BAR_SECONDS, BAR_GB = 10.0, 1.0
COMMANDS = {"leaderboard": ("leaderboard", "results", "--out", "tables"),
            "report": ("report", "--results", "results", "--out", "report.html")}  # fmt: skip


@dataclass(frozen=True)
class Spent:
    """What one command took."""

    seconds: float
    cpu_seconds: float
    """Of all its threads, in user and system mode: what a busy machine does not add to."""
    peak_gb: float

    @property
    def met(self) -> bool:
        """Whether it stayed within both bars."""
        return self.seconds <= BAR_SECONDS and self.peak_gb <= BAR_GB


def write(folder: Path) -> None:
    """Write the results of all models on all boards."""
    for board in range(BOARDS):
        random = np.random.default_rng(board)
        labels, hard = random.integers(0, CLASSES, ITEMS), random.random(ITEMS)
        ids = [f"board{board}/image{item:05d}.jpg" for item in range(ITEMS)]
        task = list(TASKS)[board % len(TASKS)]
        for model in range(MODELS):
            skill = 0.3 + 0.6 * model / MODELS + 0.1 * random.random()
            columns, scores = _outcomes(task, labels, hard, skill, random)
            result = _result(task, board, model, scores)
            path = result.file(folder)
            path.parent.mkdir(parents=True, exist_ok=True)
            stored = {name: value for name, value in asdict(result).items() if name not in {"path", "cached"}}
            samples = Samples(ids, {"label": labels, **columns})
            sha256 = samplefiles.save(path.with_suffix(samplefiles.SUFFIX), samples)
            text = json.dumps({**stored, "samples_sha256": sha256}, indent=1)
            path.write_text(text + "\n", encoding="utf-8")


def _outcomes(
    task: str, labels: np.ndarray, hard: np.ndarray, skill: float, random: np.random.Generator
) -> tuple[dict[str, np.ndarray], dict[str, Score]]:
    columns: dict[str, np.ndarray] = {}
    for at, metrics in TASKS[task].items():
        right = 0.8 * hard + 0.2 * random.random(ITEMS) < skill
        wrong = (labels + random.integers(1, CLASSES, ITEMS)) % CLASSES
        outcomes = {"top1": right, "top5": right | (random.random(ITEMS) < 0.8)}
        columns |= {f"predicted@{at}": np.where(right, labels, wrong)}
        columns |= {f"{metric}@{at}": outcomes[metric] for metric in metrics}
    return columns, {name: _score(name, columns[name]) for name in columns if name.startswith("top")}


def _score(column: str, right: np.ndarray) -> Score:
    value, half = float(right.mean()), 1.96 * float(right.std()) / ITEMS**0.5
    described = {"name": "mean_of", "columns": {"column": column}}
    return Score(value, (value - half, value + half), ITEMS, statistic=described)


def _result(task: str, board: int, model: int, scores: dict[str, Score]) -> Result:
    kind = ("self", "weak", "full")[model % 3]
    card = BackboneCard(f"model{model}", "native", "vit_small", 384, 16, supervision=kind, family="synthetic",
                        parameters=5.0 + model, source="https://example.org/model")  # fmt: skip
    data = DatasetCard(f"set{board}", classes=CLASSES, lengths={"train": 1000, "test": ITEMS})
    fingerprints = {f"set{board}/{split}": digest([board, split]) for split in ("train", "test")}
    fields = asdict(data)
    del fields["class_names"]
    return Result(
        model=card.name,
        task=task,
        dataset=data.name,
        key=digest([board, model]),
        metrics=scores,
        protocol={"preprocessing": "protocol", "resize": 256, "crop": 224, "interpolation": "bicubic",
                  "readout": "pooled", "ks": [20, 10, 100, 200], "temperature": 0.07, "version": 1},
        backbone=asdict(card),
        data={**fields, "num_classes": CLASSES, "fingerprints": fingerprints},
        weights_sha256=digest(model),
        settings={"precision": "fp32", "seed": 0, "skip_corrupt": False, "limit": None},
        versions={"python": "3", "ssleval": "0", "torch": "2", "numpy": "2"},
        hardware={"cpu": "synthetic", "cores": "2", "device": "cpu", "system": "Linux"},
        timings={"extract_seconds": 1.0, "images_per_second": 50.0 + model, "evaluate_seconds": 0.1},
        created=f"2026-01-01T00:{board // 60:02d}:{board % 60:02d}+00:00",
    )  # fmt: skip


def measure(command: tuple[str, ...], folder: Path) -> Spent:
    """Run ``ssleval`` in a process of its own.

    Raises:
        SystemExit: the command failed.
    """
    return spent_by([sys.executable, "-m", "ssleval", *command], folder)


def spent_by(command: list[str], folder: Path) -> Spent:
    """Run a command in a process of its own, with this checkout on its path.

    Raises:
        SystemExit: the command failed.
    """
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, env=_environment(), stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Spent(round(seconds, 2), round(used.ru_utime + used.ru_stime, 2), used.ru_maxrss * unit / 1e9)


def _environment() -> dict[str, str]:
    here = str(Path(__file__).parents[1])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))}


def _forget(paths: Iterator[Path]) -> None:
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def additions() -> float:
    """Return the processor seconds of ten million additions in Python: how fast a core is just now."""
    started, total = time.process_time(), 0
    for number in range(10_000_000):
        total += number
    return round(time.process_time() - started, 2)


def main() -> int:
    """Print what either command took; return 1 where one missed a bar."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cold", action="store_true", help="read the files from the disk, not from memory")
    asked = parser.parse_args()
    with TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "results")
        spent: dict[str, Spent] = {}
        for title, command in COMMANDS.items():
            if asked.cold:
                _forget((folder / "results").glob("*/*"))
            spent[title] = measure(command, folder)
        written = sum(path.stat().st_size for path in (folder / "results").glob("*/*"))
        page = (folder / "report.html").stat().st_size
    found: dict[str, Any] = {"results": MODELS * BOARDS, "cold": asked.cold, "additions_seconds": additions()}
    found |= {"results_mb": round(written / 1e6, 1), "page_mb": round(page / 1e6, 1)}
    found |= {title: asdict(one) for title, one in spent.items()}
    met = all(one.met for one in spent.values())
    print(json.dumps({**found, "bars": {"seconds": BAR_SECONDS, "gb": BAR_GB}, "met": met}, indent=1))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
