"""NYU depth v2, 24,231 frames of video to fit on and the 654 labelled test images: rooms, 480 x 640.

The copy is the one of the depth papers BTS and AdaBins: lists of image, 16-bit depth in millimetres and focal
length. Test pixels count inside Eigen's crop, rows 45 to 470 and columns 41 to 600. Training pixels count
inside the white rim, rows 45 to 471 and columns 43 to 607. Heads are fitted up to 10 m.
"""

from pathlib import Path

from ssleval.core import DatasetCard, DatasetOptions, Split
from ssleval.datasets.files.dense import DepthFiles, depth_split
from ssleval.datasets.published import Copy, first_folder, listed_in, published, read_lines

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


@published(
    CARD,
    "sync/kitchen_0028b/rgb_00045.jpg",
    "sync/kitchen_0028b/sync_depth_00045.png",
    "official_splits/test/bathroom/rgb_00045.jpg",
    "official_splits/test/bathroom/sync_depth_00045.png",
    "nyudepthv2_train_files_with_gt.txt",
    "nyudepthv2_test_files_with_gt.txt",
)
def read(root: Path, options: DatasetOptions) -> Copy:
    """Read nyu_SPLIT.txt, or BTS's list of another name."""

    def open_split(split: str) -> Split:
        rows = [line.split() for line in read_lines(listed_in(root, *LISTS, split=split))]
        base = first_folder(root, BASES[split], rows[0][0].strip("/")).relative_to(root)
        images, depths = ([(base / row[column].strip("/")).as_posix() for row in rows] for column in (0, 1))
        files = DepthFiles(root, images, depths, scale=1000.0, window=WINDOWS[split])
        return depth_split(files, full_hash=options.full_hash)

    return Copy((), open_split)
