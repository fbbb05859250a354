"""A contact sheet that shows every kind of picture and of ground truth."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from ssleval.core.files import write_atomically
from ssleval.datasets.scenes.categories import CATEGORIES
from ssleval.datasets.scenes.clips import FRAMES
from ssleval.datasets.scenes.edits import EDITS
from ssleval.datasets.scenes.items import item
from ssleval.datasets.scenes.render import IGNORE, SIDE

_ACROSS = 10
_ZOOM = 2
_MARGIN = 16
"""Pixels of the line of text above every row."""


def _palette() -> UInt8[np.ndarray, "256 3"]:
    # As in VOC: three bits of the label become the high bits of the channels, the next three the next bits.
    labels = np.arange(256)
    bits = [(labels >> place) & 1 for place in range(9)]
    return np.stack([bits[c] << 7 | bits[c + 3] << 6 | bits[c + 6] << 5 for c in range(3)], 1).astype(
        np.uint8
    )


PALETTE: UInt8[np.ndarray, "256 3"] = _palette()
"""The colours of VOC and DAVIS masks."""


def painted(labels: UInt8[np.ndarray, "H W"]) -> Image.Image:
    """Return a mask as an indexed image in the colours of `PALETTE`."""
    image = Image.fromarray(labels).convert("P")
    image.putpalette(PALETTE.reshape(-1).tolist())
    return image


def painted_classes(mask: UInt8[np.ndarray, "H W"]) -> Image.Image:
    """Return a mask of classes with every class moved up by one, since 0 is the background of VOC."""
    return painted(np.where(mask == IGNORE, IGNORE, mask + np.uint8(1)).astype(np.uint8))


def draw_sheet(path: Path) -> None:
    """Write the contact sheet of `scenes` as a PNG; it takes about a second."""
    clip = [item("video", 3 * FRAMES + frame) for frame in range(0, FRAMES, 2)]
    rows = [
        *map(_categories, range(0, len(CATEGORIES), _ACROSS)),
        ("ground truth: picture, classes, instances, depth, normals", _ground_truth((7, 213))),
        ("video: every other frame", [Image.fromarray(frame["image"]) for frame in clip]),
        ("video: instances", [painted(frame["instances"]) for frame in clip]),
        ("retrieval: query, easy x 4, hard x 3, junk, distractor", _retrieval(7)),
        (f"copies: original, {', '.join(EDITS)}, distractors", _copies(1)),
        ("pairs: two views and their key points", _pairs((3, 8, 9, 11, 15))),
    ]
    height = SIDE * _ZOOM + _MARGIN
    sheet = Image.new("RGB", (_ACROSS * SIDE * _ZOOM, height * len(rows)), "white")
    pen = ImageDraw.Draw(sheet)
    for index, (title, pictures) in enumerate(rows):
        pen.text((4, index * height + 2), title, fill="black")
        for column, picture in enumerate(pictures):
            tile = picture.convert("RGB").resize((SIDE * _ZOOM, SIDE * _ZOOM), Image.Resampling.NEAREST)
            sheet.paste(tile, (column * SIDE * _ZOOM, index * height + _MARGIN))
    write_atomically(path, lambda draft: sheet.save(draft, format="PNG"))


def _shown(split: str, index: int) -> Image.Image:
    return Image.fromarray(item(split, index)["image"])


def _categories(first: int) -> tuple[str, list[Image.Image]]:
    names = CATEGORIES[first : first + _ACROSS]
    return f"categories: {', '.join(names)}", [_shown("test", first + k) for k in range(len(names))]


def _ground_truth(indices: tuple[int, ...]) -> list[Image.Image]:
    pictures = list[Image.Image]()
    for index in indices:
        arrays = item("test", index)
        depth = arrays["depth"].astype(np.float32)
        near = np.where(depth > 0, 255 * depth[depth > 0].min() / np.maximum(depth, 1), 0)
        normal = arrays["normals"].astype(np.int16)
        normals = np.where(normal.any(-1, keepdims=True), 128 - normal, 0)
        pictures += [
            Image.fromarray(arrays["image"]),
            painted_classes(arrays["mask"]),
            painted(arrays["instances"]),
            Image.fromarray(near.astype(np.uint8)),
            Image.fromarray(normals.astype(np.uint8)),
        ]
    return pictures


def _retrieval(query: int) -> list[Image.Image]:
    gallery = [_shown("retrieval_gallery", 8 * query + sighting) for sighting in range(8)]
    return [_shown("retrieval_queries", query), *gallery, _shown("retrieval_gallery", 900 + query)]


def _copies(source: int) -> list[Image.Image]:
    edited = [_shown("copies_queries", source * len(EDITS) + edit) for edit in range(len(EDITS))]
    others = [_shown("copies_database", 300 + k) for k in range(3)]
    return [_shown("copies_database", source), *edited, *others]


def _pairs(pairs: tuple[int, ...]) -> list[Image.Image]:
    pictures = list[Image.Image]()
    for view in (item("pairs", 2 * pair + side) for pair in pairs for side in range(2)):
        pictures.append(Image.fromarray(view["image"]))
        pen = ImageDraw.Draw(pictures[-1])
        for (x, y), color in zip(view["points"], PALETTE[1:].tolist(), strict=False):
            if np.isfinite(x):
                pen.rectangle((int(x) - 1, int(y) - 1, int(x) + 1, int(y) + 1), fill=tuple(color))
    return pictures
