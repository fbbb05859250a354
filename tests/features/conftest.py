"""Tests count the forward passes of extraction; those of the probe are counted where they are the subject."""

from typing import Any

import pytest

from ssleval.features import source


@pytest.fixture(autouse=True)
def uncounted_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = source.probe

    def uncounted(backbone: Any, *rest: Any, **more: Any) -> None:
        calls = getattr(backbone, "calls", [])
        count = len(calls)
        probe(backbone, *rest, **more)
        del calls[count:]

    monkeypatch.setattr(source, "probe", uncounted)
