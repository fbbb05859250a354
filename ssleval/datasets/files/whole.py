"""Decode images whole: refuse those whose data end early, though the file ends well.

PIL's decoders fill the missing part with grey or black. libjpeg warns, and PIL drops its warnings. Here its
decoder gets the data up to each marker and then padding, which it skips where all blocks of the stretch are
complete, and decodes in their place otherwise. The parts of a TIFF that are JPEGs are decoded twice.
"""

import re
import zlib
from collections.abc import Iterator
from io import BytesIO
from struct import unpack_from
from typing import Any

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

_MARKER = re.compile(rb"\xff([^\x00\xff])")
_END, _SCAN, _INTERVAL, _RESTARTS = 0xD9, 0xDA, 0xDD, range(0xD0, 0xD8)
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE, _LOSSLESS = 0xC2, (0xC3, 0xCB)
_ALONE = frozenset({0x01, 0xD8, *_RESTARTS})
"""Markers without a length."""
_PADDING = b"\xff\x00" * 8
"""Eight bytes of ones: as many as libjpeg reads ahead, and the start of no Huffman code."""
_LEVEL = 165
"""What an image holds before it is decoded: a level that few rows end in."""
_EARLY = "its data end early"


def load_whole(image: Image.Image, content: bytes) -> None:
    """Decode ``image``, which was opened from ``content``; OSError where its data end early.

    A JPEG may lack the last eight bytes of its data, a block or two. Arithmetic coding is refused.
    """
    if isinstance(image, JpegImageFile):
        _load_jpeg(image, content)
        return
    # The first frame of a GIF may cover a part of it only.
    if image.format == "PNG" or (image.format == "GIF" and image.tile[0][1] == (0, 0, *image.size)):  # pyright: ignore[reportAttributeAccessIssue]
        image.im = _uniform(image.mode, image.size, _LEVEL).im
        image.load()
        if _lacks_rows(image, content):
            raise OSError(_EARLY)
    image.load()
    if image.format == "PNG":
        _check_chunks(content)
    if image.format == "TIFF" and image.info.get("compression") == "jpeg":
        _check_parts(image, content)


def _load_jpeg(image: JpegImageFile, content: bytes) -> None:
    image.load_prepare()
    name, extents, _, arguments = image.tile[0]
    decoder = Image._getdecoder(image.mode, name, arguments, image.decoderconfig)
    try:
        decoder.setimage(image.im, extents)
        _feed(decoder, content)
    finally:
        decoder.cleanup()
    image.tile = []


def _feed(decoder: Any, content: bytes) -> None:
    start = 0
    for end, padding in _stretches(content):
        unread = content[start:end] + padding
        used, fault = decoder.decode(unread)
        if fault:
            raise OSError("broken data")
        if used < 0:
            return
        # One byte more tells whether the padding was skipped or only read ahead.
        if used < len(unread) or decoder.decode(b"\0")[0] != 1:
            raise OSError(_EARLY)
        start = end
    if decoder.decode(b"\xff\xd9") != (-1, 0):
        raise OSError(_EARLY)


def _stretches(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the ends of compressed data, each at a marker, and what to put there.

    OSError where restarts or a part of the coefficients of a component are missing.
    """
    position, restarts, expected, interval, frame = 0, -1, 0, 0, b""
    missing: dict[int, set[int]] = {}
    while (found := _MARKER.search(content, position)) is not None:
        marker, position = found[1][0], found.end()
        if restarts >= 0:
            yield found.start(), _PADDING
        if restarts >= 0 and marker == _RESTARTS[restarts % 8]:
            restarts += 1
        elif 0 <= restarts != expected:
            raise OSError(_EARLY)
        if marker == _END:
            break
        if marker in _ALONE:
            continue
        body, restarts = position + 2, -1
        position += unpack_from(">H", content, position)[0]
        if marker in _FRAMES:
            frame = content[found.end() - 1 : position]
            missing = {component: set(range(64)) for component in frame[9::3]}
        elif marker == _INTERVAL:
            interval = unpack_from(">H", content, body)[0]
        elif marker == _SCAN:
            components, (first, last, bits) = (
                content[body + 1 : position - 3 : 2],
                content[position - 3 : position],
            )
            restarts, expected = 0, _restarts(frame, components, interval) if interval else 0
            done = range(64) if frame[0] != _PROGRESSIVE else range(first, 0 if bits & 15 else last + 1)
            for component in components:
                missing[component].difference_update(done)
    else:
        yield len(content), b""
    if any(missing.values()):
        raise OSError(_EARLY)


def _restarts(frame: bytes, components: bytes, interval: int) -> int:
    height, width, _ = unpack_from(">HHB", frame, 4)
    factors = {
        component: divmod(sampling, 16) for component, sampling in zip(frame[9::3], frame[10::3], strict=True)
    }
    most = [max(factor) for factor in zip(*factors.values(), strict=True)]
    own = [1, 1] if len(components) > 1 else factors[components[0]]
    side = 1 if frame[0] in _LOSSLESS else 8
    across, down = (
        -(-length * factor // (side * largest))
        for length, factor, largest in zip((width, height), own, most, strict=True)
    )
    return -(-across * down // interval) - 1


def _check_chunks(content: bytes) -> None:
    """Refuse a PNG with a damaged critical chunk, or without its last one: PIL does not check the pixels'."""
    position, kind, view = 8, b"", memoryview(content)
    while kind != b"IEND":
        length, kind = unpack_from(">I4s", content, position)
        stated = unpack_from(">I", content, position + 8 + length)[0]
        if kind[:1].isupper() and zlib.crc32(view[position + 4 : position + 8 + length]) != stated:
            raise OSError(f"wrong checksum of a chunk {kind.decode('ascii', 'replace')}")
        position += 12 + length


def _uniform(mode: str, size: tuple[int, int], level: int) -> Image.Image:
    bands = Image.getmodebands(mode)
    return Image.new(mode, size, level if bands == 1 else (level,) * bands)


def _lacks_rows(image: Image.Image, content: bytes) -> bool:
    """Return whether rows of an image that was decoded into `_LEVEL` still have it."""
    width, height = image.size
    untouched = _uniform(image.mode, (width, 1), _LEVEL).tobytes()
    # Two rows, since the last pass of an interlaced image writes every other one.
    if all(
        image.crop((0, row, width, row + 1)).tobytes() != untouched
        for row in {max(0, height - 2), height - 1}
    ):
        return False
    with Image.open(BytesIO(content), formats=(image.format or "",)) as again:
        again.im = _uniform(again.mode, again.size, 255 - _LEVEL).im
        again.load()
        return again.tobytes() != image.tobytes()


def _check_parts(image: Image.Image, content: bytes) -> None:
    tags: Any = image.tag_v2  # pyright: ignore[reportAttributeAccessIssue]
    tables = tags.get(347, b"\xff\xd8\xff\xd9")[:-2]
    for start, length in zip(tags.get(324) or tags[273], tags.get(325) or tags[279], strict=True):
        part = tables + content[start + 2 : start + length]
        with Image.open(BytesIO(part), formats=("JPEG",)) as opened:
            load_whole(opened, part)
