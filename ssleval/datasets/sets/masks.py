"""masks:IMAGES,MASKS, a folder of images and one of masks: anyone's segmentation data.

Both hold train/ with val/ or test/; a mask has its image's path, whatever the ending, and pixels that
are class indices of 8 bits (grey or palette). MASKS/classes.txt names them: line 0 is the name of value
0, and so on. A line `ignore` is a value that counts nowhere, as 255 always is; later classes move up.
Any other value is refused. Scored on test/ where there is one, else on val/.
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
        ConfigError: not two paths.
        DataError: no such folders, no classes.txt, or files without a partner.
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
    values = {v: IGNORED if name == "ignore" else names.index(name) for v, name in enumerate(classes)}
    found = {split: paired(images / split, targets / split) for split in _splits(images)}
    root = Path(commonpath([images, targets]))

    def open_split(split: str) -> Split:
        here, there = (
            [f"{Path(relpath(folder, root)).as_posix()}/{split}/{path}" for path in paths]
            for folder, paths in zip((images, targets), found[split], strict=True)
        )
        known = {**values, IGNORED: IGNORED}
        return mask_split(root, here, there, known, full_hash=options.full_hash)

    card = DatasetCard(
        name=f"masks:{location}",
        target="mask",
        class_names=tuple(names),
        lengths={split: len(paths) for split, (paths, _) in found.items()},
        test_split=list(found)[-1],
        source=f"{images}, {targets}",
    )
    return Dataset(card, open_split)


def _splits(images: Path) -> tuple[str, ...]:
    splits = tuple(name for name in ("train", "val", "test") if (images / name).is_dir())
    if splits[:1] != ("train",) or len(splits) < 2:
        raise DataError(f"{images}: needs train/ with val/ or test/, found {', '.join(splits) or 'none'}")
    return splits
