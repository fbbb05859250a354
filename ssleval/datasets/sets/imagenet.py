"""ImageNet-1k and the sets that reuse its classes: V2, A, R, Sketch, ReaL and C.

Classes are WordNet ids, sorted: label 0 is n01440764. The sets of 200 classes number their own classes; a
head of 1,000 outputs is read at the positions of their ids in ImageNet-1k. Sets without training images have
one split, or one for each corruption. Their heads are fitted on ImageNet-1k.
"""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from ssleval.core import DatasetCard, DatasetOptions, Split, datasets
from ssleval.core.corruptions import CORRUPTIONS, SEVERITIES
from ssleval.datasets.files.images import class_files, class_folders, file_split
from ssleval.datasets.published import Copy, Published, Reader, read_json
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
            source="Beyer et al. 2020, https://github.com/google-research/reassessed-imagenet: real.json in "
            "imagenet_real/, the images in imagenet1k/val/ beside it",
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


def _folders(
    places: Mapping[str, str], root: Path, options: DatasetOptions, *, numbered: bool = False
) -> Copy:
    """Read class folders; ``places`` maps each split to its sub-folder."""
    first = root / next(iter(places.values()))
    # As text, the class number 10 would come before 2.
    names = tuple(sorted(_named(first, r"\d+", "class numbers"), key=int)) if numbered else _wnids(first)

    def open_split(split: str) -> Split:
        folder = root / places[split]
        if set(class_folders(folder)) != set(names):
            raise DataError(f"{folder}: other class folders than {first}")
        paths, labels = class_files(folder, names)
        return file_split(folder, paths, labels, full_hash=options.full_hash)

    return Copy(names, open_split)


def _reassessed(root: Path, options: DatasetOptions) -> Copy:
    """Read the label sets of the validation images; images with an empty set are left out."""
    listed, val = root / "real.json", root.parent / "imagenet1k" / "val"
    names = _wnids(val)

    def open_split(split: str) -> Split:  # noqa: ARG001
        label_sets: list[list[int]] = read_json(listed)
        path_of = {Path(path).stem: path for path in class_files(val, names)[0]}
        images = [f"ILSVRC2012_val_{number:08d}" for number in range(1, len(label_sets) + 1)]
        missing = [image for image in images if image not in path_of]
        if missing:
            raise DataError(f"{val}: {len(missing)} images of {listed.name} are absent, such as {missing[0]}")
        kept = [row for row, labels in enumerate(label_sets) if labels]
        targets = np.zeros((len(kept), len(names)), dtype=bool)
        for row, index in enumerate(kept):
            targets[row, label_sets[index]] = True
        return file_split(val, [path_of[images[row]] for row in kept], targets, full_hash=options.full_hash)

    return Copy(names, open_split)


def _wnids(folder: Path) -> tuple[str, ...]:
    return _named(folder, r"n\d{8}", "WordNet ids such as n01440764")


def _named(folder: Path, pattern: str, expected: str) -> tuple[str, ...]:
    names = class_folders(folder)
    wrong = [name for name in names if not re.fullmatch(pattern, name)]
    if wrong:
        raise DataError(f"{folder}: folder {wrong[0]!r}, expected {expected}")
    return names


_READERS: Mapping[str, Reader] = {
    "imagenet_v2": partial(_folders, {"test": "."}, numbered=True),
    "imagenet_real": _reassessed,
    "imagenet_c": partial(_folders, _CORRUPTED),
}

_TRAINED = Published(CARDS["imagenet1k"], partial(_folders, {"val": "val", "train": "train"}))
datasets.register("imagenet1k")(_TRAINED)

for _name in CARDS.keys() - {"imagenet1k"}:
    _reader = _READERS.get(_name, partial(_folders, {"test": "."}))
    datasets.register(_name)(Published(CARDS[_name], _reader, fitted_on=_TRAINED))
