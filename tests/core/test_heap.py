"""Reuse of freed memory, measured by page faults, and the pause of the garbage collector."""

import gc
import platform
import resource
from pathlib import Path

import pytest
import torch

from ssleval.core import heap
from ssleval.core.heap import cycles_left, freed_memory_kept

glibc_only = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")


def pages_cleared(rounds: int = 5, numbers: int = 20_000_000) -> int:
    """Take and free 80 MB again and again; return the page faults of all rounds but the first."""
    torch.ones(numbers)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        torch.ones(numbers)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


A_TENTH_OF_A_BLOCK = 1_953
"""Pages, of which five blocks have 97,650."""


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 1e6


@glibc_only
def test_blocks_are_reused_inside_and_given_back_after() -> None:
    with freed_memory_kept():
        pages_cleared()  # until blocks lie so that the next fits
        kept = pages_cleared()
        held = resident_mb()
    assert kept < A_TENTH_OF_A_BLOCK
    assert resident_mb() < held - 60


@glibc_only
def test_a_use_within_another_ends_nothing() -> None:
    with freed_memory_kept():
        pages_cleared()
        with freed_memory_kept():
            pass
        pages_cleared()  # the blocks before
        assert pages_cleared() < A_TENTH_OF_A_BLOCK
        held = resident_mb()
    assert resident_mb() < held - 60


class Library:
    """Records the calls of ``mallopt`` and ``malloc_trim``, and refuses thresholds above ``most`` bytes."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.asked: list[tuple[int, int]] = []

    def mallopt(self, option: int, value: int) -> int:
        self.asked.append((option, value))
        return int(option != heap._MMAP_THRESHOLD or value <= self.most)

    def malloc_trim(self, pad: int) -> None:
        self.asked.append((0, pad))


USUAL = [(heap._MMAP_THRESHOLD, 32 << 20), (heap._TRIM_THRESHOLD, 64 << 20), (0, 0)]


def test_a_library_that_refuses_large_blocks_is_asked_for_the_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library(most=32 << 20)
    monkeypatch.setattr(heap, "_glibc", lambda: library)
    with freed_memory_kept():
        mapped = [value for option, value in library.asked if option == heap._MMAP_THRESHOLD]
        assert mapped == [1 << 30, 32 << 20]
    assert library.asked[-3:] == USUAL


def test_an_error_inside_ends_it_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library(most=1 << 30)
    monkeypatch.setattr(heap, "_glibc", lambda: library)
    with pytest.raises(KeyError), freed_memory_kept():
        raise KeyError
    assert library.asked[0] == (heap._MMAP_THRESHOLD, 1 << 30)
    assert library.asked[-3:] == USUAL


def test_cycles_are_looked_for_again_afterwards() -> None:
    with cycles_left():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(KeyError), cycles_left():
        raise KeyError
    assert gc.isenabled()
    gc.disable()
    try:
        with cycles_left():
            pass
        assert not gc.isenabled(), "it was not there before"
    finally:
        gc.enable()
