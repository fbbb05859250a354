"""KITTI, Eigen's split with the improved depth: roads from a car, 23,158 to fit on and 652 to score.

The lists are those of BTS and AdaBins; lines whose depth is None are left out (45 of 697 test images). Image
and depth are cropped to the lowest 352 rows and the central 1,216 columns. Depth has 16 bits, 256 units per
metre, 0 is unknown; heads are fitted up to 80 m. Test pixels count inside Garg's crop of that crop.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Float32
from PIL import Image

from ssleval.core import DatasetCard, DatasetOptions, Split, digest
from ssleval.datasets.files.dense import DepthFiles, Window, depth_split, inside
from ssleval.datasets.files.images import ImageFiles
from ssleval.datasets.published import Copy, first_folder, listed_in, published, read_lines
from ssleval.errors import DataError

HEIGHT, WIDTH = 352, 1216
GARG = (0.40810811, 0.99189189, 0.03594771, 0.96405229)
"""First and last + 1 row and column of the cropped image, as fractions."""

LISTS = (
    "kitti_eigen_{split}.txt",
    "eigen_{split}_files_with_gt.txt",
    "kitti_eigen_{split}_files_with_gt.txt",
)
"""The same lists as DINOv2's, BTS's and AdaBins' code name them."""
IMAGES, DEPTHS = ("input", "raw", "."), ("gt_depth", "data_depth_annotated", "gts")
"""Folders that the paths in the lists begin in."""

CARD = DatasetCard(
    name="kitti",
    target="depth",
    lengths={"train": 23_158, "test": 652},
    max_depth=80.0,
    license="CC-BY-NC-SA-3.0",
    source="Geiger et al. 2012, Uhrig et al. 2017, https://www.cvlibs.net/datasets/kitti/ (175 GB of images, "
    "14 GB of depth): kitti_eigen_train.txt, kitti_eigen_test.txt, input/ and gt_depth/ in kitti/",
)


def _image(files: ImageFiles, index: int) -> Image.Image:
    image = files(index)
    left, top = _corner(*image.size, files.paths[index])
    return image.crop((left, top, left + WIDTH, top + HEIGHT))


def _depth(files: DepthFiles, window: Window, index: int) -> Float32[np.ndarray, "H W"]:
    depth = files(index)
    left, top = _corner(depth.shape[1], depth.shape[0], files.targets[index])
    return inside(depth[top : top + HEIGHT, left : left + WIDTH], window)


@published(
    CARD,
    "input/2011_09_26/2011_09_26_drive_0002_sync/image_02/data/0000000069.png",
    "gt_depth/{train,val}/2011_09_26_drive_0002_sync/proj_depth/groundtruth/image_02/0000000069.png",
    "kitti_eigen_train.txt",
    "kitti_eigen_test.txt",
)
def read(root: Path, options: DatasetOptions) -> Copy:
    """Read kitti_eigen_SPLIT.txt, or BTS's list of another name."""
    depth_folders = _depth_folders(root)

    def open_split(split: str) -> Split:
        rows = [line.split() for line in read_lines(listed_in(root, *LISTS, split=split))]
        known = [row for row in rows if row[1] != "None"]
        drive = known[0][0].split("/")[0]
        base = first_folder(root, IMAGES, drive).relative_to(root).as_posix()
        images = [(PurePosixPath(base) / row[0]).as_posix() for row in known]
        depths = [_depth_file(root, depth_folders, row[1]) for row in known]
        files = DepthFiles(root, images, depths, scale=256.0)
        plain = depth_split(files, full_hash=options.full_hash)
        window = GARG if split == "test" else (0.0, 1.0, 0.0, 1.0)
        return replace(
            plain,
            image=partial(_image, ImageFiles(root, images)),
            target=partial(_depth, files, window),
            fingerprint=digest([plain.fingerprint, HEIGHT, WIDTH, window]),
        )

    return Copy((), open_split)


def _depth_folders(root: Path) -> list[str]:
    # The archive of the depth unpacks to train/ and val/, which the lists leave out.
    below = [f"{top}/{part}".strip("/") for top in DEPTHS for part in ("", "train", "val")]
    folders = [folder for folder in below if (root / folder).is_dir()]
    if not folders:
        raise DataError(f"{root}: none of {', '.join(DEPTHS)} holds the depth")
    return folders


def _depth_file(root: Path, folders: list[str], path: str) -> str:
    places = [f"{folder}/{path}" for folder in folders]
    return next((place for place in places if (root / place).is_file()), places[0])


def _corner(width: int, height: int, name: str) -> tuple[int, int]:
    if width < WIDTH or height < HEIGHT:
        raise DataError(
            f"{name}: {width}x{height} pixels, expected at least {WIDTH}x{HEIGHT}; fetch it again"
        )
    return (width - WIDTH) // 2, height - HEIGHT
