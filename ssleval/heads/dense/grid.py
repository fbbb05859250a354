"""Patch grids and the pixels they stand for: what heads for every pixel have in common.

A linear head commutes with bilinear upsampling, so the value at a pixel needs the four patches around
it alone. Training therefore draws some pixels of every image and computes the loss there: an unbiased
estimate of the published loss over all of them, at a hundredth of its cost.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from ssleval.core import Dataset, FeatureTable, Readout
from ssleval.errors import ConfigError, ContractError

Grids: TypeAlias = Callable[[Int[np.ndarray, " b"]], Float[Tensor, "b h w d"]]
"""Reads float32 patch grids of some images by index; whatever they come from stays on disk."""

Targets: TypeAlias = Callable[[int], Shaped[np.ndarray, "H W"]]
"""Loads the target of one image, at its own resolution."""

TARGETS_HELD = 1 << 30
"""Bytes of decoded targets kept in memory, so that many passes decode each file once, as far as they fit."""


@dataclass(frozen=True, slots=True)
class Fit:
    """How a head is trained: AdamW on batches of whole images, some pixels of each."""

    iterations: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    pixels: int
    """Pixels drawn from every image of a batch, with replacement, anew every time it is seen; 0 where
    losses take all of them."""
    clip: float = 0.0
    """Largest norm of a gradient; 0 leaves it."""

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        if min(self.iterations, self.batch_size) < 1 or self.pixels < 0 or not self.learning_rate > 0:
            raise ConfigError(
                f"dense head: {self.iterations} iterations of {self.batch_size} images, {self.pixels} pixels "
                f"each, learning rate {self.learning_rate}; all must be positive"
            )
        if min(self.weight_decay, self.clip) < 0:
            raise ConfigError(f"dense head: weight decay {self.weight_decay}, clip {self.clip}; not negative")


class LinearHead(nn.Module):
    """A 1x1 convolution, behind a batch normalisation of the channels where the protocol has one.

    Source:
        BNHead of dinov2/eval/segmentation: weights from N(0, 0.01), biases zero. That of dinov2/eval/depth
        leaves them to torch; both of ours begin like the former.
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
    """Return ``grid`` upsampled bilinearly, at some points only.

    Points are (x, y) in fractions of the image: the centre of column j of W is at ``(j + 0.5) / W``.
    Equals `resized` to any size at the centres of its pixels.
    """
    batch, channels, height, width = grid.shape
    sides = torch.tensor([width, height], device=points.device)
    place = (points * sides - 0.5).clamp(min=0).minimum(sides - 1)
    low = place.floor()
    right, down = (place - low).unbind(2)
    left, top = low.long().unbind(2)
    across, below = (left + 1).clamp(max=width - 1), (top + 1).clamp(max=height - 1)
    first = torch.arange(batch, device=points.device).view(-1, 1) * (height * width)
    cells = torch.stack([first + y * width + x for y in (top, below) for x in (left, across)], dim=2)
    weights = torch.stack([y * x for y in (1 - down, down) for x in (1 - right, right)], dim=2)
    # Rows of channels, weighed and summed: several times as fast as grid_sample, whose channels lie apart.
    rows = grid.permute(0, 2, 3, 1).reshape(-1, channels)
    found = nn.functional.embedding_bag(
        cells.view(-1, 4), rows, per_sample_weights=weights.view(-1, 4).to(rows.dtype), mode="sum"
    )
    return found.view(batch, -1, channels).transpose(1, 2)


def resized(grid: Float[Tensor, "b c h w"], size: tuple[int, int]) -> Float[Tensor, "b c H W"]:
    """Return ``grid`` upsampled bilinearly to ``size`` (H, W), corners not aligned."""
    return nn.functional.interpolate(grid, size, mode="bilinear", align_corners=False)


def drawn(
    targets: Sequence[Shaped[np.ndarray, "H W"]], pixels: int, generator: np.random.Generator
) -> tuple[Float[Tensor, "b k 2"], Shaped[Tensor, "b k"]]:
    """Draw pixels uniformly from every target; return where they are (`at_points`) and what they hold."""
    points = np.empty((len(targets), pixels, 2), dtype=np.float32)
    held: list[Shaped[np.ndarray, " k"]] = []
    for row, target in enumerate(targets):
        height, width = target.shape
        flat = generator.integers(0, height * width, pixels)
        points[row, :, 0] = (flat % width + 0.5) / width
        points[row, :, 1] = (flat // width + 0.5) / height
        held.append(target.reshape(-1)[flat])
    return torch.from_numpy(points), torch.from_numpy(np.stack(held))


def batches(count: int, size: int, iterations: int, seed: int) -> Iterator[Int[np.ndarray, " b"]]:
    """Yield batches of rows, cut from an endless stream of shuffled passes over ``count`` rows.

    Raises:
        ConfigError: no rows.
    """
    if not count:
        raise ConfigError("dense head: no training images; it needs at least one")
    generator = np.random.default_rng(seed)
    waiting = np.empty(0, dtype=np.int64)
    for _ in range(iterations):
        while len(waiting) < size:
            waiting = np.concatenate([waiting, generator.permutation(count)])
        yield waiting[:size]
        waiting = waiting[size:]


def fit(
    head: LinearHead,
    grids: Grids,
    targets: Targets,
    count: int,
    how: Fit,
    *,
    rate: Callable[[int], float],
    loss: Callable[[Tensor, Tensor, Tensor, int], Tensor],
    seed: int,
    device: str,
) -> LinearHead:
    """Train ``head`` on ``count`` images and return it in evaluation mode.

    ``rate`` gives the fraction of the learning rate at an iteration from zero; ``loss`` a scalar of outputs
    ``[b c h w]``, points ``[b k 2]``, targets ``[b k]`` and the iteration.

    Raises:
        ConfigError: no images, or no pixels of them.
        ContractError: the weights are no longer finite.
    """
    if not how.pixels:
        raise ConfigError("dense head: no pixels to be drawn from an image; it needs at least one")

    def losses() -> Iterator[Tensor]:
        generator = np.random.default_rng([seed, 1])
        for iteration, rows in enumerate(batches(count, how.batch_size, how.iterations, seed)):
            points, held = drawn([targets(int(row)) for row in rows], how.pixels, generator)
            yield loss(head(grids(rows)), points.to(device), held.to(device), iteration)

    return descend(head, losses(), how, rate, device)


def descend(
    head: LinearHead, losses: Iterable[Tensor], how: Fit, rate: Callable[[int], float], device: str
) -> LinearHead:
    """Take one step of AdamW for each of ``losses``, computed as they are asked for.

    Raises:
        ContractError: the weights are no longer finite.
    """
    head.to(device).train()
    parameters: Any = list(head.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=how.learning_rate, weight_decay=how.weight_decay)
    for iteration, found in enumerate(losses):
        for group in optimizer.param_groups:
            group["lr"] = how.learning_rate * rate(iteration)
        optimizer.zero_grad(set_to_none=True)
        found.backward()
        if how.clip:
            nn.utils.clip_grad_norm_(parameters, how.clip)
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
        spread = [part if part.ndim == 4 else part[:, None, None].expand(-1, *side, -1) for part in parts]
        return spread[0] if len(spread) == 1 else torch.cat(spread, dim=3)

    return read


def targets_of(dataset: Dataset, split: str, rows: Int[np.ndarray, " n"]) -> Targets:
    """Return a loader of the dense targets of ``rows`` of a split, numbered from zero.

    Raises:
        ContractError: the dataset opened without the targets its card promises.
    """
    load = dataset.split(split).target
    if load is None:
        raise ContractError(f"{dataset.card.name}/{split} opened without the targets its card promises")

    held: dict[int, Shaped[np.ndarray, "H W"]] = {}
    room = TARGETS_HELD

    def target(row: int) -> Shaped[np.ndarray, "H W"]:
        nonlocal room
        if row in held:
            return held[row]
        found = load(int(rows[row]))
        if found.nbytes <= room:
            room -= found.nbytes
            held[row] = found
        return found

    return target


def outputs_of(
    head: LinearHead, grids: Grids, count: int, *, chunk: int = 16
) -> Iterator[Float[Tensor, "c h w"]]:
    """Yield the outputs of images 0 .. count - 1, in order."""
    for start in range(0, count, chunk):
        with torch.no_grad():
            outputs = head(grids(np.arange(start, min(start + chunk, count))))
        yield from outputs
