"""Rendered splits as files, in the layouts other tools read.

    DIR/classification/{train,test}/CLASS/ID.png      ImageFolder
    DIR/voc/JPEGImages/ID.png, SegmentationClass/ID.png, ImageSets/Segmentation/{train,val}.txt
    DIR/depth/{train,test}/{rgb,depth}/ID.png         16-bit millimetres, 0 unknown
    DIR/davis/JPEGImages/480p/CLIP/FRAME.png, Annotations/480p/..., ImageSets/2017/val.txt

Pictures are PNG, so that every tool reads the same pixels. ``pictures="jpg"`` is for tools that look for
files of that name only; JPEG changes the pixels.
"""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from PIL import Image

from ssleval.datasets.scenes.items import SPLITS
from ssleval.datasets.scenes.render import MASK_CLASSES
from ssleval.datasets.scenes.sheet import painted, painted_classes
from ssleval.datasets.scenes.store import VERSION, array, open_split
from ssleval.datasets.scenes.targets import names, picture, stored
from ssleval.errors import ConfigError

Pictures: TypeAlias = Literal["png", "jpg"]
_VOC_SPLITS = {"train": "train", "test": "val"}


def export(destination: Path, cache: Path, pictures: Pictures = "png") -> int:
    """Write `train`, `test` and `video` under an empty ``destination``; return the number of images."""
    if destination.exists() and any(destination.iterdir()):
        raise ConfigError(f"{destination}: not empty; export {VERSION} to a new folder")
    written = [_labelled(destination, open_split(cache, split), split, pictures) for split in _VOC_SPLITS]
    written.append(_davis(destination / "davis", open_split(cache, "video"), pictures))
    count = sum(1 for _ in chain.from_iterable(written))
    _write_lists(destination)
    return count


def _labelled(destination: Path, folder: Path, split: str, pictures: Pictures) -> Iterator[Path]:
    for index, name in enumerate(names(split, len(array(folder, "image")))):
        image, flat = picture(folder, index), f"{split}_{Path(name).name}"
        voc, depth = destination / "voc", destination / "depth" / split
        yield _save(image, destination / "classification" / split / f"{name}.{pictures}")
        yield _save(image, voc / "JPEGImages" / f"{flat}.{pictures}")
        yield _save(painted_classes(stored("mask", folder, index)), voc / "SegmentationClass" / f"{flat}.png")
        yield _save(image, depth / "rgb" / f"{flat}.{pictures}")
        yield _save(Image.fromarray(np.array(array(folder, "depth")[index])), depth / "depth" / f"{flat}.png")


def _davis(destination: Path, folder: Path, pictures: Pictures) -> Iterator[Path]:
    for index, name in enumerate(names("video", len(array(folder, "image")))):
        yield _save(picture(folder, index), destination / "JPEGImages" / "480p" / f"{name}.{pictures}")
        instances = painted(stored("instances", folder, index))
        yield _save(instances, destination / "Annotations" / "480p" / f"{name}.png")


def _save(image: Image.Image, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=95, subsampling=0)  # PNG has neither setting
    return path


def _write_lists(destination: Path) -> None:
    for split, listed in _VOC_SPLITS.items():
        lines = [f"{split}_{Path(name).name}" for name in names(split, SPLITS[split].length)]
        _write(destination / "voc" / "ImageSets" / "Segmentation" / f"{listed}.txt", lines)
    _write(destination / "voc" / "classes.txt", ["background", *MASK_CLASSES])
    clips = sorted({name.split("/")[0] for name in names("video", SPLITS["video"].length)})
    _write(destination / "davis" / "ImageSets" / "2017" / "val.txt", clips)


def _write(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
