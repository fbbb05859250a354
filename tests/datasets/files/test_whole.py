"""Images whose data end early though the file ends well, and files that are no images."""

import os
import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from ssleval.datasets.files import images
from ssleval.datasets.files.images import decode, opened
from ssleval.errors import DataError


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def scene(mode: str = "RGB", size: tuple[int, int] = (75, 58)) -> Image.Image:
    """A smooth picture with noise, as photographs are."""
    height, width = size[1], size[0]
    ramp = np.add.outer(np.arange(height), np.arange(width))[..., None] + np.array([0, 40, 80])
    noisy = ramp + np.random.default_rng(0).integers(0, 40, (height, width, 3))
    return Image.fromarray((noisy % 256).astype(np.uint8)).convert(mode)


def plain(content: bytes) -> np.ndarray:
    """What PIL alone reads."""
    return np.asarray(Image.open(BytesIO(content)).convert("RGB"))


JPEGS: list[dict[str, Any]] = [
    {},
    {"progressive": True},
    {"subsampling": 0, "optimize": True, "quality": 30},
    {"restart_marker_rows": 1},
    {"restart_marker_blocks": 1},
    {"progressive": True, "restart_marker_blocks": 3},
]


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", JPEGS, ids=str)
def test_whole_jpegs_keep_their_pixels_and_cut_ones_are_refused(mode: str, options: dict[str, Any]) -> None:
    content = encoded(scene(mode), "JPEG", **options)
    np.testing.assert_array_equal(np.asarray(decode(content, "x")), plain(content))
    start = content.index(b"\xff\xda") + 20
    for length in range(start, len(content) - 12, 61):
        cut = content[:length].rstrip(b"\xff") + b"\xff\xd9"
        with pytest.raises(DataError, match=r"x\.jpg: cannot be decoded"):
            decode(cut, "x.jpg")


@pytest.mark.parametrize("progressive", [False, True])
def test_a_hole_between_restarts_is_refused(progressive: bool) -> None:
    content = encoded(scene(), "JPEG", restart_marker_blocks=2, progressive=progressive)
    start = content.index(b"\xff\xda") + 30
    first = content.index(b"\xff\xd2", start)
    hole = content[:first] + content[content.index(b"\xff\xd4", first) :]
    assert len(plain(hole)) == 58
    with pytest.raises(DataError, match="end early"):
        decode(hole, "x")


def test_a_progressive_jpeg_without_its_last_scans_is_refused() -> None:
    content = encoded(scene(), "JPEG", progressive=True)
    with pytest.raises(DataError, match="end early"):
        decode(content[: content.rindex(b"\xff\xda")] + b"\xff\xd9", "x")


def test_what_follows_a_jpeg_is_not_read() -> None:
    content = encoded(scene(), "JPEG")
    for more in (b"", b"\0" * 999, content[: len(content) // 2]):
        np.testing.assert_array_equal(np.asarray(decode(content + more, "x")), plain(content))


def test_a_thumbnail_inside_a_jpeg_is_no_part_of_it() -> None:
    inner = encoded(scene(size=(20, 20)), "JPEG", restart_marker_blocks=1)
    content = encoded(scene(), "JPEG", comment=inner)
    assert content.count(b"\xff\xda") > 1
    np.testing.assert_array_equal(np.asarray(decode(content, "x")), plain(content))


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(rows: int, *, ends: bytes = b"IEND", level: int = 165) -> bytes:
    """A PNG of 8 rows of 5 grey pixels, of which it holds ``rows``."""
    pixels = zlib.compress((b"\0" + bytes([level] * 5)) * rows)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 5, 8, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", pixels) + chunk(ends, b"")


@pytest.mark.parametrize("level", [0, 90, 165, 255])
def test_a_png_with_a_fresh_end_and_too_few_rows_is_refused(level: int) -> None:
    assert np.asarray(decode(png(8, level=level), "x"))[..., 0].tolist() == [[level] * 5] * 8
    for rows in (7, 4):
        with pytest.raises(DataError, match="end early"):
            decode(png(rows, level=level), "x")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("level", [0, 165])
def test_every_kind_of_png_keeps_its_pixels(mode: str, level: int) -> None:
    flat = Image.new("L", (9, 7), level)
    image = Image.new("I;16", (9, 7), level * 257) if mode == "I;16" else flat.convert(mode)
    expected = np.full((7, 9, 1), level) if mode == "I;16" else np.asarray(image.convert("L"))[..., None]
    assert (np.asarray(decode(encoded(image, "PNG"), "x")) == expected).all()


def test_damaged_chunks_of_a_png_are_refused() -> None:
    content = bytearray(encoded(scene(), "PNG"))
    content[content.index(b"IDAT") + 60] ^= 4
    content[-13] ^= 1
    with pytest.raises(DataError, match=r"wrong checksum of a chunk IDAT|broken|incorrect"):
        decode(bytes(content), "x")
    content = bytearray(encoded(scene(), "PNG"))
    content[content.index(b"IEND") - 8] ^= 1
    with pytest.raises(DataError, match="wrong checksum of a chunk IDAT"):
        decode(bytes(content), "x")
    with pytest.raises(DataError, match="cannot be decoded"):
        decode(png(8, ends=b"tEXt"), "x")


def test_a_gif_with_an_early_end_code_is_refused() -> None:
    # One row of two: clear, 1, 2, end, in codes of 3 bits.
    codes = 4 | 1 << 3 | 2 << 6 | 5 << 9
    head = b"GIF89a" + struct.pack("<HHBBB", 2, 2, 0x91, 0, 0) + bytes(range(12))
    frame = b"," + struct.pack("<HHHHB", 0, 0, 2, 2, 0) + b"\x02\x02" + struct.pack("<H", codes) + b"\0;"
    with pytest.raises(DataError, match="cannot be decoded"):
        decode(head + frame, "x")
    whole = encoded(scene("P"), "GIF")
    np.testing.assert_array_equal(np.asarray(decode(whole, "x")), plain(whole))


def test_the_rest_of_a_gif_whose_frame_is_smaller_stays_background() -> None:
    whole = bytearray(encoded(Image.new("P", (4, 3), 1), "GIF"))
    whole[6:10] = struct.pack("<HH", 6, 5)
    np.testing.assert_array_equal(np.asarray(decode(bytes(whole), "x")), plain(bytes(whole)))


def test_a_tiff_of_jpegs_that_end_early_is_refused() -> None:
    content = encoded(scene(), "TIFF", compression="jpeg")
    np.testing.assert_array_equal(np.asarray(decode(content, "x")), plain(content))
    image: Any = Image.open(BytesIO(content))
    start, length = image.tag_v2[273][0], image.tag_v2[279][0]
    cut = bytearray(content)
    cut[start + length // 2 : start + length // 2 + 2] = b"\xff\xd9"
    assert plain(bytes(cut)).shape == (58, 75, 3)
    with pytest.raises(DataError, match="end early"):
        decode(bytes(cut), "x")


def test_a_mask_is_decoded_whole_as_well(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    path.write_bytes(png(4, level=1))
    with pytest.raises(DataError, match=r"mask\.png.*end early"), opened(path, str(path)):
        pass


def test_postscript_named_png_starts_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from PIL import EpsImagePlugin

    started: list[object] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", started.append)
    path = tmp_path / "photo.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(DataError, match=r"photo\.png: cannot be decoded \(none of JPEG, PNG"):
        decode(path, str(path))
    assert not started


@pytest.mark.parametrize("kind", ["pipe", "device", "link", "folder", "socket"])
def test_what_is_no_regular_file_is_refused_and_never_waited_for(tmp_path: Path, kind: str) -> None:
    import socket

    path = tmp_path / "x.png"
    with socket.socket(socket.AF_UNIX) as listening:
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "socket":
            listening.bind(os.path.relpath(path))
        elif kind == "folder":
            path.mkdir()
        else:
            target = Path("/dev/zero" if kind == "device" else tmp_path / "pipe")
            if kind == "link":
                os.mkfifo(target)
            path.symlink_to(target)
        with pytest.raises(DataError, match=r"x\.png: cannot be decoded \(not a regular file\)"):
            decode(path, str(path))


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    with path.open("wb") as file:
        file.truncate(images.LARGEST + 1)
    with pytest.raises(DataError, match=r"2,147,483,649 bytes, at most"):
        decode(path, str(path))


def test_declared_pixels_beyond_pils_limit_are_not_decoded() -> None:
    content = bytearray(encoded(scene(), "PNG"))
    content[16:24] = struct.pack(">II", 60_000, 60_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    with pytest.raises(DataError, match="exceeds limit"):
        decode(bytes(content), "x")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "PPM"])
def test_damage_anywhere_is_an_error_of_one_kind(kind: str) -> None:
    content, draw = encoded(scene(size=(30, 20)), kind), np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(content)
        for place in draw.integers(0, len(content), 3):
            damaged[place] = int(draw.integers(256))
        try:
            assert decode(bytes(damaged), "x").mode == "RGB"
        except DataError as error:
            assert str(error).startswith("x: ")  # noqa: PT017


def test_masks_and_depths_are_read_with_the_same_care(monkeypatch: pytest.MonkeyPatch) -> None:
    from ssleval.errors import ConfigError

    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(ConfigError, match="LOAD_TRUNCATED_IMAGES"), opened(png(8), "x"):
        pass
