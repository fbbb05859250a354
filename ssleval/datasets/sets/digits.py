"""Real handwritten digits, 8 x 8 pixels, inside scikit-learn: nothing to download.

1,797 scans of 10 digits, the test part of the UCI Optical Recognition set. No split is published, so ours is
fixed: 50 of each digit, drawn with seed 0, are the 500 test images; the other 1,297 are for training.
"""

from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from ssleval.core import DatasetCard, DatasetOptions, Split
from ssleval.datasets.files.images import fingerprint
from ssleval.datasets.published import Copy, published

TEST_PER_CLASS = 50

CARD = DatasetCard(
    name="digits",
    class_names=tuple("0123456789"),
    classes=10,
    lengths={"train": 1297, "test": 500},
    license="CC-BY-4.0",
    source="Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI, doi 10.24432/C50P49; "
    "comes with scikit-learn",
)


@published(CARD, embedded=True)
def read(root: Path, options: DatasetOptions) -> Copy:  # noqa: ARG001
    """Return the digits inside scikit-learn; no file is read."""
    from sklearn.datasets import load_digits

    bundled = cast(Any, load_digits())
    # 17 grey levels, 0 to 16, over the whole range of a byte.
    images = np.rint(bundled.images * (255 / 16)).astype(np.uint8)
    labels = bundled.target.astype(np.int64)
    rows = split_rows(labels)

    def open_split(split: str) -> Split:
        chosen = rows[split]
        ids = [f"{row:04d}" for row in chosen]
        lines = ([f"{row:04d}", images[row].tobytes().hex(), int(labels[row])] for row in chosen)
        return Split(ids, partial(_picture, images[chosen]), labels[chosen], fingerprint(lines))

    return Copy(CARD.class_names, open_split)


def _picture(images: UInt8[np.ndarray, "n 8 8"], index: int) -> Image.Image:
    return Image.fromarray(images[index]).convert("RGB")


def split_rows(labels: Int[np.ndarray, " n"]) -> dict[str, Int[np.ndarray, " _"]]:
    """Return the rows of each split, ascending."""
    # RandomState, not default_rng: NumPy promises never to change its stream.
    order = np.random.RandomState(0).permutation(len(labels))
    test = np.sort(np.concatenate([order[labels[order] == c][:TEST_PER_CLASS] for c in range(10)]))
    return {"train": np.setdiff1d(np.arange(len(labels)), test), "test": test}
