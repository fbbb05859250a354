"""Fast pixels: at most two grey levels from PIL's, the same refusals, and keys of their own."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssleval.core import Geometry, Interpolation, RandomView, Split
from ssleval.core.geometry import apply
from ssleval.datasets.files.images import decode, file_split
from ssleval.errors import ConfigError, DataError
from ssleval.features import FeatureSource
from ssleval.features.decode import Decoder
from ssleval.features.fast import decode_jpeg, fast_view
from ssleval.features.geometry import random_view
from tests.features.feature_fakes import PATCHES, Tiny, context_of, dataset_of, request_of, split_of

CALTECH = Path(__file__).parents[3] / "shared" / "data" / "caltech101" / "test"


def photograph(size: tuple[int, int] = (150, 113), seed: int = 0) -> Image.Image:
    """Return smooth colours with grain and one hard edge."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), np.float32)
    smooth = smooth + random.normal(0, 6, smooth.shape)
    smooth[size[1] // 3 : size[1] // 2, size[0] // 4 : size[0] // 2] = 255
    return Image.fromarray(smooth.clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@dataclass(frozen=True)
class Contents:
    """Images from bytes in memory."""

    contents: Sequence[bytes]

    def encoded(self, index: int) -> bytes:
        return self.contents[index]

    def __call__(self, index: int) -> Image.Image:
        return decode(self.contents[index], f"{index}.jpg")


def split_from(*contents: bytes) -> Split:
    return Split([f"{index}.jpg" for index in range(len(contents))], Contents(contents), None, "f")


def apart(fast: np.ndarray, exact: np.ndarray) -> np.ndarray:
    assert fast.shape == exact.shape
    assert fast.dtype == exact.dtype == np.uint8
    return np.abs(fast.astype(int) - exact.astype(int))


def crop_of(split: Split, index: int) -> Image.Image:
    return split.image(index).crop((0, 0, 20, 20))


SIZES = [(150, 113), (113, 150), (60, 40), (40, 60), (224, 224), (97, 300), (300, 97)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_fast_pixels_are_at_most_two_grey_levels_off(
    size: tuple[int, int], interpolation: Interpolation
) -> None:
    split = split_from(encoded(photograph(size), quality=90))
    geometries = (
        Geometry(64, "short", 56, interpolation),
        Geometry(56, "square", None, interpolation),
        Geometry(224, "square", None, interpolation, flip=True),
        Geometry(72, "long", None, interpolation, multiple=8),
        Geometry(40, "long", 56, interpolation),
        Geometry(64, "short", 57, interpolation, crop_start="down"),
    )
    for geometry in geometries:
        gaps = apart(fast_view(geometry, split, 0), apply(geometry, split.image(0)))
        assert gaps.max() <= 2
        assert gaps.mean() < 0.05
    view = RandomView(0, 48, interpolation, seed=3)
    gaps = apart(fast_view(view, split, 0), random_view(view, split.image(0), "0.jpg"))
    assert gaps.max() <= 2


@pytest.mark.parametrize("interpolation", ["nearest", "lanczos"])
def test_filters_that_torchvision_lacks_are_pils(interpolation: Interpolation) -> None:
    split, geometry = split_from(encoded(photograph())), Geometry(64, "short", 56, interpolation)
    assert not apart(fast_view(geometry, split, 0), apply(geometry, split.image(0))).any()


TURNED = Image.Exif()
TURNED[0x0112] = 6

PLAIN: dict[str, bytes] = {
    "baseline": encoded(photograph()),
    "4:4:4": encoded(photograph(), subsampling=0, quality=95),
    "grey": encoded(photograph().convert("L")),
    "optimised": encoded(photograph(), optimize=True),
    "a comment": encoded(photograph(), comment=b"\xff\xd9 and \xff\xda"),
    "turned by EXIF": encoded(photograph(), exif=TURNED),
}  # fmt: skip
OTHERS: dict[str, bytes] = {
    "progressive": encoded(photograph(), progressive=True),
    "restarts": encoded(photograph(), restart_marker_blocks=4),
    "four inks": encoded(photograph().convert("CMYK")),
    "PNG": encoded(photograph(), "PNG"),
    "palette": encoded(photograph().quantize(16), "PNG"),
    "transparent": encoded(photograph().convert("RGBA"), "PNG"),
    "16 bits": encoded(Image.fromarray(np.arange(0, 60000, 25).astype(np.uint16).reshape(40, 60)), "PNG"),
    "WebP": encoded(photograph(), "WEBP"),
    "grey to the corner": encoded(Image.new("RGB", (40, 40), (128, 128, 128))),
}


@pytest.mark.parametrize("kind", [*PLAIN, *OTHERS])
def test_every_kind_of_file_decodes_as_by_pil(kind: str) -> None:
    content = {**PLAIN, **OTHERS}[kind]
    by_torchvision = decode_jpeg(content)
    assert (by_torchvision is not None) == (kind in PLAIN)
    split = split_from(content)
    exact = np.asarray(split.image(0))
    assert not apart(fast_view(Geometry(None), split, 0), exact).any()
    if by_torchvision is not None:
        assert not apart(by_torchvision, exact).any()


@pytest.mark.parametrize("kind", [*PLAIN, "progressive", "restarts", "PNG"])
def test_cut_files_are_refused_as_by_pil(kind: str) -> None:
    content = {**PLAIN, **OTHERS}[kind]
    for part in (0.3, 0.5, 0.75, 0.9):
        for ending in (b"", b"\xff\xd9", b"\0" * 40):
            cut = content[: int(part * len(content))].rstrip(b"\xff") + ending
            try:
                decode(cut, "0.jpg")
            except DataError:
                with pytest.raises(DataError, match=r"^0\.jpg: cannot be decoded"):
                    fast_view(Geometry(None), split_from(cut), 0)
    for rubbish in (b"", b"\xff\xd8", content[:20], b"\xff\xd8\xff\xda\0", b"GIF89a"):
        with pytest.raises(DataError, match=r"^0\.jpg: cannot be decoded"):
            fast_view(Geometry(None), split_from(rubbish), 0)


def test_a_header_that_states_too_many_pixels_is_refused_before_anything_is_allocated() -> None:
    content = bytearray(PLAIN["baseline"])
    start = content.index(b"\xff\xc0") + 5
    content[start : start + 4] = b"\xff\xff\xff\xff"
    with pytest.raises(DataError, match="cannot be decoded"):
        fast_view(Geometry(None), split_from(bytes(content)), 0)
    with pytest.raises(DataError, match=r"^0\.jpg: 2000 x 1 pixels .* crop it or leave it out"):
        fast_view(Geometry(16_000, "short"), split_from(encoded(Image.new("RGB", (2000, 1)))), 0)


def test_files_belong_to_their_images(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        photograph(seed=ord(name[0])).save(tmp_path / name)
    split = file_split(tmp_path, ["a.jpg", "b.jpg"])
    part = split.subset(np.array([1]))
    assert part.encoded is not None
    assert part.encoded(0) == (tmp_path / "b.jpg").read_bytes()
    # Other images of the same files, such as crops of them, must not be taken for the files.
    cropped = replace(split, image=partial(crop_of, split))
    assert cropped.encoded is None
    assert fast_view(Geometry(None), cropped, 0).shape == (20, 20, 3)
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(DataError, match=r"a\.jpg: cannot be decoded"):
        fast_view(Geometry(None), split, 0)


def test_keys_of_exact_pixels_are_what_they_were_and_fast_ones_have_their_own(tmp_path: Path) -> None:
    geometry, view = Geometry(16, "square"), RandomView(0)
    assert "pixels" not in geometry.recorded()
    assert "pixels" not in view.recorded()
    assert replace(geometry, pixels="fast").recorded() == {**geometry.recorded(), "pixels": "fast"}
    assert replace(view, pixels="fast").recorded() == {**view.recorded(), "pixels": "fast"}
    request = request_of(dataset_of(split_of(4)), PATCHES)
    sources = [FeatureSource(Tiny(), context_of(tmp_path, pixels=kind)) for kind in ("exact", "fast")]
    (exact,), (fast,) = (source.passes([request]) for source in sources)
    assert exact.key != fast.key
    assert (exact.geometry.pixels, fast.geometry.pixels) == ("exact", "fast")


def test_a_task_that_runs_the_model_itself_refuses_fast_pixels(tmp_path: Path) -> None:
    request = replace(request_of(dataset_of(split_of(4))), readouts=())
    with pytest.raises(ConfigError, match="--pixels fast: a task runs the model on noise itself"):
        FeatureSource(Tiny(), context_of(tmp_path, pixels="fast")).check([request])


@pytest.mark.skipif(not CALTECH.is_dir(), reason="needs the images of ../shared/data/caltech101")
def test_real_photographs() -> None:
    names = [str(path.relative_to(CALTECH)) for path in sorted(CALTECH.glob("*/*"))[::45]]
    split, means = file_split(CALTECH, names), []
    for interpolation in ("bilinear", "bicubic"):
        geometry = Geometry(224, "square", None, interpolation)
        exact, fast = (Decoder(split, replace(geometry, pixels=kind), 1) for kind in ("exact", "fast"))
        for row in range(len(split)):
            (one,), (other,) = (decoder[row].images for decoder in (exact, fast))  # pyright: ignore[reportGeneralTypeIssues]
            gaps = apart(other.numpy(), one.numpy())
            assert gaps.max() <= 2
            means.append(gaps.mean())
    assert np.mean(means) < 0.01
