"""The worked example of the page on adding a dataset runs as printed."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from ssleval.core import DatasetCard, DatasetOptions, datasets
from ssleval.datasets.catalog import list_datasets, open_dataset
from ssleval.errors import DataError

PAGE = Path(__file__).parents[2] / "docs" / "adding-a-dataset.md"


@pytest.fixture
def leaves(tmp_path: Path) -> Iterator[DatasetOptions]:
    """Run the example, and make the files it reads."""
    assert "digits" in datasets
    block = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert block
    exec(compile(block[1], str(PAGE), "exec"), ModuleType("leaves").__dict__)
    for split, lines in (("train", "images/1.png oak\nimages/2.png elm\n"), ("test", "images/3.png oak\n")):
        path = tmp_path / "leaves" / f"{split}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(lines)
    yield DatasetOptions(data_root=tmp_path)
    del datasets._items["leaves"]


def test_the_example_runs(leaves: DatasetOptions, paint: Callable[[Path, int], None]) -> None:
    for number in (1, 2, 3):
        paint(leaves.data_root / f"leaves/images/{number}.png", number)
    dataset = open_dataset("leaves", leaves)
    assert dataset.card.class_names == ("elm", "oak")
    assert np.asarray(dataset.split("train").targets).tolist() == [1, 0]
    assert dataset.split("test")[0].image.getpixel((0, 0)) == (3, 3, 3)
    assert isinstance(list_datasets()["leaves"], DatasetCard)


def test_the_example_refuses_a_partial_copy(leaves: DatasetOptions) -> None:
    with pytest.raises(DataError, match=r"images/1\.png"):
        open_dataset("leaves", leaves).split("train")
