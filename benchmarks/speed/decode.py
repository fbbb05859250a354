"""From JPEG files to the 8-bit pixels of a model on one core, against the bare libraries on the same bytes.

The bound: each library's own decoder and resize, in the fewest calls, and a copy into the batch. Ours adds
reading the file, the check that the data of a JPEG do not end early (exact) or its header (fast), and the
geometry. Of a 500 x 375 photograph that is some 50 us, beside 2 ms (exact) or 1 ms (fast).
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from ssleval.core import Geometry, Split
from ssleval.datasets.files.images import file_split
from ssleval.features.decode import Decoder

IMAGES, BATCH = 64, 32
REPEATS = 40
SPEED_BAR = 0.90
"""Images per second, as a part of the bare library's, for exact pixels and for fast ones."""
GEOMETRY = Geometry(256, "short", 224, "bicubic")


def write_jpegs(folder: Path, count: int) -> list[str]:
    """Write synthetic photographs of 500 x 375, some 60 KB each; return their names."""
    random = np.random.default_rng(0)
    names = [f"{index:04}.jpg" for index in range(count)]
    for name in names:
        coarse = Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), np.float32)
        grain = random.normal(0, 6, smooth.shape)
        Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(folder / name, quality=90)
    return names


def bare_pil(content: bytes) -> np.ndarray:
    """Decode, resize and crop by PIL."""
    image = Image.open(BytesIO(content)).convert("RGB").resize((341, 256), Image.Resampling.BICUBIC)
    return np.asarray(image.crop((58, 16, 282, 240)))


def bare_torchvision(content: bytes) -> np.ndarray:
    """Decode, resize and crop by torchvision."""
    encoded = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    image = cast("Tensor", decode_jpeg(encoded, mode=ImageReadMode.RGB))
    image = functional.resize(image, [256, 341], InterpolationMode.BICUBIC, antialias=True)
    return functional.center_crop(image, [224, 224]).permute(1, 2, 0).numpy()


def decoder_of(split: Split, pixels: Literal["exact", "fast"]) -> Decoder:
    """Return what decodes a split as extraction does, batch by batch."""
    return Decoder(split, replace(GEOMETRY, pixels=pixels), BATCH)


def ours(split: Split, pixels: Literal["exact", "fast"]) -> None:
    """Decode a split as extraction does."""
    decoder = decoder_of(split, pixels)
    for batch in range(len(decoder)):
        assert decoder[batch].images is not None


def theirs(contents: Sequence[bytes], decode: Callable[[bytes], np.ndarray]) -> None:
    """Decode the same bytes, and stack them into a batch."""
    torch.from_numpy(np.stack([decode(content) for content in contents]))


def seconds(call: Callable[[], Any]) -> float:
    """Return how long a call takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def core_seconds(call: Callable[[], Any]) -> float:
    """Return the time of a core that a call takes: what other processes take of it does not count."""
    started = time.process_time()
    call()
    return time.process_time() - started


def main() -> int:
    """Print both comparisons; return 1 where one falls short of its bar."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        names = write_jpegs(Path(folder), IMAGES)
        split = file_split(Path(folder), names)
        contents = [(Path(folder) / name).read_bytes() for name in names]
        return max(
            compare(split, "exact", "PIL", contents, bare_pil),
            compare(split, "fast", "torchvision", contents, bare_torchvision),
        )


def compare(
    split: Split,
    pixels: Literal["exact", "fast"],
    name: str,
    contents: Sequence[bytes],
    bare: Callable[[bytes], np.ndarray],
) -> int:
    """Time both batch by batch, in turns and in either order, so that other load hits both."""
    decoder = decoder_of(split, pixels)
    times: list[tuple[float, float]] = []
    for turn in range(2 + REPEATS):
        batch = turn % len(decoder)
        calls = [
            partial(theirs, contents[batch * BATCH :][:BATCH], bare),
            partial(decoder.__getitem__, batch),
        ]
        order = (0, 1) if turn // 2 % 2 else (1, 0)
        taken = {which: core_seconds(calls[which]) for which in order}
        times.append((taken[0], taken[1]))
    # The first two load libraries and fill caches.
    del times[:2]
    ratio = statistics.median(theirs / own for theirs, own in times)
    speeds = [BATCH / statistics.median(column) for column in zip(*times, strict=True)]
    print(
        f"decode: {pixels} {speeds[1]:.0f} images/s/core, bare {name} {speeds[0]:.0f}: ratio {ratio:.3f}, "
        f"bar {SPEED_BAR:.2f} ({REPEATS} interleaved batches of {BATCH} JPEGs of 500 x 375, torch "
        f"{torch.backends.cpu.get_cpu_capability()})"
    )
    return int(ratio < SPEED_BAR)


if __name__ == "__main__":
    sys.exit(main())
