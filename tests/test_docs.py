"""Documentation that cannot rot: commands, code blocks, the tree and the lists are checked."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ssleval.core.registry import summaries
from tests.cli.command_reference import leaves, options, reference

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = dict(leaves())


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


def shell_lines(page: Path) -> list[list[str]]:
    joined = "\n".join(blocks(page, "bash")).replace("\\\n", " ")
    lines = [line.split("#")[0].split() for line in joined.splitlines()]
    return [words for words in lines if words[:1] == ["ssleval"] and not words[1].startswith("--")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_in_the_docs_exist(page: Path) -> None:
    for words in shell_lines(page):
        given = [name for name in COMMANDS if " ".join(words[1:]).startswith(name)]
        name = max(given, key=len, default=None)
        assert name, " ".join(words)
        known = {spelling for option in options(COMMANDS[name]) for spelling in option.opts} | {"--traceback"}
        used = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert used <= known, " ".join(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_are_python(page: Path) -> None:
    for block in blocks(page, "python"):
        ast.parse(block)


def test_the_command_reference_is_the_command_line() -> None:
    assert (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8") == reference()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_help(name: str) -> None:
    assert COMMANDS[name].help.count("ssleval ") >= 2, "two examples"
    for option in options(COMMANDS[name]):
        assert option.help, f"{name} {option.opts}"


def test_every_page_of_a_task_is_of_one_and_the_index_names_it() -> None:
    pages = {path.stem for path in (ROOT / "docs" / "tasks").glob("*.md")}
    assert pages <= set(summaries("ssleval.tasks"))
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert {name for name in pages if f"(tasks/{name}.md)" in index} == pages


def rooms() -> set[str]:
    folder = ROOT / "ssleval"
    inside = {path.name for path in folder.iterdir() if (path / "__init__.py").exists()}
    return inside | {path.stem for path in folder.glob("*.py") if not path.name.startswith("__")}


def test_the_package_has_fifteen_rooms_beside_its_errors() -> None:
    entries = {path.name for path in (ROOT / "ssleval").iterdir()} - {"__pycache__"}
    assert len(rooms()) == 15
    assert entries - {"errors.py"} <= rooms() | {"__init__.py", "__main__.py", "py.typed", "data"}


def test_readme_contributing_and_the_import_contract_name_the_same_rooms() -> None:
    (tree,) = blocks(ROOT / "README.md", "text")
    lines = tree.splitlines()
    assert lines[0] == "ssleval/"
    assert len(lines) <= 18
    assert {re.sub(r"/|\.py", "", line.split()[0]) for line in lines[1:]} == rooms()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    floors = project["tool"]["importlinter"]["contracts"][0]["layers"]
    assert {room for floor in floors for room in re.findall(r"\w+", floor)} == rooms()
    stated = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("`lint-imports`): ")[1]
    named = re.sub(r"[`\s]+", " ", stated.partition(". A room")[0])
    assert [floor.strip() for floor in named.split(">")] == floors


@pytest.mark.slow
def test_the_python_of_the_readme_runs(tmp_path: Path) -> None:
    code = "\n".join(blocks(ROOT / "README.md", "python"))
    env = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Score(value=" in done.stdout


def test_make_demo_is_the_demo_of_the_readme() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    shown = next(line[2:] for line in README.splitlines() if line.startswith("$ ssleval run"))
    assert shown.removeprefix("ssleval ") in makefile


def test_the_readme_says_how_to_demo_and_test_on_its_first_screen() -> None:
    first = README[:4000]
    assert first.index("make demo") < first.index("make test") < first.index("pip install")


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150
