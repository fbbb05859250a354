"""What a run would cost, before it starts: images, forward passes, seconds, disk and memory."""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ssleval.core import Context
from ssleval.core.devices import usable_device
from ssleval.errors import NotApplicableError
from ssleval.features import FeatureSource
from ssleval.run.measure import Note, Plan, find_stored, plan_all, silent
from ssleval.run.sweep import Sweep, jobs_of, load_asked, models


@dataclass(frozen=True, slots=True)
class Estimate:
    """The price of one model on the pictures of one dataset, for all tasks together."""

    model: str
    dataset: str
    """Several where they show the same pictures."""
    tasks: tuple[str, ...]
    """Those still to be measured; results stored already cost nothing."""
    images: int
    """Images to decode and send through the model."""
    forward_passes: int
    """Batches."""
    seconds: float
    """Extraction, from a calibration of a few batches; heads come on top."""
    disk_bytes: int
    """Features to be written."""
    memory_bytes: int
    """Weights, and one batch of images and of features."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields."""
        return asdict(self)

    def __str__(self) -> str:
        tasks = ", ".join(self.tasks) or "nothing left to measure"
        return (
            f"{self.model}  {self.dataset}  ({tasks}): {self.images:,} images in "
            f"{self.forward_passes:,} forward passes, about {self.seconds:.0f} s, "
            f"{self.disk_bytes / 1e6:.1f} MB on disk, {self.memory_bytes / 1e6:.0f} MB of memory"
        )


def estimate(
    asked: Sweep, context: Context, folder: Path | None, *, force: bool, note: Note = silent
) -> Iterator[Estimate]:
    """Yield the price of every model and dataset; some batches are run to time them, nothing is stored.

    Tasks without a meaning for a model or a dataset are said to ``note``.
    """
    names = models(asked)
    usable_device(context.device)
    context = replace(context, since=time.time() if force else 0.0)
    groups = jobs_of(asked).applicable(note)
    for name in names:
        source = FeatureSource(load_asked(name, asked, context), context)
        for group in groups:
            plans, errors = plan_all(source, group, note)
            for error in errors:
                if not isinstance(error, NotApplicableError):
                    raise error
            left = [
                plan for plan in plans if force or folder is None or find_stored(folder, source, plan) is None
            ]
            datasets = ", ".join(dict.fromkeys(job.dataset_name for job in group))
            yield _estimate(source, datasets, left)


def _estimate(source: FeatureSource, dataset: str, plans: list[Plan]) -> Estimate:
    prices = source.prices(source.passes(request for plan in plans for request in plan.requests))
    weights = sum(tensor.numel() * tensor.element_size() for tensor in source.backbone.state_dict().values())
    # 8-bit as decoded, then float32 as given and as normalised.
    pixel_bytes = 3 * (1 + 4 + 4)
    squares = [price.batch_size * (price.priced.geometry.fixed_size or 0) ** 2 for price in prices]
    rows = [price.bytes_total * price.batch_size // max(1, len(price.priced.split)) for price in prices]
    return Estimate(
        model=source.backbone.card.name,
        dataset=dataset,
        tasks=tuple(plan.job.name for plan in plans),
        images=sum(price.images_left for price in prices),
        forward_passes=sum(price.forward_passes for price in prices),
        seconds=round(source.calibrate(prices), 2),
        disk_bytes=sum(price.bytes_left for price in prices),
        memory_bytes=weights + max(squares, default=0) * pixel_bytes + max(rows, default=0),
    )
