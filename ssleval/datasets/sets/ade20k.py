"""ADE20K scene parsing: 150 classes of things and stuff; 0, everything else, is ignored.

Values 1 to 150 are classes 0 to 149, in the order of objectInfo150.txt (``reduce_zero_label`` of mmseg).
"""

from pathlib import Path

from ssleval.core import IGNORED, DatasetCard, DatasetOptions, Split
from ssleval.datasets.files.dense import mask_split, paired
from ssleval.datasets.published import Copy, first_folder, published, read_lines
from ssleval.errors import DataError

CARD = DatasetCard(
    name="ade20k",
    target="mask",
    classes=150,
    lengths={"training": 20_210, "validation": 2_000},
    train_split="training",
    test_split="validation",
    license="BSD-3-Clause (annotations), non-commercial research (images)",
    source="Zhou et al. 2017, http://sceneparsing.csail.mit.edu/ (923 MB): ADEChallengeData2016/ in ade20k/",
)


@published(
    CARD,
    "ADEChallengeData2016/images/training/ADE_train_00000001.jpg",
    "ADEChallengeData2016/annotations/training/ADE_train_00000001.png",
    "ADEChallengeData2016/objectInfo150.txt",
)
def read(root: Path, options: DatasetOptions) -> Copy:
    """Read images/SPLIT and annotations/SPLIT, and the names of the classes."""
    base = first_folder(root, ("ADEChallengeData2016", "."), "images", "annotations")
    table = base / "objectInfo150.txt"
    header, *lines = read_lines(table) or [""]
    # Idx, Ratio, ..., Name; mirrors have spaces for the tabs, and names hold spaces.
    columns = header.split()
    rows = [line.split(maxsplit=len(columns) - 1) for line in lines]
    numbered = [row[0] for row in rows if len(row) == len(columns)]
    if columns[-1:] != ["Name"] or numbered != [str(place) for place in range(1, len(rows) + 1)]:
        raise DataError(f"{table}: expected columns Idx, ... Name, and a line for each class, from 1 on")
    names = tuple(row[-1].split(",")[0].strip() for row in rows)

    def open_split(split: str) -> Split:
        images, masks = paired(base, f"images/{split}", f"annotations/{split}")
        classes = {0: IGNORED, **{value: value - 1 for value in range(1, len(names) + 1)}}
        return mask_split(base, images, masks, classes, full_hash=options.full_hash)

    return Copy(names, open_split)
