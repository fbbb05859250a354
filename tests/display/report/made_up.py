"""Results of made-up models on made-up boards, for tests, pictures and measurements of the page."""

from dataclasses import asdict
from pathlib import Path

import numpy as np

from ssleval.core import BackboneCard, Metric, Samples, digest
from ssleval.metrics.intervals import estimates
from ssleval.metrics.recorded import describe
from ssleval.metrics.stats import mean_of
from ssleval.results import Result, Score, record

BOARDS = (
    ("knn", "cifar100", "top1"),
    ("linear", "folder:/srv/someone/data/oxford_pets", "top1"),
    ("segmentation", "voc2012", "miou"),
    ("depth", "nyuv2", "rmse"),
    ("retrieval", "roxford5k", "map"),
    ("correspondence", "spair71k", "pck"),
    ("fewshot", "cub200", "top1"),
    ("video_segmentation", "davis2017", "jf"),
    ("corruptions", "imagenet_c", "drop"),
    ("zeroshot", "food101", "top1"),
)
"""Task, dataset and metric; more boards are of these tasks on further datasets."""
KINDS = ("self", "weak", "self", "full")
SIZES = ((5.7, 1.3, "t16"), (22.1, 4.6, "s16"), (86.6, 17.6, "b16"), (304.4, 61.6, "l14"))
"""Millions of parameters, GFLOPs an image, and how a name says so."""
FAMILIES = {"self": ("aurora", "basalt", "cobalt"), "weak": ("delta", "ember"), "full": ("fjord", "garnet")}
CLASSES = 20
ERRORS = ("rmse", "drop")


def fill(folder: Path, models: int = 12, boards: int = 6, items: int = 400, lacking: int = 1) -> None:
    """Write results below ``folder``; the last ``lacking`` models have every second board only."""
    random = np.random.default_rng(1)
    cards = [_card(place) for place in range(models)]
    skills = 0.45 + 0.3 * random.random((models, 1)) + 0.12 * random.random((models, boards))
    for board in range(boards):
        task, dataset, metric = BOARDS[board % len(BOARDS)]
        dataset += f"_{board // len(BOARDS) + 1}" if board >= len(BOARDS) else ""
        labels, hard = random.integers(0, CLASSES, items), random.random(items)
        for place, card in enumerate(cards):
            if place >= models - lacking and board % 2:
                continue
            noise = 0.7 * hard + 0.3 * random.random(items)
            right = noise < skills[place, board]
            columns = {metric: right if metric not in ERRORS else 0.2 + 0.6 * noise / skills[place, board]}
            if metric == "top1":
                wrong = (labels + random.integers(1, CLASSES, items)) % CLASSES
                columns |= {"label": labels, "predicted": np.where(right, labels, wrong)}
            ids = [f"{dataset.rpartition('/')[2]}/{item:05d}.jpg" for item in range(items)]
            record.write(folder, _result(card, task, dataset, metric, columns), Samples(ids, columns))


def _card(place: int) -> BackboneCard:
    kind, (parameters, _, size) = KINDS[place % len(KINDS)], SIZES[(place + place // 4) % len(SIZES)]
    family = FAMILIES[kind][place // 2 % len(FAMILIES[kind])]
    name = f"{family}_vit{size}" + (f"_v{place // 8 + 1}" if place >= 8 else "")
    return BackboneCard(
        name, "native", "vit_small", 384, 16, supervision=kind, family=family, parameters=parameters
    )


def _result(card: BackboneCard, task: str, dataset: str, name: str, columns: dict[str, np.ndarray]) -> Result:
    metric, samples = (
        Metric(name, mean_of(name), name not in ERRORS),
        Samples([str(item) for item in range(len(columns[name]))], columns),
    )
    found = estimates([metric], samples)[name]
    unit = "metre" if name == "rmse" else "fraction"
    score = Score(found.value, (found.low, found.high), len(columns[name]), unit, name not in ERRORS,
                  describe(metric.statistic))  # fmt: skip
    flops = next(flops for parameters, flops, _ in SIZES if parameters == card.parameters)
    return Result(
        model=card.name,
        task=task,
        dataset=dataset,
        key=digest([card.name, task, dataset]),
        metrics={name: score},
        protocol={"readout": "pooled", "version": 1},
        backbone=asdict(card),
        data={"name": dataset, "test_split": "test", "fingerprints": {f"{dataset}/test": digest(dataset)}},
        weights_sha256=digest(card.name),
        settings={"precision": "fp32", "seed": 0, "limit": None, "skip_corrupt": False},
        timings={"images_per_second": 2000 / flops},
        cost={"flops_per_image": flops * 1e9},
        hardware={"cpu": "made up", "cores": "8"},
        created="2026-01-01T00:00:00",
    )
