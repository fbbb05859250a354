"""The worked example of the page on adding a dataset is true as printed."""

import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from ssleval.core import DatasetCard, DatasetOptions, datasets
from ssleval.datasets.catalog import list_datasets, open_dataset
from ssleval.errors import DataError

LAST = "Published(CARD, read)"
PAGE = Path(__file__).parents[2] / "docs" / "adding-a-dataset.md"


def block(language: str) -> str:
    match = re.search(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert match
    return match[1]


@pytest.fixture
def options(tmp_path: Path) -> Iterator[DatasetOptions]:
    """Write the lists that the example reads, and forget what it registers."""
    assert "digits" in datasets
    before = datasets._items.pop("leaves", None)  # where a reader pasted the example and runs the tests
    for split, lines in (("train", "images/1.png oak\nimages/2.png elm\n"), ("test", "images/3.png oak\n")):
        path = tmp_path / "leaves" / f"{split}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(lines)
    yield DatasetOptions(data_root=tmp_path)
    datasets._items.pop("leaves", None)
    if before is not None:
        datasets._items["leaves"] = before


@pytest.fixture
def leaves(options: DatasetOptions) -> DatasetOptions:
    exec(compile(block("python"), str(PAGE), "exec"), ModuleType("leaves").__dict__)
    return options


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


@pytest.mark.parametrize("command", [["check"], ["format", "--check", "--diff"]])
def test_the_example_passes_the_linter_as_printed(command: list[str]) -> None:
    if find_spec("ruff") is None:
        pytest.skip("needs ruff, which comes with the development dependencies")
    name = "ssleval/datasets/sets/leaves.py"
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *command, "--stdin-filename", name, "-"],
        input=block("python"),
        text=True,
        capture_output=True,
        cwd=PAGE.parents[1],
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_entry_point_makes_it_known(
    options: DatasetOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = block("python").replace("@published(CARD)\n", "").replace(" published,", " Published,")
    module += f"\n\nLEAVES = {LAST}\n"
    ((group, entries),) = tomllib.loads(block("toml"))["project"]["entry-points"].items()
    ((name, value),) = entries.items()
    packages = tmp_path / "packages"
    (packages / "leaves-1.dist-info").mkdir(parents=True)
    (packages / "leaves-1.dist-info/METADATA").write_text("Name: leaves\nVersion: 1\n")
    (packages / "leaves-1.dist-info/entry_points.txt").write_text(f"[{group}]\n{name} = {value}\n")
    (packages / f"{value.partition(':')[0]}.py").write_text(module)
    monkeypatch.syspath_prepend(str(packages))
    importlib.invalidate_caches()
    pasted = find_spec("ssleval.datasets.sets.leaves") is not None
    assert pasted or list_datasets()["leaves"] == "from my_leaves:LEAVES"
    assert "my_leaves" not in sys.modules
    assert open_dataset("leaves", options).card.class_names == ("elm", "oak")
    monkeypatch.delitem(sys.modules, "my_leaves")
