"""masks:IMAGES,MASKS, a folder of images and a folder of masks: your own segmentation data.

Both hold train/ with val/ or test/. A mask has the path of its image, whatever its extension, and its pixels
are class indices of 8 bits (grey or palette). MASKS/classes.txt names the classes: the first line is the name
of value 0, and so on. A line `ignore` is a value that counts nowhere, and the classes after it are numbered
one lower; 255 never counts. Any other value is refused. The scored split is test/ if it exists, else val/.
"""

from os.path import commonpath, relpath
from pathlib import Path

from ssleval.core import IGNORED, Dataset, DatasetCard, DatasetOptions, Split, datasets
from ssleval.datasets.files.dense import mask_split, paired
from ssleval.datasets.files.images import split_folders
from ssleval.datasets.published import read_lines
from ssleval.errors import ConfigError, DataError


@datasets.register("masks")
def masks(location: str, options: DatasetOptions) -> Dataset:
    """Open a folder of images and a folder of masks."""
    first, _, second = location.partition(",")
    if not (first and second):
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
        return mask_split(root, *files[split], values, full_hash=options.full_hash)

    name, lengths = f"masks:{location}", {split: len(paths) for split, (paths, _) in files.items()}
    source, scored = f"{images}, {targets}", list(files)[-1]
    card = DatasetCard(name, "mask", tuple(names), lengths=lengths, test_split=scored, source=source)
    return Dataset(card, open_split)
