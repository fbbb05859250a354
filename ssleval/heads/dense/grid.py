"""Linear heads on patch grids: bilinear sampling at pixels, the training loop, and readers of features.

A linear head commutes with bilinear upsampling, so the value at a pixel depends only on the four patches
around it. Training therefore draws some pixels of every image and computes the loss there: an unbiased
estimate of the published loss over all pixels, at a hundredth of its cost.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from ssleval.core import Context, Dataset, FeatureTable, Readout
from ssleval.core.batches import batches
from ssleval.core.settings import Count, Natural, NonNegative, Positive, check
from ssleval.errors import ConfigError, ContractError

H = TypeVar("H", bound=nn.Module)
"""A head: patch grids to outputs ``[b c h w]``, on the grid of the patches or a finer one."""

Grids: TypeAlias = Callable[[Int[np.ndarray, " b"]], Float[Tensor, "b h w d"]]
"""Reads float32 patch grids of images by index, from wherever they are stored."""

Targets: TypeAlias = Callable[[int], Shaped[np.ndarray, "H W *c"]]
"""Loads the target of one image, at its own resolution: a value or a vector for every pixel."""

Examples: TypeAlias = tuple[Grids, Targets, int]
"""What heads are fitted on: grids, targets and how many images there are."""

Rate: TypeAlias = Callable[[int, int, int], float]
"""The fraction of the learning rate at an iteration from zero, of so many, with a warm-up of so many."""

TARGETS_HELD = 1 << 30
"""Bytes of decoded targets kept in memory, so that many passes decode each file only once where it fits."""


@dataclass(frozen=True, slots=True)
class Fit:
    """Optimisation of a dense head: AdamW on batches of images."""

    iterations: Count
    batch_size: Count
    learning_rate: Positive
    weight_decay: NonNegative
    pixels: Natural = 0
    """Pixels drawn with replacement from every image, anew every time it is seen; 0: the loss takes all."""
    clip: NonNegative = 0.0
    """Largest gradient norm; 0 does not clip."""
    warmup: Natural = 0
    """Iterations of linear warm-up, counted in ``iterations``."""

    def __post_init__(self) -> None:
        check(self, "dense head")

    @classmethod
    def of(cls, task: Any) -> "Fit":
        """Return the fields that a task names alike; its ``warmup`` is a fraction of the iterations."""
        own = {field.name: getattr(task, field.name) for field in fields(cls) if hasattr(task, field.name)}
        return cls(**{**own, "warmup": round(task.warmup * task.iterations)})


class LinearHead(nn.Module):
    """A 1x1 convolution, behind a batch normalisation of the channels where the protocol has one.

    Source:
        BNHead of dinov2/eval/segmentation: weights from N(0, 0.01), biases zero. dinov2/eval/depth leaves
        the initialisation to torch; here both heads are initialised like the former.
    """

    def __init__(self, channels: int, outputs: int, *, normalise: bool, seed: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(channels) if normalise else nn.Identity()
        self.linear = nn.Linear(channels, outputs)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.linear.weight.copy_(0.01 * torch.randn(outputs, channels, generator=generator))
            self.linear.bias.zero_()

    def forward(self, grids: Float[Tensor, "b h w d"]) -> Float[Tensor, "b c h w"]:
        """Return the outputs of every patch, channels first."""
        flat = self.linear(self.norm(grids.flatten(0, 2)))
        return flat.view(*grids.shape[:3], -1).permute(0, 3, 1, 2)


def at_points(grid: Float[Tensor, "b c h w"], points: Float[Tensor, "b k 2"]) -> Float[Tensor, "b c k"]:
    """Return ``grid`` interpolated bilinearly at points.

    Points are (x, y) in fractions of the image: the centre of column j of W is at ``(j + 0.5) / W``.
    Values equal those of `resized`, to any size, at the centres of its pixels.
    """
    batch, channels, height, width = grid.shape
    near, far, (right, down) = surrounding(points, height, width)
    (left, top), (across, below) = near.long().unbind(2), far.long().unbind(2)
    first = torch.arange(batch, device=points.device).view(-1, 1) * (height * width)
    cells = torch.stack([first + y * width + x for y in (top, below) for x in (left, across)], dim=2)
    weights = torch.stack([y * x for y in (1 - down, down) for x in (1 - right, right)], dim=2)
    # A weighted sum of channels-last rows: several times as fast as grid_sample, whose channels lie apart.
    rows = grid.permute(0, 2, 3, 1).reshape(-1, channels)
    values = nn.functional.embedding_bag(
        cells.view(-1, 4), rows, per_sample_weights=weights.view(-1, 4).to(rows.dtype), mode="sum"
    )
    return values.view(batch, -1, channels).transpose(1, 2)


def surrounding(
    points: Float[Tensor, "b k 2"], height: int, width: int
) -> tuple[Float[Tensor, "b k 2"], Float[Tensor, "b k 2"], tuple[Float[Tensor, "b k"], ...]]:
    """Return the upper left and the lower right cell (x, y) around each point, and its offset (right, down).

    Offsets are fractions of a cell. Beyond the outermost centres, values repeat.
    """
    sides = torch.tensor([width, height], device=points.device)
    place = (points * sides - 0.5).clamp(min=0).minimum(sides - 1)
    near = place.floor()
    return near, (near + 1).minimum(sides - 1), (place - near).unbind(2)


def resized(grid: Float[Tensor, "b c h w"], size: tuple[int, int]) -> Float[Tensor, "b c H W"]:
    """Return ``grid`` upsampled bilinearly to ``size`` (H, W), corners not aligned."""
    return nn.functional.interpolate(grid, size, mode="bilinear", align_corners=False)


def channels_of(grids: Grids) -> int:
    """Return the channels of a patch, as the first image has them."""
    return grids(np.zeros(1, dtype=np.int64)).shape[-1]


def drawn(
    targets: Sequence[Shaped[np.ndarray, "H W *c"]], pixels: int, generator: np.random.Generator
) -> tuple[Float[Tensor, "b k 2"], Shaped[Tensor, "b k *c"]]:
    """Draw pixels uniformly from every target; return their points (as for `at_points`) and their values."""
    points = np.empty((len(targets), pixels, 2), dtype=np.float32)
    values: list[Shaped[np.ndarray, "k ..."]] = []
    for row, target in enumerate(targets):
        height, width = target.shape[:2]
        rows, columns = np.divmod(generator.integers(0, height * width, pixels), width)
        points[row] = np.stack([(columns + 0.5) / width, (rows + 0.5) / height], axis=1)
        values.append(target[rows, columns])
    return torch.from_numpy(points), torch.from_numpy(np.stack(values))


def warmed(iteration: int, warmup: int, ratio: float) -> float:
    """Return mmcv's factor of linear warm-up: from ``ratio`` to 1 within ``warmup`` iterations."""
    return 1 - max(0.0, 1 - iteration / warmup) * (1 - ratio) if warmup else 1.0


def fit(
    head: H,
    examples: Examples,
    settings: Fit,
    context: Context,
    *,
    rate: Rate,
    loss: Callable[[Tensor, Tensor, Tensor, int], Tensor],
) -> H:
    """Train ``head`` and return it in evaluation mode.

    ``loss`` returns a scalar for outputs ``[b c h w]``, points ``[b k 2]``, target values ``[b k]`` (or
    ``[b k c]``) and the iteration.
    """
    if not settings.pixels:
        raise ConfigError("dense head: no pixels to be drawn from an image; it needs at least one")

    def losses() -> Iterator[Tensor]:
        generator, device = np.random.default_rng([context.seed, 1]), context.device
        grids, targets, count = examples
        stream = batches(count, settings.batch_size, settings.iterations, context.seed)
        for iteration, rows in enumerate(stream):
            points, values = drawn([targets(int(row)) for row in rows], settings.pixels, generator)
            yield loss(head(grids(rows)), points.to(device), values.to(device), iteration)

    return descend(head, losses(), settings, rate, context.device)


def descend(head: H, losses: Iterable[Tensor], settings: Fit, rate: Rate, device: str) -> H:
    """Take one AdamW step for each of ``losses``, an iterator that computes them one by one.

    Raises:
        ContractError: the weights are no longer finite.
    """
    head.to(device).train()
    parameters: Any = list(head.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    for iteration, loss in enumerate(losses):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * rate(iteration, settings.iterations, settings.warmup)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if settings.clip:
            nn.utils.clip_grad_norm_(parameters, settings.clip)
        optimizer.step()
    if not all(bool(parameter.isfinite().all()) for parameter in parameters):
        raise ContractError("dense head: weights are not finite; are the features?")
    return head.eval()


def grids_of(table: FeatureTable, readouts: Sequence[Readout], device: str) -> Grids:
    """Return a reader of patch grids from memory-mapped arrays, channels of all readouts concatenated.

    A vector per image, such as a class token, is repeated at every patch.
    """
    arrays = [table[readout] for readout in readouts]
    side = next(array.shape[1:3] for array in arrays if array.ndim == 4)

    def read(rows: Int[np.ndarray, " b"]) -> Float[Tensor, "b h w d"]:
        parts = [torch.from_numpy(np.asarray(array[rows])).to(device, torch.float32) for array in arrays]
        maps = [part if part.ndim == 4 else part[:, None, None].expand(-1, *side, -1) for part in parts]
        return maps[0] if len(maps) == 1 else torch.cat(maps, dim=3)

    return read


def targets_of(dataset: Dataset, split: str, rows: Int[np.ndarray, " n"]) -> Targets:
    """Return a loader of the dense targets of ``rows`` of a split, which it numbers from zero."""
    load = dataset.split(split).target
    if load is None:
        raise ContractError(f"{dataset.card.name}/{split} opened without the targets its card promises")
    decoded: dict[int, Shaped[np.ndarray, "H W *c"]] = {}
    room = TARGETS_HELD

    def target(row: int) -> Shaped[np.ndarray, "H W *c"]:
        nonlocal room
        if row in decoded:
            return decoded[row]
        values = load(int(rows[row]))
        if values.nbytes <= room:
            room -= values.nbytes
            decoded[row] = values
        return values

    return target


def outputs_of(head: nn.Module, grids: Grids, count: int) -> Iterator[Float[Tensor, "c h w"]]:
    """Yield the outputs for images 0 .. count - 1."""
    together = 16 if isinstance(head, LinearHead) else 1
    for start in range(0, count, together):
        with torch.no_grad():
            outputs = head(grids(np.arange(start, min(start + together, count))))
        yield from outputs
