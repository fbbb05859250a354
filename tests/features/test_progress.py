"""What people read while images go through a model."""

import sys
import time

import pytest

from ssleval.features.progress import progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    return now


def test_without_a_terminal_a_line_comes_every_30_seconds(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("dino on \x1bset/train", 20_000, 2_000, show=True) as advance:
        for seconds, images in ((29.0, 100), (1.0, 200), (29.9, 1_000), (0.1, 200), (3_600.0, 18_000)):
            clock[0] += seconds
            advance(images)
    # 300 images in 30 s: 10 a second, 17,700 are left; then 1,500 in a minute.
    assert capsys.readouterr().err.splitlines() == [
        "ssleval: dino on \\x1bset/train: 2,300 of 20,000 images, 10.0 images/s, 0:29:30 left",
        "ssleval: dino on \\x1bset/train: 3,500 of 20,000 images, 25.0 images/s, 0:11:00 left",
        "ssleval: dino on \\x1bset/train: 21,500 of 20,000 images, 5.3 images/s, 0:00:00 left",
    ]


@pytest.mark.parametrize("show", [True, False])
def test_a_short_or_a_quiet_pass_says_nothing(
    clock: list[float], capsys: pytest.CaptureFixture[str], show: bool
) -> None:
    with progress("dino on set", 10, 0, show=show) as advance:
        clock[0] += 29 if show else 1_000
        advance(10)
    assert capsys.readouterr().err == ""
