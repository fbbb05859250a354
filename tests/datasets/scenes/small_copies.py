"""A copy of `scenes` that holds the first items of every split alone."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssleval.core import DatasetOptions
from ssleval.datasets.scenes import items, store


def rendered(root: Path, lengths: Mapping[str, int]) -> DatasetOptions:
    """Render so many items of every split into a cache; return the options that read it."""
    for split, length in lengths.items():
        folder = root / store.VERSION / split
        folder.mkdir(parents=True)
        rows = [items.item(split, index) for index in range(length)]
        for name in rows[0]:
            np.save(folder / f"{name}.npy", np.stack([row[name] for row in rows]))
        (folder / "manifest.json").write_text("{}")
    return DatasetOptions(cache=root)


def shorten(monkeypatch: pytest.MonkeyPatch, lengths: Mapping[str, int]) -> None:
    """Have splits end where the copy does."""
    for split, length in lengths.items():
        kind: Any = items.SPLITS[split]
        monkeypatch.setitem(items.SPLITS, split, replace(kind, length=length))
