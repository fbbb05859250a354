"""davis:PATH, clips in the layout of DAVIS: the object of every pixel in every frame.

Files are JPEGImages/480p/CLIP/FRAME.jpg and Annotations/480p/CLIP/FRAME.png. The split ``val`` holds the
clips of ImageSets/2017/val.txt, or all annotated clips where that list is absent. Palette masks follow
DAVIS-2017: 0 is background, 1... are objects, 255 is void and counts as background. Grey masks with 0 and 255
alone follow DAVIS-2016: one object. Grey masks with other values hold indices; 255 beside them is refused.

Source: Pont-Tuset et al. 2017, arXiv:1704.00675; https://davischallenge.org
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from ssleval.core import Dataset, DatasetCard, DatasetOptions, Split, datasets, digest
from ssleval.datasets.files.images import EXTENSIONS, file_split, is_stray, opened
from ssleval.datasets.published import read_lines
from ssleval.errors import DataError

IMAGES = "JPEGImages/480p"
MASKS = "Annotations/480p"
VOID = 255


@datasets.register("davis")
def davis(location: str, options: DatasetOptions) -> Dataset:
    """Open the clips below a folder."""
    root = Path(location).expanduser().absolute()
    pairs = [pair for clip in _clips(root) for pair in _frames(root, clip)]

    def open_split(name: str) -> Split:  # noqa: ARG001
        images, masks = (
            file_split(root, paths, full_hash=options.full_hash) for paths in zip(*pairs, strict=True)
        )
        ids = [path.removeprefix(f"{MASKS}/").removesuffix(".png") for path in masks.ids]
        mark = digest([images.fingerprint, masks.fingerprint])
        return Split(ids, images.image, None, mark, partial(_mask, root, masks.ids))

    name, lengths = f"davis:{location}", {"val": len(pairs)}
    card = DatasetCard(name, "video", lengths=lengths, train_split="val", test_split="val", source=str(root))
    return Dataset(card, open_split)


def _mask(root: Path, paths: Sequence[str], index: int) -> UInt8[np.ndarray, "H W"]:
    """Return the object of every pixel, 0 where there is none."""
    path = root / paths[index]
    with opened(path, str(path)) as image:
        mode, mask = image.mode, np.array(image)
    if mode not in {"P", "L"}:
        raise DataError(f"{path}: a mask of mode {mode!r}; expected 8-bit indices, palette or grey")
    void = mask == VOID
    if mode == "L" and void.any():
        if (mask[~void] != 0).any():
            raise DataError(f"{path}: grey with 255 and {mask[~void].max()}; save indices with a palette")
        return void.astype(np.uint8)
    return np.where(void, np.uint8(0), mask)


def _clips(root: Path) -> list[str]:
    listed = root / "ImageSets" / "2017" / "val.txt"
    if listed.is_file():
        return read_lines(listed)
    folder = root / MASKS
    clips = []
    if folder.is_dir():
        clips = sorted(path.name for path in folder.iterdir() if path.is_dir() and not is_stray(path.name))
    if not clips:
        raise DataError(f"{root}: no clips in {MASKS}; expected the layout of DAVIS")
    return clips


def _frames(root: Path, clip: str) -> list[tuple[str, str]]:
    """Return the paths of images and masks of one clip, in order of their names."""
    images = _files(root / IMAGES / clip, EXTENSIONS)
    masks = _files(root / MASKS / clip, (".png",))
    if not images or images.keys() != masks.keys():
        alone = sorted(images.keys() ^ masks.keys())
        raise DataError(
            f"{root}: clip {clip}: {len(images)} frames, {len(masks)} masks"
            + (f"; {alone[0]} is only in one of {IMAGES} and {MASKS}" if alone else "")
        )
    return [(f"{IMAGES}/{clip}/{images[name]}", f"{MASKS}/{clip}/{masks[name]}") for name in sorted(images)]


def _files(folder: Path, endings: tuple[str, ...]) -> dict[str, str]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    files = (path for path in folder.iterdir() if not is_stray(path.name))
    return {path.stem: path.name for path in files if path.suffix.lower() in endings}
