"""Size and first paint of the report, and its pictures: ``python -m benchmarks.report_page``.

Forty made-up models on fifteen boards of 1,000 images make a page that Chromium opens, without a window, in a
new profile. Prints its megabytes with and without Plotly, seconds to its first paint and until it is drawn as
JSON; exit 1 where a bar is missed. ``--pictures DIR`` draws the pictures of the documentation instead: twelve
models on six boards, in the light and wide, in the dark and narrow.
"""

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from plotly.offline import get_plotlyjs

from ssleval.display.report import Options, write_report
from tests.display.report.browser import Browser, installed
from tests.display.report.made_up import fill

BAR_MB, BAR_SECONDS = 3.0, 2.0
PICTURES = {"report_light.png": ("light", 1280, 900), "report_dark.png": ("dark", 390, 844)}


def measure(folder: Path, browser: Browser) -> dict[str, float]:
    """Return megabytes and seconds of the page of forty models on fifteen boards."""
    page = _page(folder, models=40, boards=15, items=1000, lacking=0)
    browser.resize(1280)
    browser.open(page)
    paint = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
    drawn = "performance.getEntriesByType('navigation')[0].loadEventEnd"
    size = page.stat().st_size / 1e6
    return {
        "mb": round(size, 2),
        "mb_without_plotly": round(size - len(get_plotlyjs().encode()) / 1e6, 2),
        "first_paint_seconds": round(browser.ask(paint) / 1e3, 2),
        "drawn_seconds": round(browser.ask(drawn) / 1e3, 2),
    }


def draw(folder: Path, browser: Browser, out: Path) -> None:
    """Write the pictures of the documentation into ``out``."""
    page = _page(folder, models=12, boards=6, items=400, lacking=1)
    for name, (scheme, width, height) in PICTURES.items():
        browser.medium("screen", scheme)
        browser.resize(width, height)
        browser.open(page)
        if width < 600:
            browser.ask("document.getElementById('matrix-filters').scrollIntoView()")
        browser.picture(out / name, whole=False)


def _page(folder: Path, **sizes: int) -> Path:
    fill(folder / "results", **sizes)
    write_report(folder / "results", folder / "report.html", Options())
    return folder / "report.html"


def main() -> int:
    """Measure the page, or draw its pictures; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--pictures", type=Path, help="draw the pictures of the documentation into this folder"
    )
    asked = parser.parse_args()
    program = installed()
    if program is None:
        raise SystemExit("no Chromium is installed")
    with TemporaryDirectory() as folder:
        browser = Browser(program, Path(folder) / "profile")
        try:
            if asked.pictures:
                draw(Path(folder), browser, asked.pictures)
                return 0
            found = measure(Path(folder), browser)
        finally:
            browser.close()
    print(json.dumps(found))
    return int(found["mb_without_plotly"] > BAR_MB or found["first_paint_seconds"] > BAR_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
