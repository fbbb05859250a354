"""folder:PATH, one folder of images for every class, under train/ and val/ or test/.

Classes are numbered by folder name, sorted by code point as torchvision's ImageFolder does. Files come class
by class, sorted by path. The scored split is test/ if it exists, else val/.
"""

from itertools import combinations
from pathlib import Path

from ssleval.core import Dataset, DatasetCard, DatasetOptions, Split, datasets
from ssleval.core.text import counted
from ssleval.datasets.files.images import class_folders, split_folders
from ssleval.datasets.files.listing import list_classes
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
        # Not by resolving links, which would take longer than all else where the listing is stored.
        linked = sum((root / first / name).samefile(root / second / name) for name in names)
        if linked:
            say_shared(f"folder:{root}", first, second, counted(linked, "class folder"))
    listed = {split: list_classes(root / split, names, options) for split in splits}

    def open_split(split: str) -> Split:
        return listed[split].split()

    name, lengths = f"folder:{location}", {split: len(images.paths) for split, images in listed.items()}
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
