"""Writing one batch behind, and what is said where decoding is the limit."""

import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssleval.core import Context
from ssleval.errors import DataError
from ssleval.features import FeatureSource
from ssleval.features import extract as module
from ssleval.features.extract import Extracted
from ssleval.features.pace import Pace, decoding_limits, one_behind
from tests.features.feature_fakes import PATCHES, POOLED, Tiny, context_of, dataset_of, request_of, split_of


def test_calls_are_made_in_order_beside_the_caller_and_all_at_the_end() -> None:
    done: list[int] = []
    first = threading.Event()

    def slow() -> None:
        assert first.wait(10)
        done.append(0)

    with one_behind() as later:
        later(slow)
        assert done == []  # the caller goes on meanwhile
        first.set()
        later(partial(done.append, 1))
        assert done[0] == 0
        later(partial(done.append, 2))
    assert done == [0, 1, 2]


@pytest.mark.parametrize("more", [0, 1])
def test_an_error_reaches_the_caller_once_and_nothing_follows_it(more: int) -> None:
    done: list[int] = []

    def fails() -> None:
        raise DataError("disk full")

    def run() -> None:
        with one_behind() as later:
            later(fails)
            for _ in range(more):
                later(partial(done.append, 1))

    with pytest.raises(DataError, match="disk full"):
        run()
    assert done == []


def test_what_was_begun_is_finished_when_the_caller_is_interrupted() -> None:
    done: list[int] = []

    def slow() -> None:
        time.sleep(0.05)
        done.append(1)

    def run() -> None:
        with one_behind() as later:
            later(slow)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert done == [1]


def test_a_disk_that_refuses_ends_the_run_with_its_line_and_keeps_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, batches = request_of(dataset_of(split_of(20)), POOLED, PATCHES), []
    write = module.Consumer._store

    def refusing(consumer: Any, decoded: Any, named: Any) -> None:
        batches.append(decoded)
        if len(batches) == 4:
            raise DataError("pooled.npy: no space left")
        write(consumer, decoded, named)

    monkeypatch.setattr(module.Consumer, "_store", refusing)
    with pytest.raises(DataError, match=r"pooled\.npy: no space left"):
        FeatureSource(Tiny(), context_of(tmp_path)).prepare([request])
    monkeypatch.undo()
    source = FeatureSource(Tiny(), context_of(tmp_path))
    source.prepare([request])
    (done,) = source.counts.values()
    assert done.images == 8
    whole = FeatureSource(Tiny(), context_of(tmp_path / "other")).load(request)
    for readout, array in source.load(request).arrays.items():
        assert np.array_equal(array, whole[readout])


def test_time_is_told_apart_by_who_was_waited_for(tmp_path: Path) -> None:
    source = FeatureSource(Tiny(delay=0.05), context_of(tmp_path))
    source.prepare([request_of(dataset_of(split_of(12)))])
    (done,) = source.counts.values()
    assert 0.15 <= done.computed <= done.seconds
    assert done.waited < 0.1
    pace, clock = Pace(), iter([0.0, 2.0, 2.0, 5.0, 5.0, 6.0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ssleval.features.pace.time.perf_counter", lambda: next(clock))
        assert [*zip(range(3), pace.timed(range(3), Context(device="cpu")), strict=False)]
    assert pace.waited == 6.0


@pytest.mark.parametrize(
    ("workers", "waited", "computed", "expected"),
    [
        # This process decodes 1,000 images in 80 s, the model takes 20: four would do.
        (0, 80.0, 20.0, "12 images/s by 1 process, 50 images/s through the model; --num-workers 4 would"),
        # Four keep busy for 100 s where the model needs 25: sixteen would do.
        (4, 70.0, 25.0, "10 images/s by 4 processes, 40 images/s through the model; --num-workers 16 would"),
        (0, 20.0, 80.0, ""),
        (4, 5.0, 90.0, ""),
    ],
)
def test_decoding_is_named_where_it_is_the_limit(
    workers: int, waited: float, computed: float, expected: str
) -> None:
    context = Context(device="cpu", num_workers=workers)
    said = decoding_limits(1000, 100.0, waited, computed, context)
    assert (expected in said) if expected else said == ""
    assert ("--pixels fast" in said) == bool(expected)
    assert "--pixels" not in decoding_limits(1000, 100.0, waited, computed, Context(pixels="fast"))
    assert decoding_limits(10, 1.0, 0.9, 0.1, context) == ""


def test_what_passes_did_adds_up() -> None:
    total = Extracted(3, 1, 2.0, 1.0, 0.5) + Extracted(4, 2, 3.0, 0.5, 0.25)
    assert total == Extracted(7, 3, 5.0, 1.5, 0.75)


def test_ctrl_c_within_a_pass_keeps_what_was_written(tmp_path: Path) -> None:
    code = f"""
import signal
from pathlib import Path
from typing import Any
from ssleval.features import FeatureSource
from tests.features.feature_fakes import *
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a script's `&` started the tests
folder = Path({str(tmp_path)!r})
source = FeatureSource(Tiny(delay=0.05, log=folder / "log"), context_of(folder))
source.prepare([request_of(dataset_of(split_of(400)))])
"""
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    for _ in range(600):
        if (tmp_path / "log").exists() and len((tmp_path / "log").read_text().splitlines()) > 6:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate()[1]
    source = FeatureSource(Tiny(), context_of(tmp_path))
    source.prepare([request_of(dataset_of(split_of(400)))])
    (done,) = source.counts.values()
    assert 0 < done.images <= 400 - 4 * 5
