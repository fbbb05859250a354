import ast
import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.mutants import LISTED, changed_functions, mutants_of, statement_text

MODULE = """
LIMIT = 2

def doubled(x, low=0):
    if x < low:
        raise ValueError(f"{x + 1}")
    return x * LIMIT
"""
TESTS = """
import pytest
from rooms.one import doubled

def test_doubled():
    assert doubled(3) == 6
    assert doubled(0.5) == 1
    with pytest.raises(ValueError):
        doubled(-1)
"""
SURVIVES = "rooms/one.py\tif x < low:\tif x <= low:"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in (("rooms/one.py", MODULE), ("tests/test_one.py", TESTS)):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    (tmp_path / "listed.tsv").write_text("file\tbefore\tafter\treason\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(folder: Path) -> tuple[int, list[str]]:
    """Run the command on a module that needs none of the libraries that are imported once."""
    code = (
        "import sys; from pathlib import Path; from benchmarks import mutants; "
        "mutants._import_once = lambda: None; mutants.LISTED = Path('listed.tsv'); sys.exit(mutants.main())"
    )
    paths = os.pathsep.join([str(Path(__file__).parents[1]), str(folder)])
    done = subprocess.run(
        [sys.executable, "-c", code, "rooms"],
        env={**os.environ, "PYTHONPATH": paths, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, (done.stdout + done.stderr).splitlines()


def test_every_operator_number_and_branch_is_a_mutant_but_no_message(folder: Path) -> None:
    mutants = list(mutants_of(Path("rooms/one.py")))
    assert [mutant.label[1:] for mutant in mutants] == [
        ("LIMIT = 2", "LIMIT = 3"),
        ("def doubled(x, low=0):", "def doubled(x, low=1):"),
        ("if x < low:", "if not x < low:"),
        ("if x < low:", "if x <= low:"),
        ("return x * LIMIT", "return x / LIMIT"),
    ]
    # What runs on import cannot be given to a function that is imported.
    codes = [changed_functions(mutant) for mutant in mutants]
    assert [code and list(code) for code in codes] == [None, None, *[["doubled"]] * 3]
    assert (folder / "rooms/one.py").read_text() == MODULE


def test_mutants_are_killed_by_a_test_that_fails_and_those_listed_are_not_tried(folder: Path) -> None:
    code, lines = command(folder)
    assert lines == [
        "rooms/one.py:5: if x < low:  ->  if x <= low:",
        "5 mutants, 1 survive, 80.0% killed; 0 listed",
    ]
    assert code == 1
    with (folder / "listed.tsv").open("a") as file:
        file.write(f"{SURVIVES}\tno reason\n")
    assert command(folder) == (0, ["4 mutants, 0 survive, 100.0% killed; 1 listed"])


def test_tests_that_fail_without_a_change_kill_nothing(folder: Path) -> None:
    (folder / "tests/test_one.py").write_text(TESTS + "    assert doubled(1) == 3\n")
    code, lines = command(folder)
    assert (code, lines) == (1, ["the tests of rooms/one.py fail without any change: mend them first"])


def test_what_is_listed_is_a_statement_of_its_file_and_has_a_reason() -> None:
    root = Path(__file__).parents[1]
    with LISTED.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert rows
    for name in {row["file"] for row in rows}:
        tree = ast.parse((root / name).read_text(encoding="utf-8"))
        statements = {statement_text(node) for node in ast.walk(tree) if isinstance(node, ast.stmt)}
        listed = {row["before"] for row in rows if row["file"] == name}
        assert listed <= statements, f"{name} has changed: list its mutants anew"
    assert all(row["reason"] and row["before"] != row["after"] for row in rows)
