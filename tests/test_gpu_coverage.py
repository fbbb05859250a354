"""What the tests of accelerators must hold, looked at where there is none."""

import pkgutil
import re
from pathlib import Path
from typing import get_args, get_type_hints

import ssleval.heads
import ssleval.tasks
from ssleval.core import Readout
from tests.test_gpu import READOUTS
from tests.test_gpu_tasks import LINES, OF_TEXTS


def test_every_task_is_among_these() -> None:
    known = {module.name for module in pkgutil.iter_modules(ssleval.tasks.__path__)}
    assert known == {line.task for line in LINES} | {*OF_TEXTS, "robustness"}


def test_every_head_is_behind_a_task() -> None:
    folders = (Path(ssleval.tasks.__path__[0]), Path(ssleval.heads.__path__[0]))
    text = "\n".join(path.read_text(encoding="utf-8") for folder in folders for path in folder.rglob("*.py"))
    imports = " ".join(re.findall(r"from ssleval\.heads\S* import [^(\n]*", text))
    modules = pkgutil.walk_packages(ssleval.heads.__path__, "ssleval.heads.")
    heads = {module.name.rpartition(".")[2] for module in modules if not module.ispkg}
    assert heads <= set(re.findall(r"\w+", imports))


def test_every_kind_of_readout_is_among_these() -> None:
    assert {readout.kind for readout in READOUTS} == set(get_args(get_type_hints(Readout)["kind"]))
