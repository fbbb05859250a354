"""Nothing is derived twice: a sweep opens each dataset, lists each split and resolves each task once."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ssleval.core import Context, Dataset
from ssleval.errors import SslevalError
from ssleval.features import source
from ssleval.run import jobs, sweep
from ssleval.run.sweep import Sweep

TASKS = "knn,logreg,spectrum"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split, count in (("train", 6), ("test", 3)):
        for label in ("red", "green"):
            place = tmp_path / "images" / split / label
            place.mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (12, 12), (number, 200 if label == "green" else 0, 9)).save(
                    place / f"{number}.png"
                )
    return tmp_path / "images"


def counted(monkeypatch: pytest.MonkeyPatch, place: Any, name: str, calls: Counter[Any]) -> None:
    """Count calls of a function by its name."""
    function = getattr(place, name)

    def counting(*arguments: Any, **named: Any) -> Any:
        calls[name] += 1
        return function(*arguments, **named)

    monkeypatch.setattr(place, name, counting)


def test_a_sweep_opens_lists_resolves_and_identifies_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[Any] = Counter()
    counted(monkeypatch, jobs, "build_task", calls)
    counted(monkeypatch, source, "pass_of", calls)
    open_dataset = sweep.open_dataset

    def opening(*arguments: Any) -> Dataset:
        calls["open_dataset"] += 1
        dataset = open_dataset(*arguments)

        def open_split(name: str) -> Any:
            calls[f"open {name}"] += 1
            return dataset.open(name)

        return replace(dataset, open=open_split)

    monkeypatch.setattr(sweep, "open_dataset", opening)
    asked = Sweep(
        models="pixels,random:vit_tiny",
        tasks=TASKS,
        datasets=f"folder:{folder}",
        settings=("knn.ks=3", "logreg.count=2", "spectrum.first=1", "spectrum.last=3"),
    )
    context = Context(cache=tmp_path, progress=False)
    notes: list[str] = []
    outcomes = list(sweep.sweep(asked, context, tmp_path / "results", note=notes.append))
    assert not [outcome for outcome in outcomes if isinstance(outcome, SslevalError)]
    assert len(outcomes) == 6
    assert calls.pop("open_dataset") == 1
    assert (calls.pop("open train"), calls.pop("open test")) == (1, 1)
    # A split seen at one geometry is one pass of each model.
    assert calls.pop("build_task") == 3
    assert calls.pop("pass_of") == 2 * 2
    assert not calls
