"""The section of curves in a real browser: it draws scores, their intervals and the chosen place."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ssleval.display.report.content import write_report
from ssleval.results import record
from tests.display.report.browser import Browser, installed
from tests.results.test_curves import by_depth, stored
from tests.results.test_leaderboard import right, store

pytestmark = pytest.mark.skipif(installed() is None, reason="no Chromium is installed")

SHOTS = {"top1@5shot-logreg": 0.5, "top1@1shot-logreg": 0.2, "top1@5shot-knn5": 0.4, "top1@1shot-knn5": 0.3}
WIDTHS = [1280, 390]
SCHEMES = ["light", "dark"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("curves")
    by_depth(folder / "results")
    stored(folder / "results", "fewshot", SHOTS)
    write_report(folder / "results", folder / "report.html")
    return folder / "report.html"


@pytest.fixture
def page(browser: Browser) -> Iterator[Browser]:
    """Whatever is opened, it complains of nothing."""
    browser.medium("screen")
    browser.resize(1280)
    yield browser
    assert browser.complaints() == []
    browser.medium("screen")


def charts(page: Browser) -> list[dict[str, Any]]:
    """Return what Plotly was given for each chart of the section."""
    return page.ask(
        "[...document.querySelectorAll('#curve-charts figure')].map((figure) => ({"
        "title: figure.querySelector('figcaption').innerText,"
        "lines: figure.querySelector('.chart').data.map(({ name, x, y, error_y, marker }) => "
        "({ name, x, y, up: error_y.array, down: error_y.arrayminus, symbols: marker.symbol })),"
        "drawn: figure.querySelectorAll('.scatterlayer .trace').length,"
        "bars: figure.querySelectorAll('.errorbar').length }))"
    )


def test_each_point_is_a_score_with_its_interval_and_the_chosen_one_has_a_ring(
    page: Browser, path: Path
) -> None:
    page.open(path)
    by_title = {chart["title"]: chart for chart in charts(page)}
    assert list(by_title) == ["curves/digits: top1", "fewshot/digits: top1"]
    depth = by_title["curves/digits: top1"]
    assert (depth["drawn"], depth["bars"]) == (2, 24)
    cls, mean = depth["lines"]
    assert (cls["name"], mean["name"]) == ("m, cls", "m, mean")
    # Shares are (n + 1) / 20 and (n + 2) / 20; the thirteenth place counted from 0 is the second of the mean.
    assert cls["y"] == pytest.approx([5 * (n + 1) for n in range(1, 13)])
    assert mean["y"] == pytest.approx([5 * (n + 2) for n in range(1, 13)])
    assert [at for at, symbol in enumerate(mean["symbols"]) if symbol != "circle"] == [1]
    assert set(cls["symbols"]) == {"circle"}
    (result,) = (one for one in record.read_all(path.parent / "results") if one.task == "curves")
    for n, (y, up, down) in enumerate(zip(cls["y"], cls["up"], cls["down"], strict=True), 1):
        low, high = result.metrics[f"top1@cls-{n}/12"].ci95
        assert (y - down, y + up) == pytest.approx((100 * low, 100 * high))
    shots = {line["name"]: (line["x"], line["y"]) for line in by_title["fewshot/digits: top1"]["lines"]}
    assert shots["m, logreg"] == ([1, 5], pytest.approx([20, 50]))
    assert shots["m, knn5"] == ([1, 5], pytest.approx([30, 40]))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_charts_fit_and_can_be_read(page: Browser, path: Path, width: int, scheme: str) -> None:
    page.medium("screen", scheme)
    page.resize(width)
    page.open(path)
    assert page.ask("document.documentElement.scrollWidth") <= width
    inside = (
        "[...document.querySelectorAll('#curve-charts .main-svg')].every((one) => "
        "one.getBoundingClientRect().right <= window.innerWidth && one.getBoundingClientRect().width > 200)"
    )
    assert page.ask(inside)
    words = page.ask(
        "(() => { const [first] = document.querySelectorAll('#curve-charts .xtitle');"
        "const level = (text) => text.match(/\\d+/g).slice(0, 3).reduce((sum, one) => sum + Number(one), 0);"
        "const ground = getComputedStyle(document.body).backgroundColor;"
        "return [level(getComputedStyle(first).fill), level(ground)];"
        " })()"
    )
    assert (words[0] > words[1]) == (scheme == "dark"), "light letters on dark, dark ones on light"
    assert abs(words[0] - words[1]) > 300


def test_without_curves_there_is_no_section_and_no_link(page: Browser, tmp_path: Path) -> None:
    store(tmp_path / "results", "m", right(0.5))
    write_report(tmp_path / "results", tmp_path / "report.html")
    page.open(tmp_path / "report.html")
    assert not page.ask("document.getElementById('curves').checkVisibility()")
    assert not page.ask("document.querySelector('nav a[href=\"#curves\"]').checkVisibility()")
