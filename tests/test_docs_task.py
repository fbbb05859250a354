"""The example of docs/adding-a-task.md, pasted into a copy of the package, passes all checks of a task."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "adding-a-task.md").read_text(encoding="utf-8")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a copy of what `make check` looks at, with the task and its test pasted in."""
    left_out = shutil.ignore_patterns("__pycache__", ".*cache")
    for folder in ("ssleval", "tests", "docs", "benchmarks"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=left_out)
    for file in ("pyproject.toml", "model_zoo.yaml", "README.md", "CONTRIBUTING.md"):
        shutil.copy(ROOT / file, tmp_path / file)
    task, test = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    (tmp_path / "ssleval" / "tasks" / "centroid.py").write_text(task, encoding="utf-8")
    (tmp_path / "tests" / "tasks" / "test_centroid.py").write_text(test, encoding="utf-8")
    return tmp_path


def succeeds(folder: Path, *command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_example_passes_lint_contracts_and_its_tests_with_no_other_file_touched(copy: Path) -> None:
    files = ("ssleval/tasks/centroid.py", "tests/tasks/test_centroid.py")
    succeeds(copy, "ruff", "check", *files)
    succeeds(copy, "ruff", "format", "--check", *files)
    tests = ("tests/tasks/test_centroid.py", "tests/test_contracts.py", "tests/test_docs.py")
    chosen = "centroid or contracts or all_has or fourteen or task"
    succeeds(copy, "pytest", "-q", "-p", "no:cacheprovider", *tests, "tests/run/test_suites.py", "-k", chosen)
