"""A step of the DINO trainer, views included, against a plain transcription of the published loop.

Same transformer, crops, batch and machine; each way runs in processes of its own, in turns, so that the peak
memory is its own too. The published way is one image at a time through torchvision and PIL, a log-softmax for
every pair of crops, and gradients clipped, weights updated and averaged tensor by tensor. Its views are made
in the process itself: where every core trains, worker processes only move their time elsewhere.

The bound: matrix products. ViT-Tiny/8 on 64 pixels has 65 tokens of 5.3 million multiplications, on 32 pixels
17; two global and six local crops with their gradients, and the teacher's two, are about 9 GFLOP an image,
the head with 65,536 prototypes about 1. Near 100 GFLOP/s that is some 10 images/s. What can be saved are the
products that nobody reads (the last block's rows of patches: a sixteenth) and what surrounds them: views,
losses, optimiser, and pages that the system clears for memory freed a moment ago.

bfloat16 is timed where the processor multiplies it; emulated, a step takes minutes and says nothing.
"""

import json
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from ssleval.heap import freed_memory_kept
from ssleval.train.config import TrainConfig, read_config
from ssleval.train.learner import Learner
from ssleval.train.schedules import rates
from ssleval.train.views import MEAN, STD, make_views
from ssleval.vit import Vit

BATCH, STEPS, REPEATS, SIDE = 32, 3, 3, 128
SPEED_BAR = 1.1
"""Images a second, at equal precision."""
MEMORY_BAR = 1.0
"""Peak resident memory, at most."""
BF16_BAR = 2.2
"""Ours with bfloat16 against the published loop's float32, on a processor that multiplies bfloat16."""


def settings(precision: str = "fp32") -> TrainConfig:
    """Return ViT-Tiny/8 on 64 pixels with six local crops of 32 and 65,536 prototypes."""
    network = ("model.arch=vit_tiny", "model.patch_size=8", "head.norm_last_layer=true")
    crops = ("views.global_size=64", "views.local_size=32", "views.local_crops=6")
    return read_config("dino", [*network, *crops, f"run.batch_size={BATCH}", f"run.precision={precision}"])


def picture(index: int) -> np.ndarray:
    """Return an image with structure at several scales."""
    drawn = np.random.default_rng(index).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    return np.array(Image.fromarray(drawn).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def ours(precision: str) -> Iterator[None]:
    """Yield after every step of the package's own trainer."""
    config = settings(precision)
    learner = Learner(config, torch.device("cpu"))
    with freed_memory_kept():
        for step in range(STEPS + 1):
            images = [picture(step * BATCH + row) for row in range(BATCH)]
            views = make_views(
                images, config.views, seed=0, step=step, first=0, total=BATCH, device=learner.device
            )
            learner.step(views, None, rates(config, step + 10, 100), watched=False)
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

    def __init__(self, config: TrainConfig) -> None:
        views = config.views
        self.globals = [
            crop(views.global_size, views.global_scale, views.blur[index], views.solarize[index])
            for index in range(2)
        ]
        self.local = crop(views.local_size, views.local_scale, views.blur[2], views.solarize[2])
        self.count = views.local_crops

    def __len__(self) -> int:
        return (STEPS + 1) * BATCH

    def __getitem__(self, index: int) -> list[Tensor]:
        image = Image.fromarray(picture(index))
        return [one(image) for one in self.globals] + [self.local(image) for _ in range(self.count)]


class _Published(nn.Module):
    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        head = config.head
        self.backbone = Vit(config.vit())
        self.mlp = nn.Sequential(
            nn.Linear(self.backbone.config.embed_dim, head.hidden),
            nn.GELU(),
            nn.Linear(head.hidden, head.hidden),
            nn.GELU(),
            nn.Linear(head.hidden, head.bottleneck),
        )
        last = nn.Linear(head.bottleneck, head.prototypes, bias=False)
        self.last_layer = nn.utils.parametrizations.weight_norm(last)

    def forward(self, crops: list[Tensor]) -> Tensor:
        """Pass crops of one size together, then all features through the head."""
        features: list[Tensor] = []
        for size in sorted({one.shape[-1] for one in crops}, reverse=True):
            same = torch.cat([one for one in crops if one.shape[-1] == size])
            features.append(self.backbone(same)[:, 0])
        return self.last_layer(functional.normalize(self.mlp(torch.cat(features)), dim=-1))


def published_loss(student: Tensor, teacher: Tensor, center: Tensor, crops: int) -> Tensor:
    """Return the mean over pairs of crops, one log-softmax for each."""
    guesses = (student / 0.1).chunk(crops)
    goals = functional.softmax((teacher - center) / 0.04, dim=-1).detach().chunk(2)
    total, terms = torch.zeros(()), 0
    for index, goal in enumerate(goals):
        for other, guess in enumerate(guesses):
            if other != index:
                total = total + torch.sum(-goal * functional.log_softmax(guess, dim=-1), dim=-1).mean()
                terms += 1
    return total / terms


def published() -> Iterator[None]:
    """Yield after every step of the transcription."""
    config = settings()
    student, teacher = _Published(config), _Published(config)
    teacher.load_state_dict(student.state_dict())
    teacher.requires_grad_(False)
    center = torch.zeros(1, config.head.prototypes)
    optimizer = torch.optim.AdamW(student.parameters())
    for crops in DataLoader(_Crops(config), BATCH, drop_last=True):
        with torch.no_grad():
            seen = teacher(crops[:2])
        loss = published_loss(student(crops), seen, center, len(crops))
        optimizer.zero_grad()
        loss.backward()
        for parameter in student.parameters():
            if parameter.grad is not None and (scale := 3.0 / (parameter.grad.norm().item() + 1e-6)) < 1:
                parameter.grad.mul_(scale)
        optimizer.step()
        with torch.no_grad():
            center = center * 0.9 + seen.mean(dim=0, keepdim=True) * 0.1
            for mine, theirs in zip(student.parameters(), teacher.parameters(), strict=True):
                theirs.data.mul_(0.996).add_(0.004 * mine.detach().data)
        yield


def measured(way: str) -> dict[str, float]:
    """Run one way here; return seconds of its median step and its peak memory in megabytes."""
    steps = published() if way == "published" else ours("bf16" if way.endswith("bf16") else "fp32")
    next(steps)
    times: list[float] = []
    for _ in range(STEPS):
        start = time.perf_counter()
        next(steps)
        times.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": statistics.median(times), "megabytes": peak}


def in_its_own_process(way: str) -> dict[str, float]:
    """Return what `measured` finds in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.speed.train", way]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def multiplies_bf16() -> bool:
    """Return whether this processor has instructions that multiply bfloat16."""
    has = torch.cpu.get_capabilities()
    return any(has.get(name, False) for name in ("amx_bf16", "avx512_bf16", "bf16", "sve_bf16"))


def main() -> int:
    """Print the comparison and its bars; return 1 where one falls short."""
    ways = ("ours", "published", *(("ours bf16",) if multiplies_bf16() else ()))
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(REPEATS):
        for way in ways:
            found[way].append(in_its_own_process(way))
    memory = {way: statistics.median(one["megabytes"] for one in runs) for way, runs in found.items()}
    for way, runs in found.items():
        speed = BATCH / statistics.median(one["seconds"] for one in runs)
        print(f"train: {way}: {speed:.1f} images/s, peak {memory[way]:.0f} MB")
    leaner = memory["ours"] / memory["published"]
    print(f"train: {leaner:.2f} x the published loop's peak memory, bar {MEMORY_BAR}")
    faster = {way: times_as_fast(found["published"], found[way]) for way in ways if way != "published"}
    bars = {"ours": SPEED_BAR, "ours bf16": BF16_BAR}
    for way, ratio in faster.items():
        print(f"train: {way}: {ratio:.2f} x as fast as the published loop, bar {bars[way]} ({REPEATS} turns)")
    if "ours bf16" not in ways:
        print("train: bf16 not timed: this processor emulates it")
    return int(leaner > MEMORY_BAR or any(ratio < bars[way] for way, ratio in faster.items()))


def times_as_fast(theirs: list[dict[str, float]], ours: list[dict[str, float]]) -> float:
    """Return the median over turns of their seconds by ours."""
    pairs = zip(theirs, ours, strict=True)
    return statistics.median(one["seconds"] / two["seconds"] for one, two in pairs)


if __name__ == "__main__":
    print(json.dumps(measured(sys.argv[1])))
