"""Results of fast pixels never meet those of exact ones."""

from dataclasses import replace
from pathlib import Path

import pytest

from ssleval.errors import DataError
from ssleval.results import Result, record
from ssleval.results.compare import mismatches, pairings
from ssleval.results.ranking import boards
from tests.results.test_leaderboard import right, store


def kinds(folder: Path) -> tuple[Result, Result]:
    """Store one result with exact pixels, and the same with fast ones."""
    exact = store(folder, "a", right(0.7))
    fast = replace(exact, key="f" * 64, path=None, settings={**exact.settings, "pixels": "fast"})
    return exact, record.write(folder, fast, record.read_samples(exact))


def test_they_have_boards_of_their_own_and_say_so(tmp_path: Path) -> None:
    exact, fast = kinds(tmp_path)
    assert record.read_all(tmp_path) == [exact, fast] or record.read_all(tmp_path) == [fast, exact]
    found = {
        board.entries[0].label: [entry.result.key for entry in board.entries]
        for board in boards([exact, fast])
    }
    assert found == {"a": [exact.key], "a (pixels fast)": [fast.key]}


def test_they_are_not_compared(tmp_path: Path) -> None:
    exact, fast = kinds(tmp_path)
    assert mismatches(exact, fast) == ["pixels: exact against fast"]
    with pytest.raises(DataError, match="pixels: exact against fast; measure both the same way"):
        pairings([exact], [fast])
    assert pairings([fast], [fast])


def test_digests_of_exact_pixels_are_those_of_versions_without_a_choice(tmp_path: Path) -> None:
    exact, fast = kinds(tmp_path)
    stated = replace(exact, settings={**exact.settings, "pixels": "exact"})
    assert record.comparable(exact) == record.comparable(stated) != record.comparable(fast)
