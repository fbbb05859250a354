"""The cache folder: the variable, then the platform's convention, looked up when it is needed."""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import gettempdir

import pytest

from ssleval.core import Context, DatasetOptions
from ssleval.core.cachefolder import default_cache


def test_the_variable_then_the_platforms_convention(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSLEVAL_CACHE", str(tmp_path / "mine"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache() == tmp_path / "mine"
    assert Context().cache == DatasetOptions().cache == tmp_path / "mine"
    monkeypatch.setenv("SSLEVAL_CACHE", "")
    if sys.platform == "linux":
        assert Context().cache == tmp_path / "xdg" / "ssleval"
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert Context().cache == tmp_path / ".cache" / "ssleval"


def test_a_user_without_a_home_has_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def unexpanded(name: str) -> Path:
        return Path("~/.cache") / name

    monkeypatch.delenv("SSLEVAL_CACHE", raising=False)
    monkeypatch.setattr("ssleval.core.cachefolder.user_cache_path", unexpanded)
    assert default_cache().parent == Path(gettempdir())


def test_no_variable_is_needed_to_import_and_run() -> None:
    kept = {name: value for name, value in os.environ.items() if name not in {"HOME", "XDG_CACHE_HOME"}}
    done = subprocess.run(
        [sys.executable, "-m", "ssleval", "ls", "suites"], env=kept, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
