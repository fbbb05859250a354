"""A sweep in jobs, one of which is killed in the middle of a pass: `python -m benchmarks.jobs FOLDER`.

Three models, three tasks, two jobs at once. The others must finish, the failure must be named, the
same command must extract only what is missing, and all scores must be those of one process.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

MODELS = ("pixels", "random:dino_scenes", "dino_scenes")
TASKS = ("knn", "logreg", "spectrum")
SETTINGS = (
    "knn.ks=5", "logreg.count=2", "spectrum.first=1", "spectrum.last=9",
    *(f"{task}.preprocessing=card" for task in TASKS),
)  # fmt: skip
SWEEP = (
    "run", "--model", ",".join(MODELS), "--task", ",".join(TASKS), "--dataset", "digits", "--limit", "200",
    "--batch-size", "4", *(f"--set={text}" for text in SETTINGS),
)  # fmt: skip
KILLED = MODELS[1]


def main() -> None:
    """Run all, and fail where something is not as it must be."""
    folder = Path(sys.argv[1])
    alone, seconds, _ = ssleval(folder / "alone")
    print(f"one process: {len(alone)} results, {seconds:.0f} s")
    jobs = ("--launcher", "submitit:local", "--launch", "array_parallelism=2")
    part, started = part_of(KILLED), time.perf_counter()
    with subprocess.Popen(command(folder / "jobs", *jobs), **PIPES) as running:
        kill_in_a_pass(folder / "jobs" / "cache", part)
        out, err = running.communicate()
    first = results(out)
    failures = [line for line in err.splitlines() if "the job failed" in line]
    code = running.returncode
    print(f"jobs, one killed: {len(first)} results, exit code {code}, {took(started)}")
    print(failures[0])
    check(code == 2 and len(failures) == 1 and KILLED in failures[0])
    check(len(first) == 6 and not any(row["model"] == KILLED for row in first.values()))
    left = priced(folder / "jobs")
    again, seconds, err = ssleval(folder / "jobs", *jobs)
    logs = "".join(path.read_text() for path in latest(folder / "jobs").glob("*.err"))
    (said,) = re.findall(rf"{KILLED}: ([\d,]+) images in ([\d,]+) forward passes", logs)
    whole = max(int(row["timings"]["images_extracted"]) for row in alone.values() if row["model"] == KILLED)
    print(
        f"again: {len(again)} results, {seconds:.0f} s; {KILLED}: {said[0]} of {whole} images in "
        f"{said[1]} forward passes"
    )
    # Batches that were written and not flushed are priced as missing, and need not be extracted again.
    check(int(said[0]) <= left and int(said[0]) < whole)
    check(len(list(latest(folder / "jobs").glob("*submitted.pkl"))) == 1)
    check(metrics(alone) == metrics(again))
    print("all scores are those of one process, to the digit")
    check(all(again[key]["created"] == row["created"] for key, row in first.items()))
    _, seconds, err = ssleval(folder / "jobs", *jobs)
    check("to run" not in err)
    print(f"a third time: nothing is submitted, {seconds:.0f} s")


PIPES: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}


def command(folder: Path, *more: str) -> list[str]:
    """Return the command line whose cache and results are in ``folder``."""
    places = ("--cache", str(folder / "cache"), "--results", str(folder / "results"))
    return [sys.executable, "-m", "ssleval", *SWEEP, *places, "--json", *more]


def ssleval(folder: Path, *more: str) -> tuple[dict[str, Any], float, str]:
    """Return the results by key, the seconds, and what was said."""
    started = time.perf_counter()
    done = subprocess.run(command(folder, *more), check=False, **PIPES)
    check(done.returncode == 0, done.stderr)
    return results(done.stdout), time.perf_counter() - started, done.stderr


def results(out: str) -> dict[str, Any]:
    """Return printed results by key."""
    rows = [json.loads(line) for line in out.splitlines()]
    check(len({row["key"] for row in rows}) == len(rows))
    return {row["key"]: row for row in rows}


def metrics(rows: dict[str, Any]) -> dict[str, Any]:
    """Return the scores by key."""
    return {key: row["metrics"] for key, row in rows.items()}


def priced(folder: Path) -> int:
    """Return the images that a run would still extract."""
    done = subprocess.run(command(folder, "--dry-run", "--quiet"), check=False, **PIPES)
    return sum(json.loads(line)["images"] for line in done.stdout.splitlines())


def latest(folder: Path) -> Path:
    """Return the folder of the logs of the last call."""
    return max((folder / "results" / "_jobs").iterdir())


def kill_in_a_pass(cache: Path, part: str) -> None:
    """Kill the command that extracts for one model, once some of its batches are stored."""
    from ssleval.features.cache import info

    while True:
        time.sleep(0.05)
        try:
            entries = [entry for entry in info(cache) if entry.model == KILLED]
        except OSError:  # a pass that begins
            continue
        if any(0.2 < share < 0.9 for entry in entries for share in entry.readouts.values()):
            break
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        words = process.read_bytes().split(b"\0")
        if (
            f"--part={part}".encode() in words
            and b"ssleval" in words
            and str(cache).encode() in b" ".join(words)
        ):
            os.kill(int(process.parent.name), signal.SIGKILL)
            print(f"killed {KILLED} in its pass over {entries[0].dataset}/{entries[0].split}")


def part_of(model: str) -> str:
    """Return which part a model is."""
    from ssleval.run.parts import shares, units_of
    from ssleval.run.sweep import Sweep, jobs_of

    parts = shares(units_of(MODELS, jobs_of(Sweep("", datasets="digits")).groups), len(MODELS))
    (number,) = [number for number, units in enumerate(parts, start=1) if units[0].model == model]
    return f"{number}/{len(MODELS)}"


def took(started: float) -> str:
    """Return the seconds since."""
    return f"{time.perf_counter() - started:.0f} s"


def check(right: bool, told: str = "") -> None:
    """Stop where something is wrong."""
    if not right:
        raise SystemExit(f"not as it must be {told}")


if __name__ == "__main__":
    main()
