from pathlib import Path

import pytest

from ssleval.core import digest
from ssleval.core.registry import Registry, suggestion, summaries
from ssleval.errors import DuplicateNameError, UnknownNameError


def test_a_name_is_registered_once() -> None:
    registry: Registry[int] = Registry("task")
    registry.register("ours")(1)
    with pytest.raises(DuplicateNameError, match="'ours' is already 1"):
        registry.register("ours")(2)


def test_an_unknown_name_offers_the_nearest() -> None:
    registry: Registry[int] = Registry("task")
    registry.register("knn")(1)
    with pytest.raises(UnknownNameError, match=r"no task 'knm'; did you mean knn"):
        registry.get("knm")


def test_the_hint_lists_a_few_when_nothing_is_near() -> None:
    hint = suggestion("zzzz", [f"name{i:02}" for i in range(30)])
    assert hint.startswith("known: name00, name01")
    assert hint.endswith("and 18 more")


def test_an_entry_point_is_loaded_only_when_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other_package.py").write_text("thing = 7\n")
    info = tmp_path / "other_package-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other_package\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[ssleval.tasks]\nthird = other_package:thing\nbroken = not_there:thing\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    registry: Registry[int] = Registry("task")
    assert {"third", "broken"} <= set(registry)
    assert registry.get("third") == 7
    assert summaries("ssleval.tasks")["third"] == "from other_package:thing"


def test_digest_ignores_the_order_of_keys_and_nothing_else() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1, "b": [1, 2]}) != digest({"a": 1, "b": [2, 1]})
