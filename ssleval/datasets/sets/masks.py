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
from ssleval.datasets.published import read_lines
from ssleval.errors import ConfigError, DataError


@datasets.register("masks")
def masks(location: str, options: DatasetOptions) -> Dataset:
    """Open a folder of images and a folder of masks.

    Raises:
        ConfigError: the location is not two paths.
        DataError: a folder or classes.txt is missing, or a file has no partner.
    """
    first, comma, second = location.partition(",")
    if not (first and comma and second):
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
    files = {split: paired(images / split, targets / split) for split in _splits(images)}
    root = Path(commonpath([images, targets]))

    def open_split(split: str) -> Split:
        image_paths, mask_paths = (
            [f"{Path(relpath(folder, root)).as_posix()}/{split}/{path}" for path in paths]
            for folder, paths in zip((images, targets), files[split], strict=True)
        )
        known = {**values, IGNORED: IGNORED}
        return mask_split(root, image_paths, mask_paths, known, full_hash=options.full_hash)

    card = DatasetCard(
        name=f"masks:{location}",
        target="mask",
        class_names=tuple(names),
        lengths={split: len(paths) for split, (paths, _) in files.items()},
        test_split=list(files)[-1],
        source=f"{images}, {targets}",
    )
    return Dataset(card, open_split)


def _splits(images: Path) -> tuple[str, ...]:
    splits = tuple(name for name in ("train", "val", "test") if (images / name).is_dir())
    if splits[:1] != ("train",) or len(splits) < 2:
        raise DataError(f"{images}: needs train/ with val/ or test/, found {', '.join(splits) or 'none'}")
    return splits
