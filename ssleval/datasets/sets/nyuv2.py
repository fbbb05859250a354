"""NYU depth v2, 24,231 frames of video to fit on and the 654 labelled test images: rooms, 480 x 640.

The copy is the one of the depth papers BTS and AdaBins: lists of image, 16-bit depth in millimetres and focal
length. Test pixels count inside Eigen's crop, rows 45 to 470 and columns 41 to 600. Training pixels count
inside the white rim, rows 45 to 471 and columns 43 to 607. Heads are fitted up to 10 m.
"""

from pathlib import Path

from ssleval.core import DatasetCard, DatasetOptions, Split
from ssleval.datasets.files.dense import DepthFiles, depth_split
from ssleval.datasets.published import Copy, published, read_lines

# Half a pixel is added, so that rounding down gives the intended row or column.
WINDOWS = {
    "train": (45.5 / 480, 472.5 / 480, 43.5 / 640, 608.5 / 640),
    "test": (45.5 / 480, 471.5 / 480, 41.5 / 640, 601.5 / 640),
}
"""First and last + 1 row and column of 480 x 640."""

CARD = DatasetCard(
    name="nyuv2",
    target="depth",
    lengths={"train": 24_231, "test": 654},
    max_depth=10.0,
    license="not stated, research",
    source="Silberman et al. 2012; https://github.com/cleinc/bts, nyu_depth_v2: nyu_train.txt, nyu_test.txt "
    "and the folders they name in nyuv2/",
)


@published(CARD)
def read(root: Path, options: DatasetOptions) -> Copy:
    """Read nyu_SPLIT.txt."""

    def open_split(split: str) -> Split:
        rows = [line.split() for line in read_lines(root / f"nyu_{split}.txt")]
        images, depths = ([row[column].removeprefix("/") for row in rows] for column in (0, 1))
        files = DepthFiles(root, images, depths, scale=1000.0, window=WINDOWS[split])
        return depth_split(files, full_hash=options.full_hash)

    return Copy((), open_split)
