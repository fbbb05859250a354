"""Colour augmentation of whole batches, with separate parameters for each crop.

The operations are torchvision's on PIL images (brightness, contrast, saturation and hue in random order,
grayscale, blur, solarisation), computed in floating point without rounding to 8 bits after each.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import product

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ssleval.train.chunks import rows_per_chunk
from ssleval.train.copies import copied
from ssleval.train.sections import ViewsConfig

_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True, slots=True)
class Colors:
    """The parameters of ``n`` crops."""

    jittered: Bool[np.ndarray, " n"]
    order: Int[np.ndarray, "n 4"]
    """The order of brightness (0), contrast (1), saturation (2) and hue (3)."""
    factors: Float[np.ndarray, "n 4"]
    """Factors of the same four; that of hue is a shift in turns."""
    gray: Bool[np.ndarray, " n"]
    sigma: Float[np.ndarray, " n"]
    """Standard deviation of the blur in pixels; 0 for none."""
    solarized: Bool[np.ndarray, " n"]

    def __getitem__(self, rows: slice | Int[np.ndarray, " m"]) -> "Colors":
        return Colors(*(getattr(self, field.name)[rows] for field in fields(self)))


def draw_colors(random: np.random.Generator, count: int, views: ViewsConfig, kind: int) -> Colors:
    """Draw parameters; ``kind`` is 0 or 1 for the two global crops, 2 for local crops."""
    spans = (views.brightness, views.contrast, views.saturation)
    factors = [random.uniform(max(0.0, 1 - span), 1 + span, count) for span in spans]
    factors.append(random.uniform(-views.hue, views.hue, count))
    jittered, gray, blurs, solarized = random.random((4, count))
    sigma = random.uniform(views.blur_sigma[0], views.blur_sigma[1], count)
    return Colors(
        jittered=jittered < views.jitter,
        order=random.random((count, 4)).argsort(axis=1),
        factors=np.stack(factors, axis=1),
        gray=gray < views.grayscale,
        sigma=np.where(blurs < views.blur[kind], sigma, 0.0),
        solarized=solarized < views.solarize[kind],
    )


def concatenated(parts: Sequence[Colors]) -> Colors:
    """Return the parameters of the crops of all parts, in order."""
    names = [field.name for field in fields(Colors)]
    return Colors(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def distort(crops: Float[Tensor, "n 3 s s"], colors: Colors) -> Float[Tensor, "n 3 s s"]:
    """Distort ``crops`` (RGB in [0, 1]) in place and return them."""
    rows = rows_per_chunk(crops[0].numel(), crops.device)
    for start in range(0, len(crops), rows):
        _distort(crops[start : start + rows], colors[start : start + rows])
    return crops


def _distort(crops: Tensor, colors: Colors) -> None:
    jitters = (_brightness, _contrast, _saturation, hue_shifted)
    turns = list(product(range(len(jitters)), repeat=2))
    chosen = [np.flatnonzero(colors.jittered & (colors.order[:, turn] == kind)) for turn, kind in turns]
    strengths = [colors.factors[rows, kind] for rows, (_, kind) in zip(chosen, turns, strict=True)]
    others = [np.flatnonzero(drawn) for drawn in (colors.gray, colors.sigma, colors.solarized)]
    whole, part = _box_sizes(colors.sigma[others[1]])
    places, values = copied([*chosen, *others], [*strengths, whole, part], crops.device)
    *jittered, gray, soft, inverted = places
    *factors, whole_there, part_there = values
    for rows, (_, kind), strength in zip(jittered, turns, factors, strict=True):
        if len(rows):
            crops[rows] = jitters[kind](crops[rows], strength.view(-1, 1, 1, 1))
    crops[gray] = _gray(crops[gray]).expand(-1, 3, -1, -1)
    if len(soft):
        crops[soft] = _blurred(crops[soft], whole_there, part_there, int(whole.max()) + 1)
    bright = crops[inverted]
    # 127.5 separates the 8-bit levels that solarisation at 128 inverts from those it keeps.
    crops[inverted] = torch.where(bright > 127.5 / 255, 1 - bright, bright)


def _brightness(crops: Tensor, factors: Tensor) -> Tensor:
    return crops.mul_(factors).clamp_(0, 1)


def _contrast(crops: Tensor, factors: Tensor) -> Tensor:
    mean = _gray(crops).mean(dim=(1, 2, 3), keepdim=True)
    return crops.mul_(factors).add_(mean * (1 - factors)).clamp_(0, 1)


def _saturation(crops: Tensor, factors: Tensor) -> Tensor:
    return crops.lerp_(_gray(crops), 1 - factors).clamp_(0, 1)


def _gray(crops: Tensor) -> Tensor:
    red, green, blue = crops.split(1, dim=1)
    return red * _LUMA[0] + green * _LUMA[1] + blue * _LUMA[2]


def hue_shifted(crops: Float[Tensor, "n 3 s s"], turns: Float[Tensor, "n 1 1 1"]) -> Float[Tensor, "n 3 s s"]:
    """Shift the hue by ``turns`` of the colour circle; value and saturation stay."""
    value, low = crops.amax(dim=1, keepdim=True), crops.amin(dim=1, keepdim=True)
    chroma = value - low
    red, green, blue = crops.split(1, dim=1)
    scale = chroma.clamp(min=1e-12)
    others = torch.where(value == green, (blue - red) / scale + 2, (red - green) / scale + 4)
    sixths = torch.where(value == red, (green - blue) / scale, others)
    # Over the hue circle, red, green and blue are the same trapezoid at three offsets.
    places = torch.arange(5.0, 0.0, -2.0, device=crops.device).view(1, 3, 1, 1)
    place = (sixths + (turns * 6) + places).remainder_(6)
    bump = torch.minimum(place, 4 - place).clamp_(0, 1)
    return value - chroma * bump


def blurred(crops: Float[Tensor, "n 3 s s"], sigma: Float[np.ndarray, " n"]) -> Float[Tensor, "n 3 s s"]:
    """Blur each crop as PIL's GaussianBlur does at radius ``sigma``."""
    whole, part = _box_sizes(sigma)
    _, sizes = copied([], [whole, part], crops.device)
    return _blurred(crops, *sizes, reach=int(whole.max(initial=0)) + 1)


def _blurred(crops: Tensor, whole: Tensor, part: Tensor, reach: int) -> Tensor:
    count, _, size, _ = crops.shape
    box = _box(whole.view(-1, 1, 1), part.view(-1, 1, 1), size, reach)
    kernel = box @ box @ box
    wide = crops.reshape(count, 3 * size, size) @ kernel.transpose(1, 2)
    planes = wide.view(count, 3, size, size)
    return kernel.unsqueeze(1) @ planes


def _box_sizes(sigma: Float[np.ndarray, " n"]) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Return how many pixels on either side a box covers wholly, and which part of the next.

    Applied three times, it has the variance of a Gaussian.

    Source:
        Gwosdek et al. 2011, "Theoretical foundations of Gaussian convolution by extended box filtering",
        eq. 11 and 14, which Pillow's BoxBlur.c follows.
    """
    variance = sigma**2 / 3
    whole = np.floor((np.sqrt(12 * variance + 1) - 1) / 2)
    return whole, (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))


def _box(whole: Tensor, part: Tensor, size: int, reach: int) -> Float[Tensor, "n s s"]:
    """Return box filters, of which the widest reaches ``reach`` pixels. Edges are replicated."""
    inside = torch.arange(size, device=whole.device).view(-1, 1)
    distance = (torch.arange(-reach, size + reach, device=whole.device) - inside).abs()
    weights = torch.where(distance <= whole, 1.0, torch.where(distance == whole + 1, part, 0.0))
    weights = weights / (2 * (whole + part) + 1)
    box = weights[..., reach : reach + size].clone()
    box[..., 0] += weights[..., :reach].sum(dim=-1)
    box[..., -1] += weights[..., reach + size :].sum(dim=-1)
    return box
