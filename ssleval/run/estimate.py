"""What a run would cost, before it starts: images, forward passes, seconds, disk and memory."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ssleval.core import Context, FeatureRequest
from ssleval.errors import NotApplicableError
from ssleval.features import FeatureSource
from ssleval.run.measure import is_stored
from ssleval.run.sweep import Sweep, applicable_jobs, batches, load_asked, models


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


def estimate(asked: Sweep, context: Context, folder: Path | None, *, force: bool) -> Iterator[Estimate]:
    """Yield the price of every model and dataset; some batches are run to time them, nothing is stored."""
    groups = batches(asked)
    for name in models(asked):
        source = FeatureSource(load_asked(name, asked, context), context)
        for measurements in groups:
            requests: list[FeatureRequest] = []
            left: list[str] = []
            for job in applicable_jobs(measurements, asked):
                try:
                    job.task.check(source.backbone)
                    wanted = job.task.requests(job.dataset)
                    source.check(wanted)
                except NotApplicableError:
                    continue
                if force or folder is None or not is_stored(source, job, wanted, folder):
                    requests += wanted
                    left.append(job.name)
            datasets = ", ".join(dict.fromkeys(one.dataset for one in measurements))
            yield _estimate(source, datasets, tuple(left), requests)


def _estimate(
    source: FeatureSource, dataset: str, tasks: tuple[str, ...], requests: list[FeatureRequest]
) -> Estimate:
    plans = source.plan(requests)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in source.backbone.state_dict().values())
    batch = max((_batch_bytes(plan.batch_size, plan.geometry.fixed_size) for plan in plans), default=0)
    rows = max((plan.bytes_total * plan.batch_size // max(1, plan.images) for plan in plans), default=0)
    return Estimate(
        model=source.backbone.card.name,
        dataset=dataset,
        tasks=tasks,
        images=sum(plan.images_left for plan in plans),
        forward_passes=sum(plan.forward_passes for plan in plans),
        seconds=round(source.calibrate(requests), 2),
        disk_bytes=sum(plan.bytes_left for plan in plans),
        memory_bytes=weights + batch + rows,
    )


def _batch_bytes(images: int, side: int | None) -> int:
    # 8-bit as decoded, then float32 as given and as normalised.
    return images * 3 * (side or 0) ** 2 * (1 + 4 + 4)
