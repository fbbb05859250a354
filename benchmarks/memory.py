"""Peak memory of `linear` and `logreg` on a store of a million images: ``python -m benchmarks.memory``.

A float16 array [1,000,000 x 384] of random features is written to a temporary folder, 0.77 GB, and each task
runs on it in a process of its own with few iterations and few values of C: what is held at once does not
depend on how many there are. Exit 1 where a peak is above the bar. Resident pages of the array itself count,
although the system may take them back; the count of classes decides what logistic regression keeps of
probabilities, at most 1 GiB.
"""

import multiprocessing
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import numpy as np

from ssleval.core import BackboneCard, Context, Dataset, DatasetCard, FeatureRequest, FeatureTable, Split
from ssleval.core.backbone import Backbone
from ssleval.core.task import Inputs, Task
from ssleval.tasks.linear import Linear
from ssleval.tasks.logreg import Logreg

IMAGES, SCORED, CHANNELS, CLASSES = 1_000_000, 10_000, 384, 100
BAR_GB = 8.0
TASKS: dict[str, Task] = {
    "linear": Linear(inputs="pooled", iterations=20, batch_size=1024),
    "logreg": Logreg(smallest=1e-5, largest=1e-4, count=2, tolerance=0.1),
}


@dataclass
class Store:
    """The features on disk, as a task gets them."""

    folder: Path

    @property
    def backbone(self) -> Backbone:
        """A card is all that the tasks ask the model for."""
        return cast("Backbone", _Described(BackboneCard("m", "none", "m", CHANNELS, 16)))

    def load(self, request: FeatureRequest) -> FeatureTable:
        """Map the array; the scored split is its first rows."""
        count = request.dataset.card.lengths[request.split]
        array = np.load(self.folder / "features.npy", mmap_mode="r")[:count]
        rows = np.arange(count)
        return FeatureTable(range(count), rows % CLASSES, dict.fromkeys(request.readouts, array), rows)  # pyright: ignore[reportArgumentType]


@dataclass
class _Described:
    card: BackboneCard


def write(folder: Path) -> None:
    """Write the features in blocks, so that this takes no memory either."""
    random = np.random.default_rng(0)
    array = np.lib.format.open_memmap(
        folder / "features.npy", mode="w+", dtype=np.float16, shape=(IMAGES, CHANNELS)
    )
    for start in range(0, IMAGES, 50_000):
        array[start : start + 50_000] = random.standard_normal((50_000, CHANNELS), np.float32)
    array.flush()


def _closed(split: str) -> Split:
    raise AssertionError(f"{split} was opened")


def measure(name: str, folder: Path) -> tuple[float, float]:
    """Run one task; return the peak resident memory of this process in GB, and seconds."""
    lengths = {"train": IMAGES, "test": SCORED}
    names = tuple(f"class {number}" for number in range(CLASSES))
    data = Dataset(DatasetCard("random", class_names=names, lengths=lengths), _closed)
    started = time.perf_counter()
    task = TASKS[name].resolved(data)
    task.evaluate(Inputs(Store(folder), data, task.requests(data), Context(progress=False)))
    seconds = time.perf_counter() - started
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9, seconds


def main() -> int:
    """Print the peak of every task; return 1 where one is above the bar."""
    met = True
    with TemporaryDirectory() as folder:
        write(Path(folder))
        for name in TASKS:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                peak, seconds = pool.apply(measure, (name, Path(folder)))
            met &= peak <= BAR_GB
            print(
                f"{name}: {IMAGES:,} x {CHANNELS}, {CLASSES} classes: peak {peak:.2f} GB in {seconds:.0f} s"
            )
    print("bar met" if met else f"above the bar of {BAR_GB:g} GB")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
