"""A step of the DINO trainer, views included, against a plain transcription of the published loop.

Same architecture, crops, batch and machine; each way runs in processes of its own, in turns, so that the peak
memory is its own too. The published way is one image at a time through torchvision and PIL, attention with
all weights in memory, a log-softmax for every pair of crops, and gradients clipped and weights averaged
tensor by tensor. On a CPU its views are made in the process itself: where every core trains, worker processes
only move their time elsewhere. With a GPU it has the ten workers of the published script.

The bound on a CPU: matrix products. ViT-Tiny/8 on 64 pixels has 65 tokens of 5.3 million multiplications, on
32 pixels 17; two global and six local crops with their gradients, and the teacher's two, are about 9 GFLOP
an image, the head with 65,536 prototypes about 1. Near 100 GFLOP/s that is some 10 images/s. What can be
saved are the products that nobody reads (the last block's rows of patches: a sixteenth) and what surrounds
them: views, losses, optimiser, and pages that the system clears for memory freed a moment ago.

The bound on a GPU: ViT-S/16 on 224 pixels with eight local crops of 96 is about 107 GFLOP an image, and the
head 4: a batch of 64 is 7 TFLOP, 0.14 s at 50 TFLOP/s of float32 and a fifth of that in bfloat16. Ten crops
by PIL take a core some 30 ms an image, and ten workers 0.19 s a batch. The bar is asked in bfloat16: the
published script has 16 bits on by default. In float32 products are two thirds of a step on an H200, and
either way does them alike.

bfloat16 is timed where the processor multiplies it; emulated, a step takes minutes and says nothing.
"""

import json
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from ssleval.core.heap import freed_memory_kept
from ssleval.train.config import TrainConfig, read_config
from ssleval.train.kernels import rounded_products
from ssleval.train.learner import Learner
from ssleval.train.schedules import rates
from ssleval.train.views import MEAN, STD, make_views

REPEATS = 3
MEMORY_BAR = 1.0
"""Peak memory at equal precision, at most: resident, or allocated on the GPU."""


@dataclass(frozen=True, slots=True)
class Scale:
    """What is trained, and what is asked of it."""

    device: str
    settings: tuple[str, ...]
    batch: int
    side: int
    """Of the images, in pixels."""
    steps: int
    warm_up: int
    workers: int
    bar: float | None
    """Images a second in float32, as a part of the published loop's; None where it is only shown."""
    bf16_bars: Mapping[str, float]
    """Of bfloat16, as a part of each of these ways."""


ON_CPU = Scale(
    "cpu",
    settings=("model.arch=vit_tiny", "model.patch_size=8",
              "views.global_size=64", "views.local_size=32", "views.local_crops=6"),
    batch=32, side=128, steps=3, warm_up=1, workers=0, bar=1.1,
    bf16_bars={"published": 1.7, "published bf16": 1.1},
)  # fmt: skip
ON_GPU = Scale(
    "cuda",
    settings=("model.arch=vit_small", "model.patch_size=16",
              "views.global_size=224", "views.local_size=96", "views.local_crops=8"),
    batch=64, side=256, steps=40, warm_up=10, workers=10,
    bar=None, bf16_bars={"published bf16": 1.5},
)  # fmt: skip


def scale() -> Scale:
    """Return what suits this machine."""
    return ON_GPU if torch.cuda.is_available() else ON_CPU


def settings(here: Scale, precision: str = "fp32") -> TrainConfig:
    """Return DINO's recipe at that scale, with 65,536 prototypes."""
    run = ("head.norm_last_layer=true", f"run.batch_size={here.batch}", f"run.precision={precision}")
    return read_config("dino", [*here.settings, *run])


@cache
def picture(index: int, side: int) -> np.ndarray:
    """Return an image with structure at several scales."""
    drawn = np.random.default_rng(index).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    return np.array(Image.fromarray(drawn).resize((side, side), Image.Resampling.BICUBIC))


def pictures(here: Scale) -> list[np.ndarray]:
    """Return the images of every step, decoded: the crops differ."""
    return [picture(row, here.side) for row in range(here.batch)]


def ours(here: Scale, precision: str) -> Iterator[None]:
    """Yield after every step of the package's own trainer."""
    config = settings(here, precision)
    learner = Learner(config, torch.device(here.device))
    images = pictures(here)
    with freed_memory_kept():
        for step in range(here.steps + here.warm_up):
            views = make_views(
                images, config.views, seed=0, step=step, first=0, total=here.batch, device=learner.device
            )
            # After the first epoch, in which the last layer is frozen.
            learner.step(views, None, rates(config, step + 100, 100), watched=False)
            yield


class _Blur:
    def __init__(self, probability: float) -> None:
        self.probability = probability

    def __call__(self, image: Image.Image) -> Image.Image:
        if random.random() > self.probability:
            return image
        return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))


class _Solarize:
    def __init__(self, probability: float) -> None:
        self.probability = probability

    def __call__(self, image: Image.Image) -> Image.Image:
        return ImageOps.solarize(image) if random.random() < self.probability else image


def crop(size: int, scale: tuple[float, ...], blur: float, solarize: float) -> Any:
    """Return the published transformation of one image."""
    jitter = transforms.ColorJitter(0.4, 0.4, 0.2, 0.1)
    bicubic = transforms.InterpolationMode.BICUBIC
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(size, (scale[0], scale[1]), interpolation=bicubic),
            transforms.RandomHorizontalFlip(0.5),
            transforms.RandomApply([jitter], 0.8),
            transforms.RandomGrayscale(0.2),
            _Blur(blur),
            _Solarize(solarize),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )


class _Crops(Dataset[list[Tensor]]):
    """Every image as a list of crops, as the published data set gives them."""

    def __init__(self, here: Scale, config: TrainConfig) -> None:
        views, self.here = config.views, here
        self.globals = [
            crop(views.global_size, views.global_scale, views.blur[index], views.solarize[index])
            for index in range(2)
        ]
        self.local = crop(views.local_size, views.local_scale, views.blur[2], views.solarize[2])
        self.count = views.local_crops

    def __len__(self) -> int:
        return (self.here.steps + self.here.warm_up) * self.here.batch

    def __getitem__(self, index: int) -> list[Tensor]:
        image = Image.fromarray(picture(index % self.here.batch, self.here.side))
        return [one(image) for one in self.globals] + [self.local(image) for _ in range(self.count)]


class _Block(nn.Module):
    """A transformer block that keeps all attention weights, and drops the branches of random images."""

    def __init__(self, width: int, heads: int, drop_path: float) -> None:
        super().__init__()
        self.heads, self.drop_path = heads, drop_path
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.dropped(self.mixed(self.norm1(tokens)))
        return tokens + self.dropped(self.fc2(functional.gelu(self.fc1(self.norm2(tokens)))))

    def mixed(self, tokens: Tensor) -> Tensor:
        images, count, width = tokens.shape
        qkv = self.qkv(tokens).reshape(images, count, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(-2, -1)) * (width // self.heads) ** -0.5
        mixed = weights.softmax(dim=-1) @ value
        return self.proj(mixed.transpose(1, 2).reshape(images, count, width))

    def dropped(self, branch: Tensor) -> Tensor:
        keep = 1 - self.drop_path
        if keep == 1:
            return branch
        kept = torch.rand(len(branch), 1, 1, dtype=branch.dtype, device=branch.device) < keep
        return branch.div(keep) * kept


class _Transformer(nn.Module):
    """The published transformer: every token passes through every block."""

    def __init__(self, config: TrainConfig, drop_path: float) -> None:
        super().__init__()
        vit = config.vit()
        self.grid, width = vit.grid, vit.embed_dim
        self.patches = nn.Conv2d(3, width, vit.patch_size, vit.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, 1 + vit.grid**2, width) * 0.02)
        rates = torch.linspace(0, drop_path, vit.depth).tolist()
        self.blocks = nn.Sequential(*(_Block(width, vit.num_heads, rate) for rate in rates))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patches(images)
        tokens = torch.cat([self.cls_token.expand(len(images), -1, -1), patches.flatten(2).mT], dim=1)
        return self.norm(self.blocks(tokens + self.at(patches.shape[-1])))[:, 0]

    def at(self, side: int) -> Tensor:
        if side == self.grid:
            return self.positions
        known = self.positions[:, 1:].unflatten(1, (self.grid, self.grid)).permute(0, 3, 1, 2)
        resized = functional.interpolate(known, scale_factor=(side + 0.1) / self.grid, mode="bicubic")
        return torch.cat([self.positions[:, :1], resized.flatten(2).mT], dim=1)


class _Published(nn.Module):
    def __init__(self, config: TrainConfig, drop_path: float = 0.0) -> None:
        super().__init__()
        head, width = config.head, config.vit().embed_dim
        self.backbone = _Transformer(config, drop_path)
        self.mlp = nn.Sequential(
            nn.Linear(width, head.hidden),
            nn.GELU(),
            nn.Linear(head.hidden, head.hidden),
            nn.GELU(),
            nn.Linear(head.hidden, head.bottleneck),
        )
        last: Any = nn.Linear(head.bottleneck, head.prototypes, bias=False)
        last = nn.utils.parametrizations.weight_norm(last)
        last.parametrizations.weight.original0.requires_grad_(False).fill_(1)
        self.last_layer = last

    def forward(self, crops: list[Tensor]) -> Tensor:
        """Pass crops of one size together, then all features through the head."""
        features: list[Tensor] = []
        for size in sorted({one.shape[-1] for one in crops}, reverse=True):
            same = torch.cat([one for one in crops if one.shape[-1] == size])
            features.append(self.backbone(same))
        return self.last_layer(functional.normalize(self.mlp(torch.cat(features)), dim=-1))


def published_loss(student: Tensor, teacher: Tensor, center: Tensor, crops: int) -> Tensor:
    """Return the mean over pairs of crops, one log-softmax for each."""
    guesses = (student / 0.1).chunk(crops)
    goals = functional.softmax((teacher.float() - center) / 0.04, dim=-1).detach().chunk(2)
    total, terms = torch.zeros((), device=student.device), 0
    for index, goal in enumerate(goals):
        for other, guess in enumerate(guesses):
            if other != index:
                total = (
                    total + torch.sum(-goal * functional.log_softmax(guess.float(), dim=-1), dim=-1).mean()
                )
                terms += 1
    return total / terms


def published(here: Scale, precision: str) -> Iterator[None]:
    """Yield after every step of the transcription."""
    config, device = settings(here), torch.device(here.device)
    student, teacher = _Published(config, config.model.drop_path).to(device), _Published(config).to(device)
    teacher.load_state_dict(student.state_dict())
    teacher.requires_grad_(False)
    center = torch.zeros(1, config.head.prototypes, device=device)
    optimizer = torch.optim.AdamW(student.parameters())
    pictures(here)
    workers = min(here.workers, os.cpu_count() or 1)
    loader = DataLoader(
        _Crops(here, config),
        here.batch,
        drop_last=True,
        num_workers=workers,
        pin_memory=device.type == "cuda",
    )
    # As torch had it when DINO was published, and as ours has it.
    with rounded_products(device, tf32=True):
        for batch in loader:
            crops = [one.to(device, non_blocking=True) for one in batch]
            with _autocast(device, precision):
                with torch.no_grad():
                    seen = teacher(crops[:2])
                loss = published_loss(student(crops), seen, center, len(crops))
            optimizer.zero_grad()
            loss.backward()
            for parameter in student.parameters():
                if parameter.grad is not None and (factor := 3.0 / (parameter.grad.norm().item() + 1e-6)) < 1:
                    parameter.grad.mul_(factor)
            optimizer.step()
            with torch.no_grad():
                center = center * 0.9 + seen.float().mean(dim=0, keepdim=True) * 0.1
                for mine, theirs in zip(student.parameters(), teacher.parameters(), strict=True):
                    theirs.data.mul_(0.996).add_(0.004 * mine.detach().data)
            yield


def _autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def measured(way: str) -> dict[str, float]:
    """Run one way here; return the seconds of a step and its peak memory in megabytes.

    The median step; the mean where workers bring batches by tens, after which a step waits for none.
    """
    here = scale()
    who, _, precision = way.partition(" ")
    steps = {"ours": ours, "published": published}[who](here, precision or "fp32")
    for _ in range(here.warm_up):
        next(steps)
    times: list[float] = []
    for _ in range(here.steps):
        start = time.perf_counter()
        next(steps)
        if here.device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    average = statistics.fmean if here.workers else statistics.median
    return {"seconds": average(times), "megabytes": _peak(here)}


def _peak(here: Scale) -> float:
    if here.device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_its_own_process(way: str) -> dict[str, float]:
    """Return what `measured` finds in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.speed.train", way]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def multiplies_bf16(here: Scale) -> bool:
    """Return whether this machine has instructions that multiply bfloat16."""
    if here.device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    has = torch.cpu.get_capabilities()
    return any(has.get(name, False) for name in ("amx_bf16", "avx512_bf16", "bf16", "sve_bf16"))


def main() -> int:
    """Print the comparison and its bars; return 1 where one falls short."""
    here = scale()
    bars: dict[tuple[str, str], float | None] = {("ours", "published"): here.bar}
    if multiplies_bf16(here):
        bars |= {("ours bf16", other): bar for other, bar in here.bf16_bars.items()}
    ways = list(dict.fromkeys(way for pair in bars for way in pair))
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(REPEATS):
        for way in ways:
            found[way].append(in_its_own_process(way))
    memory = {way: statistics.median(one["megabytes"] for one in runs) for way, runs in found.items()}
    for way, runs in found.items():
        speed = here.batch / statistics.median(one["seconds"] for one in runs)
        print(f"train: {here.device}: {way}: {speed:.1f} images/s, peak {memory[way]:.0f} MB")
    missed = [report(*pair, bar, found, memory) for pair, bar in bars.items()]
    if len(bars) == 1:
        print("train: bf16 not timed: this processor emulates it")
    return int(any(missed))


def report(
    way: str,
    other: str,
    bar: float | None,
    found: Mapping[str, list[dict[str, float]]],
    memory: Mapping[str, float],
) -> bool:
    """Print speed and memory of one way against another; return whether a bar is missed."""
    ratio, leaner = times_as_fast(found[other], found[way]), memory[way] / memory[other]
    asked = "no bar" if bar is None else f"bar {bar}"
    print(f"train: {way}: {ratio:.2f} x as fast as {other}, {asked} ({REPEATS} turns)")
    alike = way.endswith("bf16") == other.endswith("bf16")
    if alike:
        print(f"train: {way}: {leaner:.2f} x the peak memory of {other}, bar {MEMORY_BAR}")
    return (bar is not None and ratio < bar) or (alike and leaner > MEMORY_BAR)


def times_as_fast(theirs: list[dict[str, float]], ours: list[dict[str, float]]) -> float:
    """Return the median over turns of their seconds by ours."""
    pairs = zip(theirs, ours, strict=True)
    return statistics.median(one["seconds"] / two["seconds"] for one, two in pairs)


if __name__ == "__main__":
    print(json.dumps(measured(sys.argv[1])))
