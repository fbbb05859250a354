"""Measure what the head of each task's page states: `python -m benchmarks.task_pages CACHE [TASK ...]`.

Each head's command runs alone, with an empty feature store and the rendered pictures of CACHE. Its processor
time and leading score are written to the page; what took most of it is printed, and put into words by hand.
Processor time, of one thread, is nearly the same on a busy machine; the time that passes is not.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from tempfile import TemporaryDirectory

PAGES = Path(__file__).parents[1] / "docs" / "tasks"
HEAD = re.compile(
    r"```bash\n(ssleval run (?:[^\n]|(?<=\\)\n)*)\n```\n\n"
    r"(\| processor.*\n.*\n)\|[^|]*\|([^|]*)\|[^|]*\|\n"
)


def main() -> None:
    """Measure the tasks that are named, or all whose data come with the package."""
    cache, *names = sys.argv[1:]
    for page in sorted(PAGES.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        head = HEAD.search(text)
        if head and "--model dino_scenes" in head[1] and (not names or page.stem in names):
            cost, score, parts = measured(head[1], Path(cache))
            print(f"{page.stem}: {cost:.1f} s; of the time that passed: {parts}; {score}", flush=True)
            row = f"```bash\n{head[1]}\n```\n\n{head[2]}| {max(1, round(cost))} s |{head[3]}| {score} |\n"
            page.write_text(text.replace(head[0], row), encoding="utf-8")


def measured(command: str, cache: Path) -> tuple[float, str, str]:
    """Return a command's processor time in seconds, its leading score, and where the time went."""
    with TemporaryDirectory() as scratch:
        Path(scratch, "cache").mkdir()
        for rendered in cache.glob("scenes@*"):
            Path(scratch, "cache", rendered.name).symlink_to(rendered.resolve())
        places = ["--cache", f"{scratch}/cache", "--results", f"{scratch}/results"]
        words = shlex.split(command.replace("\\\n", " "))[1:]
        before = getrusage(RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-m", "ssleval", *words, *places],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        after = getrusage(RUSAGE_CHILDREN)
        (result,) = Path(scratch, "results").rglob("*.json")
        timings = json.loads(result.read_text(encoding="utf-8"))["timings"]
    name, score = done.stdout.splitlines()[1].split(maxsplit=1)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    parts = f"extraction {timings['extract_seconds']:.0f}, task {timings['evaluate_seconds']:.0f}"
    # The mark says that the network was trained on such pictures, as docs/training.md does for all pages.
    return seconds, f"`{name}` {score.removesuffix('†')}", parts


if __name__ == "__main__":
    main()
