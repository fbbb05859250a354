"""folder:PATH, one folder of images for every class, under train/ and val/ or test/.

Classes are numbered by folder name, sorted by code point as torchvision's ImageFolder does. Files come class
by class, sorted by path. The scored split is test/ if it exists, else val/.
"""

from itertools import combinations
from pathlib import Path

from ssleval.core import Dataset, DatasetCard, DatasetOptions, Split, datasets
from ssleval.core.text import counted
from ssleval.datasets.files.images import class_files, class_folders, file_split, split_folders
from ssleval.datasets.files.places import say_shared
from ssleval.errors import ConfigError, DataError


@datasets.register("folder")
def folder(location: str, options: DatasetOptions) -> Dataset:
    """Open a folder of class folders."""
    if not location:
        raise ConfigError("folder: needs a path; write folder:PATH")
    root = Path(location).expanduser()
    splits = split_folders(root, "folder:")
    names = class_folders(root / "train")
    for split in splits[1:]:
        _same_classes(root, split, names)
    for first, second in combinations(splits, 2):
        linked = sum((root / first / name).resolve() == (root / second / name).resolve() for name in names)
        if linked:
            say_shared(f"folder:{root}", first, second, counted(linked, "class folder"))
    files = {split: class_files(root / split, names) for split in splits}

    def open_split(split: str) -> Split:
        paths, labels = files[split]
        return file_split(root / split, paths, labels, full_hash=options.full_hash)

    name, lengths = f"folder:{location}", {split: len(paths) for split, (paths, _) in files.items()}
    card = DatasetCard(name, "label", names, lengths=lengths, test_split=splits[-1], source=str(root))
    return Dataset(card, open_split)


def _same_classes(root: Path, split: str, names: tuple[str, ...]) -> None:
    differing = sorted(set(names) ^ set(class_folders(root / split)))
    if differing:
        shown = ", ".join(differing[:5]) + (", ..." if len(differing) > 5 else "")
        raise DataError(
            f"folder:{root}: {len(differing)} classes are not in both train/ and {split}/: {shown}; "
            "every split needs the same classes"
        )
