"""Labels carried along a video inside windows, against all patches with all and a mask, as published.

The bound: of a 60 x 104 grid (480p at patch 8) a window of 25 x 25 patches holds 9 % of all pairs, of 30 x
52 (patch 16) 26 %. A product over tiles computes up to twice the window; selecting the best five costs as
much as the product. The whole affinity of 8 frames is 1.2 GB at patch 8, and the selection reads it again.
"""

import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, normalize

from ssleval.heads.propagation import carry, harden

CHANNELS, CONTEXT, LABELS = 192, 8, 4
SETTINGS = {"radius": 12, "topk": 5, "temperature": 0.1}
REPEATS = {16: 5, 8: 3}
SPEED_BARS = {16: 2.0, 8: 5.0}
"""Times as fast as the dense affinity, at least, by patch size."""
MEMORY_BAR = 0.25
"""Part of its memory, at most."""


class Frame(NamedTuple):
    """One frame to label, and the context it takes labels from."""

    tokens: Tensor
    seen: Tensor
    known: Tensor


def frame(patch: int) -> Frame:
    """Return tokens of a 480 x 832 frame that resemble those of the context around the same place."""
    height, width = 480 // patch, 832 // patch
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(CONTEXT + 1, CHANNELS, height, width, generator=generator)
    still = avg_pool2d(torch.randn(1, CHANNELS, height, width, generator=generator), 5, 1, 2) * 5
    tokens = normalize((still + 0.8 * noise).permute(0, 2, 3, 1), dim=-1).contiguous()
    blobs = avg_pool2d(torch.randn(CONTEXT, LABELS, height, width, generator=generator), 7, 1, 3)
    return Frame(tokens[-1], tokens[:-1], (blobs * 40).softmax(1).permute(0, 2, 3, 1).contiguous())


def dense(
    tokens: Tensor, seen: Tensor, known: Tensor, *, radius: int, topk: int, temperature: float
) -> Tensor:
    """Follow the published script, in place where it can be: all affinities, a mask, the best, a product."""
    height, width, channels = tokens.shape
    rows, columns = torch.arange(height).repeat_interleave(width), torch.arange(width).repeat(height)
    near = ((rows[:, None] - rows).abs() <= radius) & ((columns[:, None] - columns).abs() <= radius)
    affinity = tokens.reshape(-1, channels) @ seen.reshape(-1, channels).T
    affinity.div_(temperature).exp_()
    affinity.view(height * width, len(seen), -1).mul_(near[:, None])
    weakest = affinity.topk(topk, dim=1).values[:, -1:]
    affinity.masked_fill_(affinity < weakest, 0)
    affinity.div_(affinity.sum(1, keepdim=True))
    return (affinity @ known.reshape(-1, known.shape[-1])).unflatten(0, (height, width))


CONTENDERS: dict[str, Callable[..., Tensor]] = {"windows": carry, "dense": dense}


def main() -> int:
    """Print the ratios and their bars for both patch sizes; return 1 when one falls short."""
    print(f"video: 480 x 832, {CONTEXT} frames of context, {torch.get_num_threads()} threads")
    return max([compare(patch) for patch in REPEATS])


def compare(patch: int) -> int:
    """Time both, turn by turn so that other load hits both, and compare masks and memory."""
    given = frame(patch)
    times: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    masks: dict[str, Tensor] = {}
    for _ in range(REPEATS[patch]):
        for name, call in CONTENDERS.items():
            start = time.perf_counter()
            labels = call(*given, **SETTINGS)
            times[name].append(time.perf_counter() - start)
            masks[name] = harden(labels, patch)
    gain = statistics.median(a / b for a, b in zip(times["dense"], times["windows"], strict=True))
    memory = {name: peak(name, patch) for name in CONTENDERS}
    part = memory["windows"] / memory["dense"]
    unlike = int((masks["windows"] != masks["dense"]).sum())
    for name, seconds in times.items():
        print(f"video: patch {patch:2} {name:8} {statistics.median(seconds):7.3f} s, {memory[name]:6.0f} MB")
    print(f"video: patch {patch:2} dense / windows: {gain:.1f}, bar {SPEED_BARS[patch]} at least")
    print(f"video: patch {patch:2} memory of windows / dense: {part:.3f}, bar {MEMORY_BAR} at most")
    print(f"video: patch {patch:2} pixels of the masks that differ: {unlike:,}, bar 0")
    return int(gain < SPEED_BARS[patch] or part > MEMORY_BAR or unlike > 0)


def peak(name: str, patch: int) -> float:
    """Return by how many MB one call raises the peak memory of a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(raised, (name, patch))


def raised(name: str, patch: int) -> float:
    """Return by how many MB one call raises the peak memory of this process."""
    given = frame(patch)
    # A small call first: what libraries allocate once is no memory of the method.
    CONTENDERS[name](*(part[..., :4, :4, :].contiguous() for part in given), **SETTINGS)
    # Peaks begin anew from here; what making the frame took would hide the smaller method's.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = kilobytes("VmRSS")
    CONTENDERS[name](*given, **SETTINGS)
    return (kilobytes("VmHWM") - before) / 1024


def kilobytes(field: str) -> int:
    """Return what the system counts for this process; getrusage includes the process that started it."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition(f"{field}:")[2].split()[0])


if __name__ == "__main__":
    sys.exit(main())
