"""What a sweep adds to listing its images: ``python -m benchmarks.large_folder``.

A ``folder:`` of the shape of ImageNet (1,000 classes, 1,281,167 training and 50,000 test images, hard links
of a few files) is made in a temporary folder. Results of five tasks are put beside it under the keys that
such a sweep gives them, so that ``ssleval run`` has nothing to extract and nothing to fit: what is left is to
open the dataset, to resolve and key five tasks and to find their results. Its processor time is compared, in
turns, with that of a process that opens the dataset and both splits once, after the same imports. Prints both
as JSON; exit 1 where the ratio or the peak memory misses its bar. ``--images N`` makes a smaller folder.
"""

import argparse
import json
import os
import statistics
import sys
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from benchmarks.ten_thousand import Spent, measure, spent_by
from ssleval.backbones.zoo import load
from ssleval.core import Context, Samples
from ssleval.features import FeatureSource
from ssleval.results import Result, Score, write
from ssleval.run.measure import Plan, _data, plan_all
from ssleval.run.sweep import Sweep, jobs_of

CLASSES, TRAIN, TEST = 1_000, 1_281_167, 50_000
TASKS = "knn,linear,logreg,fewshot,spectrum"
MODEL = "random:vit_tiny"
SETTINGS = ("linear.inputs=pooled",)
LINKS = 20_000
"""Names of one file: file systems bound them."""
TURNS = 3
BAR_RATIO, BAR_GB = 1.5, 0.6
OPENING = """
import sys
import ssleval.features, ssleval.run.sweep
from ssleval.backbones.zoo import load
from ssleval.core import DatasetOptions
from ssleval.datasets.catalog import open_dataset
load(sys.argv[1])
dataset = open_dataset(sys.argv[2], DatasetOptions())
print(len(dataset.split("train")), len(dataset.split("test")))
"""


def make_folder(folder: Path, train: int) -> None:
    """Link ``train`` training images and as many test images as there are classes or more into classes."""
    number = 0
    for split, count in (("train", train), ("test", max(CLASSES, TEST * train // TRAIN))):
        for label in range(CLASSES):
            place = folder / split / f"n{label:08d}"
            place.mkdir(parents=True)
            for item in range(label, count, CLASSES):
                source = folder.with_name(f"source{number // LINKS}.png")
                if number % LINKS == 0:
                    Image.fromarray(np.full((8, 8, 3), number // LINKS % 255, np.uint8)).save(source)
                os.link(source, place / f"n{label:08d}_{item:07d}.JPEG")
                number += 1


def store(folder: Path, results: Path) -> None:
    """Write a result under the key of every task, as if each had been measured."""
    asked = Sweep(models=MODEL, tasks=TASKS, datasets=f"folder:{folder}", settings=SETTINGS)
    source = FeatureSource(load(MODEL), Context(progress=False))
    for group in jobs_of(asked).applicable(print):
        for plan in plan_all(source, group)[0]:
            write(results, _result(source, plan), Samples(["0"], {"right": np.ones(1)}))


def _result(source: FeatureSource, plan: Plan) -> Result:
    job = plan.job
    return Result(
        model=source.backbone.card.name,
        task=job.name,
        dataset=job.dataset_name,
        key=plan.key,
        metrics={job.task.metrics[0].name: Score(1.0, (1.0, 1.0), 1)},
        protocol={},
        backbone=asdict(source.backbone.card),
        data=_data(plan),
        weights_sha256="",
        settings={},
    )


def main() -> int:
    """Print what opening and running took; return 1 where a bar is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=TRAIN, help="training images")
    count = parser.parse_args().images
    with TemporaryDirectory() as name:
        base = Path(name)
        folder = base / "images"
        make_folder(folder, count)
        store(folder, base / "results")
        run = (
            "run",
            "--model",
            MODEL,
            "--task",
            TASKS,
            "--dataset",
            f"folder:{folder}",
            "--set",
            SETTINGS[0],
        )
        opened: list[Spent] = []
        swept: list[Spent] = []
        for _ in range(TURNS):
            opened.append(spent_by([sys.executable, "-c", OPENING, MODEL, f"folder:{folder}"], base))
            swept.append(measure(run, base))
        alone = spent_by([sys.executable, "-c", "import torch"], base)
    ratio = statistics.median(
        sweep.cpu_seconds / once.cpu_seconds for sweep, once in zip(swept, opened, strict=True)
    )
    peak = max(spent.peak_gb for spent in swept)
    met = ratio <= BAR_RATIO and peak <= BAR_GB
    figures = {
        "images": count,
        "import_torch_gb": alone.peak_gb,
        "opened": [asdict(one) for one in opened],
        "run": [asdict(one) for one in swept],
    }
    bars = {"ratio": BAR_RATIO, "gb": BAR_GB}
    print(
        json.dumps({**figures, "ratio": round(ratio, 3), "peak_gb": peak, "bars": bars, "met": met}, indent=1)
    )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
