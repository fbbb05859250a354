"""The built wheel carries its data files and works from any folder, without the source tree."""

import json
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def call(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that holds the wheel and, of this one, only the dependencies."""
    folder = tmp_path_factory.mktemp("wheel")
    call(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    call(sys.executable, "-m", "venv", folder / "env", cwd=folder)
    python = folder / "env" / "bin" / "python"
    (wheel,) = folder.glob("*.whl")
    call(python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=folder)
    site = next((folder / "env").glob("lib/python*/site-packages"))
    # Behind the wheel on the path; .pth files, such as that of an editable install, are not followed.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


@pytest.mark.slow
def test_the_wheel_carries_every_data_file(installed: Path) -> None:
    (data,) = (installed / "env").glob("lib/python*/site-packages/ssleval/data")
    expected = {
        "model_zoo.yaml",
        *(f"benchmarks/{path.name}" for path in (ROOT / "benchmarks").glob("*.*ml")),
    }
    expected |= {f"benchmarks/{path.name}" for path in (ROOT / "benchmarks").glob("*.csv")}
    expected |= {
        f"benchmarks/published/{path.name}" for path in (ROOT / "benchmarks" / "published").iterdir()
    }
    assert {path.relative_to(data).as_posix() for path in data.rglob("*.*")} == expected


@pytest.mark.slow
def test_an_installed_wheel_works_from_any_folder(installed: Path, tmp_path: Path) -> None:
    ssleval = installed / "env" / "bin" / "ssleval"
    python = installed / "env" / "bin" / "python"
    where = call(python, "-c", "import ssleval; print(ssleval.__file__)", cwd=tmp_path)
    assert str(installed) in where
    assert "dinov2_vitb14" in call(ssleval, "ls", "models", "--json", cwd=tmp_path)
    assert "smoke" in call(ssleval, "ls", "suites", "--json", cwd=tmp_path)
    line = call(
        ssleval,
        *("run", "--model", "pixels", "--suite", "smoke", "--limit", "60", "--set", "knn.ks=5"),
        *("--cache", tmp_path / "cache", "--json"),
        cwd=tmp_path,
    )
    assert json.loads(line)["metrics"]["top1@5"]["n"] == 60
    assert list((tmp_path / "results" / "pixels").glob("knn-digits-*.json"))
