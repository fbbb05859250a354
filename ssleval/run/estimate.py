"""What a run would cost, before it starts: images, forward passes, seconds, disk and memory."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ssleval.core import Context
from ssleval.core.devices import usable_device
from ssleval.errors import SslevalError
from ssleval.features import FeatureSource
from ssleval.run.jobs import Job
from ssleval.run.measure import Ahead, Note, Plan, plan_ahead, silent
from ssleval.run.rehearse import rehearse
from ssleval.run.sweep import Sweep, jobs_by_model, load_asked


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
    """Extraction and evaluation, from a few batches and small parts of each task."""
    evaluation_seconds: float
    """Those of them for evaluation: heads, searches, and tasks that run the model themselves."""
    precision: str
    """Of the forward passes."""
    other_precisions: dict[str, float]
    """Seconds of extraction in others, from a batch of each; none where all is stored."""
    disk_bytes: int
    """Features to be written."""
    memory_bytes: int
    """Weights, and one batch of images and of features."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields."""
        return asdict(self)

    def __str__(self) -> str:
        tasks = ", ".join(self.tasks) or "nothing left to measure"
        extraction = self.seconds - self.evaluation_seconds
        others = "".join(
            f"; extraction in {name} {seconds:.0f} s, in {self.precision} {extraction:.0f} s"
            for name, seconds in self.other_precisions.items()
        )
        return (
            f"{self.model}  {self.dataset}  ({tasks}): {self.images:,} images in "
            f"{self.forward_passes:,} forward passes, about {self.seconds:.0f} s "
            f"({self.evaluation_seconds:.0f} s of them after extraction{others}), "
            f"{self.disk_bytes / 1e6:.1f} MB on disk, {self.memory_bytes / 1e6:.0f} MB of memory"
        )


def estimate(
    asked: Sweep, context: Context, folder: Path | None, *, force: bool, note: Note = silent
) -> Iterator[Estimate | SslevalError]:
    """Yield the price of every model and dataset, or the errors and notes that `sweep` would yield.

    Some batches and parts of tasks are run to time them; nothing is stored.
    """
    named = asked.suite is None
    usable_device(context.device)
    for name, jobs in jobs_by_model(asked, note):
        try:
            backbone = load_asked(name, asked, context)
        except SslevalError as error:
            yield error
            continue
        yield from jobs.errors
        for group in jobs.groups:
            for ahead in plan_ahead(backbone, group, context, folder, force=force, note=note, named=named):
                yield from _priced(ahead, group)


def _priced(ahead: Ahead | SslevalError, group: Sequence[Job]) -> Iterator[Estimate | SslevalError]:
    if isinstance(ahead, SslevalError):
        yield ahead
        return
    yield from ahead.errors
    datasets = ", ".join(dict.fromkeys(job.dataset_name for job in group))
    try:
        yield _estimate(ahead.source, datasets, [plan for plan in ahead.plans if plan.key not in ahead.done])
    except SslevalError as error:
        yield error


def _estimate(source: FeatureSource, dataset: str, plans: list[Plan]) -> Estimate:
    prices = source.prices(source.passes(request for plan in plans for request in plan.requests))
    weights = sum(tensor.numel() * tensor.element_size() for tensor in source.backbone.state_dict().values())
    # 8-bit as decoded, then float32 as given and as normalised.
    pixel_bytes = 3 * (1 + 4 + 4)
    squares = [price.batch_size * (price.priced.geometry.fixed_size or 0) ** 2 for price in prices]
    rehearsed = [rehearse(plan, source) for plan in plans]
    evaluation = sum((cost.seconds for cost in rehearsed), 0.0)
    rows = [price.bytes_total * price.batch_size // max(1, len(price.priced.split)) for price in prices]
    return Estimate(
        model=source.backbone.card.name,
        dataset=dataset,
        tasks=tuple(plan.job.name for plan in plans),
        images=sum(price.images_left for price in prices) + round(sum(cost.images for cost in rehearsed)),
        forward_passes=sum(price.forward_passes for price in prices)
        + round(sum(cost.forwards for cost in rehearsed)),
        seconds=round(source.calibrate(prices) + evaluation, 2),
        evaluation_seconds=round(evaluation, 2),
        precision=source.context.precision,
        other_precisions={
            name: round(seconds, 2) for name, seconds in source.in_other_precisions(prices).items()
        },
        disk_bytes=sum(price.bytes_left for price in prices),
        memory_bytes=weights + max(squares, default=0) * pixel_bytes + max(rows, default=0),
    )
