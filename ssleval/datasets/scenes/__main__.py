"""Render some items of a split: ``python -m ssleval.datasets.scenes FOLDER SPLIT FIRST LAST``."""

import sys
from pathlib import Path

from ssleval.datasets.scenes.store import fill

if __name__ == "__main__":
    folder, split, first, last = sys.argv[1:]
    fill(Path(folder), split, int(first), int(last))
