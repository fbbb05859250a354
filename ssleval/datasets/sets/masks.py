"""masks:IMAGES,MASKS, a folder of images and a folder of masks: your own segmentation data.

Both hold train/ with val/ or test/. A mask has the path of its image, whatever its extension, and its pixels
are class indices of 8 bits (grey or palette). MASKS/classes.txt names the classes: the first line is the name
of value 0, and so on. A line `ignore` is a value that counts nowhere, and the classes after it are numbered
one lower; 255 never counts. Any other value is refused. So is a class that no training mask shows: masks of 0
and 255 have one class. The scored split is test/ if it exists, else val/.
"""

from os.path import commonpath, relpath
from pathlib import Path

import numpy as np

from ssleval.core import IGNORED, Dataset, DatasetCard, DatasetOptions, Split, datasets
from ssleval.core.text import counted
from ssleval.datasets.files.dense import mask_split, paired
from ssleval.datasets.files.images import split_folders
from ssleval.datasets.published import read_lines
from ssleval.errors import ConfigError, DataError


@datasets.register("masks")
def masks(location: str, options: DatasetOptions) -> Dataset:
    """Open a folder of images and a folder of masks."""
    parts = location.split(",")
    pairs = [(",".join(parts[:at]), ",".join(parts[at:])) for at in range(1, len(parts))]
    there = [pair for pair in pairs if all(pair) and all(Path(one).expanduser().is_dir() for one in pair)]
    first, second = (there or pairs or [("", "")])[0]
    if not (first and second) or len(there) > 1:
        raise ConfigError(f"masks:{location}: needs two folders; write masks:IMAGES,MASKS")
    images, targets = Path(first).expanduser().absolute(), Path(second).expanduser().absolute()
    classes = read_lines(targets / "classes.txt")
    names = [name for name in classes if name != "ignore"]
    if not names or len(set(names)) < len(names) or len(classes) > IGNORED:
        raise DataError(
            f"{targets / 'classes.txt'}: {len(names)} names for {len(classes)} values; needs different "
            f"names, at most {IGNORED}, one a line"
        )
    values = {value: IGNORED if name == "ignore" else names.index(name) for value, name in enumerate(classes)}
    values[IGNORED] = IGNORED
    root = Path(commonpath([images, targets]))
    below = [Path(relpath(folder, root)).as_posix() for folder in (images, targets)]
    files = {
        split: paired(root, *(f"{folder}/{split}" for folder in below)) for split in split_folders(images)
    }

    def open_split(split: str) -> Split:
        opened = mask_split(root, *files[split], values, full_hash=options.full_hash)
        if split == "train":
            _refuse_unseen(opened, names, targets)
        return opened

    name, lengths = f"masks:{location}", {split: len(paths) for split, (paths, _) in files.items()}
    source, scored = f"{images}, {targets}", list(files)[-1]
    card = DatasetCard(name, "mask", tuple(names), lengths=lengths, test_split=scored, source=source)
    return Dataset(card, open_split)


def _refuse_unseen(train: Split, names: list[str], targets: Path) -> None:
    assert train.target is not None, "a split of masks has masks"
    unseen = set(range(len(names)))
    # Not in order: files sorted by content would show the last classes last, and few masks show all.
    for row in np.random.default_rng(0).permutation(len(train)):
        unseen -= set(np.unique(train.target(int(row))).tolist())
        if not unseen:
            return
    shown = ", ".join(names[label] for label in sorted(unseen)[:5])
    raise DataError(
        f"{targets / 'train'}: no mask shows {shown} ({counted(len(unseen), 'class', 'classes')}); check the "
        "values of the masks, or mend classes.txt"
    )
