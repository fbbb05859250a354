from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSLEVAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
