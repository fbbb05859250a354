"""A key that another process measures is not measured again: it is waited for, and read."""

import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import ssleval
from ssleval.core import Context
from ssleval.features.shard import Shard
from ssleval.results import Result
from ssleval.run import measure
from tests.features.rank_threads import in_ranks

HOLDER = """
import fcntl, os, sys
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.readline()
os.rename(sys.argv[2], sys.argv[3])
"""
"""Another process: it locks a file, and stores a result before it ends."""


def evaluated(folder: Path, **more: Any) -> Result:
    context = Context(cache=folder / "cache", progress=False)
    (result,) = ssleval.evaluate(
        "pixels", "knn", dataset="digits", settings={"knn": {"ks": (5,)}}, limit=40, context=context,
        results=folder / "results", **more,
    )  # fmt: skip
    return result


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the keys that were evaluated."""
    made: list[str] = []
    evaluate = measure._evaluated

    def counted(source: Any, plan: measure.Plan) -> Any:
        made.append(plan.key)
        return evaluate(source, plan)

    monkeypatch.setattr(measure, "_evaluated", counted)
    return made


@contextmanager
def another_process(first: Result, folder: Path) -> Generator["subprocess.Popen[str]"]:
    """Have another process at work on the key of a result, which is stored no more."""
    assert first.path is not None
    aside = first.path.rename(folder / "aside")
    lock = folder / "results" / f".{first.key[:12]}.lock"
    command = [sys.executable, "-c", HOLDER, str(lock), str(aside), str(first.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process


def finishes(process: "subprocess.Popen[str]") -> None:
    process.communicate("go\n")


def dies(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.wait()


@pytest.mark.parametrize(("end", "more"), [(finishes, 0), (dies, 1)])
def test_what_another_process_measures_is_waited_for(
    tmp_path: Path,
    calls: list[str],
    capfd: pytest.CaptureFixture[str],
    end: Callable[["subprocess.Popen[str]"], None],
    more: int,
) -> None:
    first, seen, said = evaluated(tmp_path), list[Result](), ""
    with another_process(first, tmp_path) as process:
        thread = threading.Thread(target=lambda: seen.append(evaluated(tmp_path)))
        thread.start()
        until = time.monotonic() + 60
        while not said and time.monotonic() < until:
            time.sleep(0.01)
            said = capfd.readouterr().err
        assert not seen
        end(process)
        thread.join()
    assert said == "ssleval: waiting for another process that measures pixels with knn on digits\n"
    (second,) = seen
    assert (second.cached, len(calls)) == (not more, 1 + more)
    assert second.metrics == first.metrics
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["pixels"], "no lock is left"


def test_what_was_stored_since_the_plan_is_read_by_all_ranks(
    tmp_path: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = evaluated(tmp_path)

    def none_yet(*_: Any) -> dict[str, Result]:
        return {}

    monkeypatch.setattr(measure, "_done", none_yet)
    calls.clear()

    def work(_: Shard) -> Result:
        return evaluated(tmp_path)

    results = in_ranks(2, work)
    assert [one.key for one in results if isinstance(one, Result) and one.cached] == [first.key] * 2
    assert not calls
    assert not evaluated(tmp_path, force=True).cached


def test_a_file_system_without_locks_stops_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    path = evaluated(tmp_path).path
    assert path is not None
    path.unlink()
    monkeypatch.setattr("fcntl.flock", refused)
    assert not evaluated(tmp_path).cached
    assert path.is_file()
