"""davis:PATH, clips in the layout of DAVIS: the object of every pixel in every frame.

Files are JPEGImages/480p/CLIP/FRAME.jpg and Annotations/480p/CLIP/FRAME.png. The split ``val`` holds the
clips of the first list there is: ImageSets/2017/val.txt, ImageSets/2016/val.txt, or ImageSets/480p/val.txt,
in which the archive of DAVIS-2016 lists frames. A folder without a list is refused: nobody can tell clips to
train on from clips to score. Palette masks follow DAVIS-2017: 0 is background, 1... are objects, 255 is
void and counts as background. Grey masks with 0 and 255 alone follow DAVIS-2016: one object. Grey masks with
other values hold indices; 255 beside them is refused.

Source: Pont-Tuset et al. 2017, arXiv:1704.00675; https://davischallenge.org
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import UInt8

from ssleval.core import Dataset, DatasetCard, DatasetOptions, Split, datasets, digest
from ssleval.datasets.files.images import EXTENSIONS, file_split, is_stray, opened
from ssleval.datasets.files.places import located
from ssleval.datasets.published import read_lines
from ssleval.errors import DataError

IMAGES = "JPEGImages/480p"
MASKS = "Annotations/480p"
LISTS = tuple(f"ImageSets/{version}/val.txt" for version in ("2017", "2016", "480p"))
VOID = 255


@datasets.register("davis")
def davis(location: str, options: DatasetOptions) -> Dataset:
    """Open the clips below a folder."""
    root = located("davis", location).absolute()
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
    """Return the names of the clips to score, in the order of the first list that is there."""
    listed = next((root / name for name in LISTS if (root / name).is_file()), None)
    if listed is None:
        raise DataError(
            f"{root}: none of {', '.join(LISTS)}, which tell the clips to score from those to train on; "
            f"unpack the whole archive of DAVIS, or write the names of your clips to {LISTS[0]}, one a line"
        )
    lines = read_lines(listed)
    if listed.parent.name == "480p":
        # One line for every frame: /JPEGImages/480p/CLIP/FRAME.jpg /Annotations/480p/CLIP/FRAME.png
        lines = list(dict.fromkeys(PurePosixPath(line.split()[0]).parent.name for line in lines))
    if not lines or len(set(lines)) < len(lines):
        raise DataError(f"{listed}: {len(lines)} clips, {len(set(lines))} different ones; list each one once")
    return lines


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
