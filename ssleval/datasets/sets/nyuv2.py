"""NYU depth v2, 24,231 frames of video to fit on and the 654 labelled test images: rooms, 480 x 640.

The copy is the one of the depth papers BTS and AdaBins: lists of image, 16-bit depth in millimetres and focal
length. Test pixels count inside Eigen's crop, rows 45 to 470 and columns 41 to 600. Training pixels count
inside the white rim, rows 45 to 471 and columns 43 to 607. Heads are fitted up to 10 m.

sunrgbd is 5,050 test images of SUN RGB-D, for heads fitted on nyuv2: the folder SUNRGBD/ and the list of the
Monocular-Depth-Estimation-Toolbox. As there, depth is cut at 8 m, and counts inside rows 45 to 470 and
columns 41 to 600, whatever the size of the image.

nyuv2_normals has GeoNet's surface normals, of 795 images to fit on and the 654 to score. The copy is the
folder `nyuv2` of DSINE's archive dsine_eval.zip: NAME_img.png, and NAME_normal.png with the normals as
colours. Axes are those of the archive, the same in both splits. GeoNet's own files (30,907 frames of video to
fit on, and test normals in MATLAB 7.3) are not read.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from ssleval.core import DatasetCard, DatasetOptions, Split, datasets, digest
from ssleval.datasets.files.dense import DepthFiles, by_stem, depth_split
from ssleval.datasets.files.normals import NormalFiles
from ssleval.datasets.published import Copy, Published, first_folder, listed_in, published, read_lines
from ssleval.errors import DataError

# Half a pixel is added, so that rounding down gives the intended row or column.
WINDOWS = {
    "train": (45.5 / 480, 472.5 / 480, 43.5 / 640, 608.5 / 640),
    "test": (45.5 / 480, 471.5 / 480, 41.5 / 640, 601.5 / 640),
}
"""First and last + 1 row and column of 480 x 640."""

LISTS = ("nyu_{split}.txt", "nyudepthv2_{split}_files_with_gt.txt")
"""The same lists as DINOv2's and BTS's code name them."""
BASES = {"train": (".", "sync", "nyu_depth_v2/sync"), "test": (".", "official_splits/test")}
"""Folders that the paths in the lists begin in."""

CARD = DatasetCard(
    name="nyuv2",
    target="depth",
    lengths={"train": 24_231, "test": 654},
    max_depth=10.0,
    license="not stated, research",
    source="Silberman et al. 2012; https://github.com/cleinc/bts (4 GB): the lists nyu_train.txt and "
    "nyu_test.txt, or BTS's of other names, and the folders they name in nyuv2/",
)


def _read(root: Path, options: DatasetOptions) -> Copy:

    def open_split(split: str) -> Split:
        rows = [line.split() for line in read_lines(listed_in(root, *LISTS, split=split))]
        base = first_folder(root, BASES[split], rows[0][0].strip("/")).relative_to(root)
        images, depths = ([(base / row[column].strip("/")).as_posix() for row in rows] for column in (0, 1))
        files = DepthFiles(root, images, depths, scale=1000.0, window=WINDOWS[split])
        return depth_split(files, full_hash=options.full_hash)

    return Copy((), open_split)


NYU = Published(
    CARD,
    _read,
    tree=(
        "sync/kitchen_0028b/rgb_00045.jpg",
        "sync/kitchen_0028b/sync_depth_00045.png",
        "official_splits/test/bathroom/rgb_00045.jpg",
        "official_splits/test/bathroom/sync_depth_00045.png",
        "nyudepthv2_train_files_with_gt.txt",
        "nyudepthv2_test_files_with_gt.txt",
    ),
)
datasets.register("nyuv2")(NYU)


# SUN RGB-D ----------------------------------------------------------------------------------------

SUN_LIST = "SUNRGBD_val_splits.txt"
SUN_FARTHEST = 8.0
"""Metres: what is farther is stored as 8 m."""
SUN_WINDOW = (slice(45, 471), slice(41, 601))
"""Rows and columns that count."""
SUN_CARD = DatasetCard(
    name="sunrgbd",
    target="depth",
    lengths={"test": 5_050},
    max_depth=SUN_FARTHEST,
    license="not stated, research",
    source="Song et al. 2015; https://rgbd.cs.princeton.edu/ (size not stated): SUNRGBD/ in sunrgbd/, and "
    f"beside it {SUN_LIST} of https://github.com/zhyever/Monocular-Depth-Estimation-Toolbox",
)


def _sun_depth(files: DepthFiles, index: int) -> Float32[np.ndarray, "H W"]:
    stored = files.stored(index, ("I;16", "I;16B", "I"), "depth of 16 bits").astype(np.uint16)
    # Millimetres, with the three lowest bits moved to the top.
    metres = ((stored >> 3) | (stored << 13)).astype(np.float32) / np.float32(files.scale)
    kept = np.zeros_like(metres)
    kept[SUN_WINDOW] = np.minimum(metres, np.float32(SUN_FARTHEST))[SUN_WINDOW]
    return kept


@published(
    SUN_CARD,
    SUN_LIST,
    "SUNRGBD/kv2/kinect2data/000002_2014-05-26_14-23-37_260595134347_rgbf000103-resize/image/0000103.jpg",
    "SUNRGBD/kv2/kinect2data/000002_2014-05-26_14-23-37_260595134347_rgbf000103-resize/depth/0000103.png",
    fitted_on=NYU,
)
def _read_sun(root: Path, options: DatasetOptions) -> Copy:
    def open_split(split: str) -> Split:  # noqa: ARG001
        rows = sorted(line.split() for line in read_lines(root / SUN_LIST))
        base = first_folder(root, (".", "SUNRGBD"), rows[0][0].strip("/").split("/")[0]).relative_to(root)
        images, depths = ([(base / row[column].strip("/")).as_posix() for row in rows] for column in (0, 1))
        files = DepthFiles(root, images, depths, scale=1000.0)
        plain = depth_split(files, full_hash=options.full_hash)
        mark = digest([plain.fingerprint, "rotated by 3 bits", SUN_FARTHEST, str(SUN_WINDOW)])
        return replace(plain, target=partial(_sun_depth, files), fingerprint=mark)

    return Copy((), open_split)


# Normals -------------------------------------------------------------------------------------------

NORMALS_CARD = DatasetCard(
    name="nyuv2_normals",
    target="normals",
    lengths={"train": 795, "test": 654},
    license="not stated, research",
    source="Silberman et al. 2012, Qi et al. 2018 (GeoNet), Bae and Davison 2024; dsine_eval.zip (size not "
    "stated) of https://github.com/baegwangbin/DSINE: the content of its folder nyuv2/ in nyuv2_normals/",
)


@published(
    NORMALS_CARD,
    "train/000002_img.png",
    "train/000002_normal.png",
    "test/000000_img.png",
    "test/000000_normal.png",
)
def read_normals(root: Path, options: DatasetOptions) -> Copy:
    """Read SPLIT/NAME_img.png and SPLIT/NAME_normal.png."""
    base = first_folder(root, (".", "nyuv2", "dsine_eval/nyuv2"), "train", "test")

    def open_split(split: str) -> Split:
        path_of = by_stem(base, split)
        names = [name.removesuffix("_img") for name in path_of if name.endswith("_img")]
        alone = [name for name in names if f"{name}_normal" not in path_of]
        if alone:
            raise DataError(
                f"{base / split}: {alone[0]}_img has no {alone[0]}_normal ({len(alone)} such images)"
            )
        images, normals = ([path_of[f"{name}_{kind}"] for name in names] for kind in ("img", "normal"))
        return NormalFiles(base, images, normals).split(["normals"], full_hash=options.full_hash)

    return Copy((), open_split)
