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
    task, test, statistic = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    (tmp_path / "ssleval" / "metrics" / "root_mean_square.py").write_text(statistic, encoding="utf-8")
    (tmp_path / "ssleval" / "tasks" / "centroid.py").write_text(task, encoding="utf-8")
    (tmp_path / "tests" / "tasks" / "test_centroid.py").write_text(test, encoding="utf-8")
    return tmp_path


def succeeds(folder: Path, *command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_statistic_of_ones_own_is_recorded_and_resampled(copy: Path) -> None:
    code = (
        "import numpy as np\n"
        "from ssleval.core import Metric, Samples\n"
        "from ssleval.metrics.recorded import describe, statistic_from\n"
        "from ssleval.metrics.root_mean_square import root_mean_square_of\n"
        "metric = Metric('rmse', root_mean_square_of('e'), unit='m')\n"
        "samples = Samples(['a', 'b'], {'e': np.array([3.0, 4.0])})\n"
        "assert abs(metric.score(samples) - 12.5 ** 0.5) < 1e-12\n"
        "again = statistic_from(describe(metric.statistic))\n"
        "assert again(samples, np.array([[1.0, 0.0]])) == 3.0\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_example_passes_lint_contracts_and_its_tests_with_no_other_file_touched(copy: Path) -> None:
    files = (
        "ssleval/tasks/centroid.py",
        "tests/tasks/test_centroid.py",
        "ssleval/metrics/root_mean_square.py",
    )
    succeeds(copy, "ruff", "check", *files)
    succeeds(copy, "ruff", "format", "--check", *files)
    tests = ("tests/tasks/test_centroid.py", "tests/test_contracts.py", "tests/test_docs.py")
    chosen = "centroid or contracts or all_has or fifteen or task"
    succeeds(copy, "pytest", "-q", "-p", "no:cacheprovider", *tests, "tests/run/test_suites.py", "-k", chosen)
