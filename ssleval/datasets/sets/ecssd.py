"""ECSSD: 1,000 images of one salient object or few, with masks of 0 and 255."""

from pathlib import Path

from ssleval.core import DatasetCard, DatasetOptions, Split
from ssleval.datasets.files.dense import mask_split, paired
from ssleval.datasets.published import Copy, first_folder, published

CLASSES = ("background", "object")

CARD = DatasetCard(
    name="ecssd",
    target="mask",
    class_names=CLASSES,
    classes=2,
    lengths={"test": 1000},
    license="for research",
    source="Yan et al. 2013, https://www.cse.cuhk.edu.hk/leojia/projects/hsaliency/dataset.html (71 MB): "
    "images/ and ground_truth_mask/ in ecssd/",
)


@published(CARD, "images/0001.jpg", "ground_truth_mask/0001.png")
def read(root: Path, options: DatasetOptions) -> Copy:
    """Pair the images with their masks, by name."""
    base = first_folder(root, (".", "ECSSD"), "images", "ground_truth_mask")

    def open_split(split: str) -> Split:  # noqa: ARG001
        images, masks = paired(base, "images", "ground_truth_mask")
        return mask_split(base, images, masks, {0: 0, 255: 1}, full_hash=options.full_hash)

    return Copy(CLASSES, open_split)
