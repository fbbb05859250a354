"""ImageNet-1k and the sets that reuse its classes: V2, A, R, Sketch, ReaL and C.

Classes are WordNet ids, sorted: label 0 is n01440764. The sets of 200 classes number their own classes; a
head of 1,000 outputs is read at the positions of their ids in ImageNet-1k. Sets without training images have
one split, or one for each corruption. Their heads are fitted on ImageNet-1k.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ssleval.core import DatasetCard, DatasetOptions, Split, datasets
from ssleval.core.corruptions import CORRUPTIONS, SEVERITIES
from ssleval.core.text import some
from ssleval.datasets.files.images import class_folders, file_split, is_stray
from ssleval.datasets.files.listing import list_classes
from ssleval.datasets.files.places import say
from ssleval.datasets.published import Copy, Published, Reader, published, read_json, read_lines
from ssleval.errors import DataError

TERMS = "ImageNet's: non-commercial research"

_CORRUPTED = {f"{name}-{severity}": f"{name}/{severity}" for name in CORRUPTIONS for severity in SEVERITIES}

CARDS: Mapping[str, DatasetCard] = {
    card.name: card
    for card in (
        DatasetCard(
            name="imagenet1k",
            classes=1000,
            lengths={"train": 1_281_167, "val": 50_000},
            test_split="val",
            license=TERMS,
            source="Russakovsky et al. 2015, https://image-net.org (144 GB, on registration): train/<wnid>/ "
            "and val/<wnid>/ in imagenet1k/",
        ),
        DatasetCard(
            name="imagenet_v2",
            classes=1000,
            lengths={"test": 10_000},
            license="MIT (code); images of Flickr",
            source="Recht et al. 2019, matched frequency, "
            "https://huggingface.co/datasets/vaishaal/ImageNetV2 (1.3 GB): folders 0 to 999 in imagenet_v2/",
        ),
        DatasetCard(
            name="imagenet_a",
            classes=200,
            lengths={"test": 7_500},
            license="MIT (code); images of the web",
            source="Hendrycks et al. 2021, https://github.com/hendrycks/natural-adv-examples (690 MB): "
            "<wnid>/ in imagenet_a/",
        ),
        DatasetCard(
            name="imagenet_r",
            classes=200,
            lengths={"test": 30_000},
            license="MIT (code); images of the web",
            source="Hendrycks et al. 2021, https://github.com/hendrycks/imagenet-r (2.2 GB): "
            "<wnid>/ in imagenet_r/",
        ),
        DatasetCard(
            name="imagenet_sketch",
            classes=1000,
            lengths={"test": 50_889},
            license="MIT (code); images of the web",
            source="Wang et al. 2019, https://github.com/HaohanWang/ImageNet-Sketch (7 GB): "
            "<wnid>/ in imagenet_sketch/",
        ),
        DatasetCard(
            name="imagenet_real",
            target="multilabel",
            classes=1000,
            lengths={"test": 46_837},
            license="Apache-2.0 (labels); images of ImageNet",
            source="Beyer et al. 2020, https://github.com/google-research/reassessed-imagenet (2 MB): "
            "real.json in imagenet_real/, the images in imagenet1k/val/ beside it",
        ),
        DatasetCard(
            name="imagenet_c",
            classes=1000,
            lengths=dict.fromkeys(_CORRUPTED, 50_000),
            test_split="gaussian_noise-1",
            license="CC-BY-4.0; images of ImageNet",
            source="Hendrycks and Dietterich 2019, doi 10.5281/zenodo.2235448 (75 GB): "
            "<corruption>/<severity>/<wnid>/ in imagenet_c/",
        ),
    )
}


def _folders(place: str, root: Path, options: DatasetOptions, *, numbered: bool = False) -> Copy:
    """Read the class folders in ``place``, which the archive unpacks to, or in the root itself."""
    folder = root / place if (root / place).is_dir() else root
    # As text, the class number 10 would come before 2.
    names = tuple(sorted(_named(folder, r"\d+", "class numbers"), key=int)) if numbered else _wnids(folder)
    if numbered:
        _refuse_other_variants(folder)

    def open_split(split: str) -> Split:  # noqa: ARG001
        return list_classes(folder, names, options).split()

    return Copy(names, open_split)


def _refuse_other_variants(folder: Path) -> None:
    """Refuse the other variants of ImageNet-V2, as large and far easier, by the file names of class 0."""
    names = {path.stem[:8] for path in (folder / "0").glob("*") if not is_stray(path.name)}
    variant = next((variant for variant, known in _V2.items() if names == set(known.split())), "")
    if variant in {"threshold-0.7", "top-images"}:
        raise DataError(f"{folder}: the variant {variant}; expected matched-frequency, as in papers")
    if not variant:
        say(f"imagenet_v2: file names in {folder / '0'} are of no variant; papers use matched-frequency")


_V2 = {
    "matched-frequency": "58fbc3e7 64f661b9 66123ec1 7e4a8987 8e1374a4 "
    "bcf8a532 c0c1167c cc19eded d337d803 efae46d9",
    "threshold-0.7": "0af3f1b5 58fbc3e7 64f661b9 66123ec1 83f4031f "
    "8e1374a4 a31041fd b29121a2 bcf8a532 f65e9778",
    "top-images": "0af3f1b5 58fbc3e7 83f4031f 8e1374a4 b29121a2 bcf8a532 c0c1167c cc19eded e5cdec32 efae46d9",
}
"""First eight digits of the file names of class 0, by variant.

Source:
    data/datasets/imagenetv2-{b-33,a-44,c-12}.json of github.com/modestyachts/ImageNetV2.
"""


def _corruptions(root: Path, options: DatasetOptions) -> Copy:
    """Read the corruptions that are there, also where only some of the five archives were fetched."""
    tops = (root, *(root / top for top in ("blur", "digital", "extra", "noise", "weather")))
    folders = {
        split: top / place for split, place in _CORRUPTED.items() for top in tops if (top / place).is_dir()
    }
    if not folders:
        raise DataError(f"{root}: no folder such as {next(iter(_CORRUPTED.values()))}")
    names = _wnids(next(iter(folders.values())))

    def open_split(split: str) -> Split:
        if split not in folders:
            shown = some(sorted({one.rpartition("-")[0] for one in folders}), 15)
            raise DataError(f"{root}: no folder {_CORRUPTED[split]}; there are {shown} (see --split)")
        folder = folders[split]
        if set(class_folders(folder)) != set(names):
            raise DataError(f"{folder}: other class folders than {next(iter(folders.values()))}")
        return list_classes(folder, names, options).split()

    return Copy(names, open_split)


class _Validation(NamedTuple):
    folder: Path
    names: tuple[str, ...]
    paths: Sequence[str]
    """Class by class, in order of their names."""
    split: Callable[[], Split]


def _validation(root: Path, options: DatasetOptions) -> _Validation:
    """Return the validation images in class folders, or loose as the archive leaves them, with a list."""
    folder = root / _image_folder(root) / "val"
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    if not any(entry.is_dir() and not is_stray(entry.name) for entry in folder.iterdir()):
        images = sorted(path.name for path in folder.glob("*.JPEG") if not is_stray(path.name))
        wnid_of = _listed_classes(root)
        if unknown := [name for name in images if Path(name).stem not in wnid_of]:
            raise DataError(f"{folder / unknown[0]}: in no list of classes ({len(unknown)} such files)")
        names = tuple(sorted(set(wnid_of.values())))
        images.sort(key=lambda name: wnid_of[Path(name).stem])
        labels = np.array([names.index(wnid_of[Path(name).stem]) for name in images], np.int64)
        split = partial(file_split, folder, images, labels, full_hash=options.full_hash)
        return _Validation(folder, names, images, split)
    names = _wnids(folder)
    listed = list_classes(folder, names, options)
    return _Validation(folder, names, listed.paths, listed.split)


def _listed_classes(root: Path) -> dict[str, str]:
    """Return the WordNet id of every validation image, from Kaggle's list or from the development kit."""
    kaggle, kit = root / "LOC_val_solution.csv", root / "ILSVRC2012_devkit_t12" / "data"
    if kaggle.is_file():
        # ImageId,PredictionString: ILSVRC2012_val_00048981,n03995372 85 1 499 272
        rows = (line.split(",", 1) for line in read_lines(kaggle)[1:])
        return {image: boxes.strip('"').split()[0] for image, boxes in rows}
    if not (kit / "meta.mat").is_file():
        raise DataError(
            f"{root}: the images in val/ lie in no class folders, and neither {kaggle.name} nor "
            "ILSVRC2012_devkit_t12/data/ tells their classes"
        )
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    # Of 1,860 synsets, the classes are those without children; numbers are ILSVRC2012_ID, from 1.
    try:
        synsets = loadmat(kit / "meta.mat", squeeze_me=True)["synsets"]
    except (MatReadError, RuntimeError) as error:
        raise DataError(f"{kit / 'meta.mat'}: not a whole MATLAB file ({error}); fetch it again") from error
    wnid_of = {int(one["ILSVRC2012_ID"]): str(one["WNID"]) for one in synsets if not one["num_children"]}
    numbers = read_lines(kit / "ILSVRC2012_validation_ground_truth.txt")
    return {f"ILSVRC2012_val_{row:08d}": wnid_of[int(number)] for row, number in enumerate(numbers, 1)}


def _image_folder(root: Path) -> str:
    """Return where train/ and val/ lie: the folder itself, or where Kaggle's archive has them."""
    return "." if (root / "val").is_dir() else "ILSVRC/Data/CLS-LOC"


def _imagenet1k(root: Path, options: DatasetOptions) -> Copy:
    val = _validation(root, options)

    def open_split(split: str) -> Split:
        if split == "val":
            return val.split()
        folder = root / _image_folder(root) / split
        if set(class_folders(folder)) != set(val.names):
            raise DataError(f"{folder}: other class folders than {val.folder}, or than its list has")
        return list_classes(folder, val.names, options).split()

    return Copy(val.names, open_split)


def _reassessed(root: Path, options: DatasetOptions) -> Copy:
    """Read the label sets of the validation images; images with an empty set are left out."""
    listed, val = root / "real.json", _validation(root.parent / "imagenet1k", options)

    def open_split(split: str) -> Split:  # noqa: ARG001
        label_sets: list[list[int]] = read_json(listed)
        path_of = {Path(path).stem: path for path in val.paths}
        images = [f"ILSVRC2012_val_{number:08d}" for number in range(1, len(label_sets) + 1)]
        missing = [image for image in images if image not in path_of]
        if missing:
            raise DataError(
                f"{val.folder}: {len(missing)} images of {listed.name} are absent, such as {missing[0]}"
            )
        kept = [row for row, labels in enumerate(label_sets) if labels]
        targets = np.zeros((len(kept), len(val.names)), dtype=bool)
        for row, index in enumerate(kept):
            targets[row, label_sets[index]] = True
        paths = [path_of[images[row]] for row in kept]
        return file_split(val.folder, paths, targets, full_hash=options.full_hash)

    return Copy(val.names, open_split)


def _wnids(folder: Path) -> tuple[str, ...]:
    return _named(folder, r"n\d{8}", "WordNet ids such as n01440764")


def _named(folder: Path, pattern: str, expected: str) -> tuple[str, ...]:
    names = class_folders(folder)
    wrong = [name for name in names if not re.fullmatch(pattern, name)]
    if wrong:
        raise DataError(f"{folder}: folder {wrong[0]!r}, expected {expected}")
    return names


_READERS: Mapping[str, tuple[Reader, tuple[str, ...]]] = {
    "imagenet_v2": (
        partial(_folders, "imagenetv2-matched-frequency-format-val", numbered=True),
        ("imagenetv2-matched-frequency-format-val/0/58fbc3e79ef15162b7726de04e98c90bb91a3055.jpeg",),
    ),
    "imagenet_a": (partial(_folders, "imagenet-a"), ("imagenet-a/n01498041/NAME.jpg",)),
    "imagenet_r": (partial(_folders, "imagenet-r"), ("imagenet-r/n01443537/NAME.jpg",)),
    "imagenet_sketch": (partial(_folders, "sketch"), ("sketch/n01440764/sketch_0.JPEG",)),
    "imagenet_real": (_reassessed, ("real.json", "../imagenet1k/val/ as in imagenet1k")),
    "imagenet_c": (_corruptions, ("gaussian_noise/1/n01440764/ILSVRC2012_val_00000293.JPEG",)),
}

_TRAINED = Published(
    CARDS["imagenet1k"],
    _imagenet1k,
    tree=(
        "train/n01440764/n01440764_18.JPEG",
        "val/n01440764/ILSVRC2012_val_00000293.JPEG",
        "or val/ILSVRC2012_val_00000001.JPEG with LOC_val_solution.csv or ILSVRC2012_devkit_t12/data/",
        "or both below ILSVRC/Data/CLS-LOC/",
    ),
)
datasets.register("imagenet1k")(_TRAINED)

for _name, (_reader, _tree) in _READERS.items():
    published(CARDS[_name], *_tree, fitted_on=_TRAINED)(_reader)
