"""Render every split of `scenes` and write the hashes that pin its pixels.

    python -m benchmarks.scenes_golden CACHE [--jobs N]

For a new version of `scenes` only: raise `VERSION` first. Prints images per second of each split.
"""

import argparse
import json
import time
from pathlib import Path

import ssleval.datasets.scenes
from ssleval.datasets.scenes.items import SPLITS
from ssleval.datasets.scenes.store import VERSION, render_split


def main() -> None:
    """Render, hash, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cache", type=Path)
    parser.add_argument("--jobs", type=int)
    asked = parser.parse_args()
    found = dict[str, str]()
    for split, recipe in SPLITS.items():
        start = time.perf_counter()
        folder = asked.cache / VERSION / split
        found[split] = render_split(folder, split, recipe.length, asked.jobs)
        manifest = {"version": VERSION, "sha256": found[split]}
        (folder / "manifest.json").write_text(json.dumps(manifest) + "\n", encoding="utf-8")
        print(
            f"{split}: {found[split][:12]}, {recipe.length / (time.perf_counter() - start):.0f} images/s",
            flush=True,
        )
    path = Path(ssleval.datasets.scenes.__file__).parent / "golden.json"
    path.write_text(json.dumps({VERSION: found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
