"""list:FILE@DATASET, a dataset whose heads are fitted on the training images that a file lists.

FILE holds one image a line: its id, or, without a slash, the last part of it, as in SimCLR's 1percent.txt
and 10percent.txt of ImageNet: ``list:1percent.txt@imagenet1k``. Every line must name one training image of
DATASET, and no two the same. All other splits stay whole.
"""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Int

from ssleval.core import Dataset, DatasetOptions, Split, datasets
from ssleval.datasets.catalog import open_dataset
from ssleval.datasets.published import read_lines
from ssleval.errors import ConfigError, DataError


@datasets.register("list")
def listed(location: str, options: DatasetOptions) -> Dataset:
    """Open a dataset with a part of its training split."""
    file, at, name = location.partition("@")
    if not (file and at and name):
        raise ConfigError("list: needs a file and a dataset; write list:FILE@DATASET")
    # Whoever opens this one turns its images.
    whole = open_dataset(name, replace(options, exif=False))
    card = whole.card
    if whole.fitted_on is not None or card.train_split not in card.lengths:
        raise ConfigError(f"list:{location}: {name} has no training split to list images of")
    rows = _rows(Path(file).expanduser(), whole.split(card.train_split))

    def open_split(split: str) -> Split:
        opened = whole.split(split)
        return opened.subset(rows) if split == card.train_split else opened

    lengths = {**card.lengths, card.train_split: len(rows)}
    return Dataset(replace(card, name=f"list:{location}", lengths=lengths), open_split, None, "")


def _rows(file: Path, split: Split) -> Int[np.ndarray, " m"]:
    whole = {name: row for row, name in enumerate(split.ids)}
    last: defaultdict[str, list[int]] = defaultdict(list)
    for name, row in whole.items():
        last[name.rpartition("/")[2]].append(row)
    rows: set[int] = set()
    for number, line in enumerate(read_lines(file), 1):
        named = [whole[line]] if line in whole else [] if "/" in line else last.get(line, [])
        where = f"list:{file}: line {number}: {line[:200]}"
        if len(named) != 1:
            raise DataError(
                f"{where} names {len(named)} training images, such as {split.ids[0]}; expected one"
            )
        if named[0] in rows:
            raise DataError(f"{where} is listed twice")
        rows.add(named[0])
    if not rows:
        raise DataError(f"list:{file}: no image is listed")
    return np.array(sorted(rows))
