"""The first section of the page in a real browser: models x boards."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import rankdata

from ssleval.display.report.content import Options, write_report
from ssleval.results import read_all
from tests.display.report.browser import Browser, installed
from tests.display.report.made_up import fill
from tests.results.test_leaderboard import right, store

pytestmark = pytest.mark.skipif(installed() is None, reason="no Chromium is installed")

TABLE = "document.getElementById('matrix-table')"
BOARDS = ["cifar100", "oxford_pets", "nyuv2", "voc2012"]
"""As they stand on the page: by family, then as results are listed."""
SECTIONS = ["matrix", "results", "cost", "supervision", "flips"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven models on four boards; the last lacks two."""
    made = tmp_path_factory.mktemp("matrix")
    fill(made / "results", models=7, boards=4, items=80, lacking=1)
    write_report(made / "results", made / "report.html", Options())
    return made


@pytest.fixture(scope="module")
def scores(folder: Path) -> dict[str, dict[str, float]]:
    """Scores by model and short name of the dataset, as they are stored."""
    found: dict[str, dict[str, float]] = {}
    for result in read_all(folder / "results"):
        score = result.metrics[result.headline]
        found.setdefault(result.model, {})[result.dataset.rpartition("/")[2]] = score.value
    return found


@pytest.fixture
def page(browser: Browser, folder: Path) -> Iterator[Browser]:
    browser.medium("screen")
    browser.resize(1280)
    browser.open(folder / "report.html")
    yield browser
    assert browser.complaints() == []


def cells(page: Browser, which: str = "tbody tr:not(.group)") -> list[list[str]]:
    """Texts of the rows, the first line of each cell."""
    lines = (
        f"[...{TABLE}.querySelectorAll('{which}')].map((row) => [...row.cells].map((one) => one.innerText))"
    )
    return [[text.split("\n")[0].strip() for text in row] for row in page.ask(lines)]


def names(page: Browser) -> list[str]:
    return [row[0] for row in cells(page)]


def press(page: Browser, column: str) -> str:
    """Press a column's head; return the order it then says it has."""
    find = f"[...{TABLE}.querySelectorAll('thead button')].find((one) => one.dataset.column === '{column}')"
    page.ask(f"{find}.click()")
    return page.ask(f"{find}.parentElement.getAttribute('aria-sort')")


def put(page: Browser, field: str, value: str) -> None:
    page.ask(
        f"(() => {{ const field = document.getElementById('{field}'); field.value = {json.dumps(value)};"
        "field.dispatchEvent(new Event('input', { bubbles: true })); })()"
    )


def by_mean_rank(scores: dict[str, dict[str, float]]) -> tuple[list[str], np.ndarray]:
    complete = [model for model, found in scores.items() if len(found) == len(BOARDS)]
    values = np.array([[scores[model][board] for board in BOARDS] for model in complete])
    values[:, BOARDS.index("nyuv2")] *= -1
    return complete, rankdata(-values, axis=0).mean(axis=1)


def test_models_stand_by_mean_rank_and_those_that_lack_boards_below_without_one(
    page: Browser, scores: dict[str, dict[str, float]]
) -> None:
    complete, ranks = by_mean_rank(scores)
    rows = cells(page)
    assert [row[1] for row in rows[:-1]] == [f"{rank:.2f}" for rank in sorted(ranks)]
    for row in rows[:-1]:
        assert row[1] == f"{ranks[complete.index(row[0])]:.2f}"
    (lacking,) = scores.keys() - set(complete)
    assert rows[-1][:2] == [lacking, "\N{EN DASH}"]
    assert cells(page, "tr.group") == [["Not ranked, for want of boards"]]
    assert page.ask(f"{TABLE}.querySelector('tbody tr td').innerText.split('\\n')[1]").startswith("rank")


def test_best_scores_are_bold_whatever_direction_and_cells_are_shaded_by_score(
    page: Browser, scores: dict[str, dict[str, float]]
) -> None:
    (heads,) = cells(page, "thead tr:last-child")
    assert [head for head in heads if head in BOARDS] == BOARDS
    for board in BOARDS:
        place = heads.index(board)
        found = page.ask(
            f"[...{TABLE}.querySelectorAll('tbody tr:not(.group)')].map((row) => row.cells[{place}])"
            ".filter((one) => one.matches('.score')).map((one) => ["
            "one.parentElement.cells[0].firstChild.nextSibling.textContent,"
            "one.classList.contains('best'), Number(one.style.getPropertyValue('--share'))])"
        )
        sign = -1 if board == "nyuv2" else 1
        values = {model: sign * of[board] for model, of in scores.items() if board in of}
        best, worst = max(values, key=lambda name: values[name]), min(values, key=lambda name: values[name])
        assert [model for model, bold, _ in found if bold] == [best]
        shares = {model: share for model, _, share in found}
        assert (shares[best], shares[worst]) == (1, 0)
        assert sorted(shares, key=lambda name: shares[name]) == sorted(values, key=lambda name: values[name])


def test_it_sorts_by_any_column_and_keeps_the_unranked_below(
    page: Browser, scores: dict[str, dict[str, float]]
) -> None:
    complete, _ = by_mean_rank(scores)
    for column, board in (("knn/cifar100", "cifar100"), ("depth/nyuv2", "nyuv2")):
        upward = board == "nyuv2"
        best_first = sorted(complete, key=lambda name: scores[name][board], reverse=not upward)
        assert press(page, column) == ("ascending" if upward else "descending")
        assert [scores[name][board] for name in names(page)[:-1]] == [
            scores[name][board] for name in best_first
        ]
        assert press(page, column) == ("descending" if upward else "ascending")
        assert [scores[name][board] for name in names(page)[:-1]] == [
            scores[name][board] for name in reversed(best_first)
        ]
    press(page, "model")
    assert names(page)[:-1] == sorted(complete)


def test_it_filters_by_words_and_groups_by_supervision(page: Browser) -> None:
    everyone = names(page)
    put(page, "matrix-find", "weakly delta")
    assert names(page) == [name for name in everyone if name.startswith("delta")]
    put(page, "matrix-find", "")
    page.ask("document.getElementById('matrix-group').click()")
    titles = [row[0] for row in cells(page, "tr.group")]
    assert titles[-1] == "Not ranked, for want of boards"
    assert {title.partition(":")[0] for title in titles[:-1]} == {
        "self-supervised",
        "weakly supervised",
        "supervised",
    }
    means = [float(title.rpartition(" ")[2]) for title in titles[:-1]]
    assert means == sorted(means)
    assert sorted(names(page)) == sorted(everyone)


def test_one_family_or_one_board_can_be_shown(page: Browser) -> None:
    put(page, "matrix-boards", "family:dense")
    assert cells(page, "thead tr:last-child")[0][2:] == ["Mean rank", "nyuv2", "voc2012"]
    put(page, "matrix-boards", "knn/cifar100")
    assert cells(page, "thead tr:last-child")[0][2:] == ["cifar100"]


def test_a_link_keeps_the_view(page: Browser, folder: Path) -> None:
    put(page, "matrix-find", "vit")
    put(page, "matrix-boards", "family:dense")
    page.ask("document.getElementById('matrix-group').click()")
    press(page, "depth/nyuv2")
    press(page, "depth/nyuv2")
    put(page, "cost-kind", "GFLOPs an image")
    page.ask("document.querySelector('#sections a[href=\"#cost\"]').click()")
    address, shown = page.ask("location.href"), page.ask(f"{TABLE}.innerText")
    page.open(folder / "report.html", address.partition("#")[2])
    assert page.ask(f"{TABLE}.innerText") == shown
    assert page.ask("document.getElementById('matrix-boards').value") == "family:dense"
    assert page.ask("document.getElementById('cost-kind').value") == "GFLOPs an image"
    assert page.ask("Math.abs(document.getElementById('cost').getBoundingClientRect().top) < 40")
    page.open(folder / "report.html")
    assert page.ask("location.hash") == ""


def test_a_link_of_another_report_or_a_broken_one_shows_the_page(page: Browser, folder: Path) -> None:
    page.open(folder / "report.html", "sort=nothing&board=none&at=none&find=%3Cimg%20src=x%3E&list-sort=-x")
    assert page.ask("document.getElementById('matrix-find').value") == "<img src=x>"
    assert names(page) == []
    put(page, "matrix-find", "")
    assert len(names(page)) == 7


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_follows_the_setting_of_the_system_and_stays_readable(page: Browser, scheme: str) -> None:
    page.medium("screen", scheme)
    readable = page.ask(
        """(async () => {
          for (const _ of [1, 2]) await new Promise(requestAnimationFrame);
          const paint = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
          const light = (...colors) => {
            for (const color of colors) { paint.fillStyle = color; paint.fillRect(0, 0, 1, 1); }
            const [r, g, b] = [...paint.getImageData(0, 0, 1, 1).data].slice(0, 3).map((part) => part / 255)
              .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const page = getComputedStyle(document.body).backgroundColor;
          const texts = document.querySelectorAll('#matrix-table .score button, #matrix-table .under');
          const ratios = [...texts].map((one) => {
            const text = light(getComputedStyle(one).color);
            const ground = light(page, getComputedStyle(one.closest('td, th')).backgroundColor);
            return (Math.max(text, ground) + 0.05) / (Math.min(text, ground) + 0.05);
          });
          return { page: light(page), least: Math.min(...ratios), count: ratios.length,
            chart: light(document.querySelector('#cost-chart .xtitle').style.fill) };
        })()"""
    )
    assert readable["count"] > 30
    assert readable["least"] >= 4.5, "WCAG 2.2, 1.4.3"
    assert (readable["page"] > 0.5) == (scheme == "light")
    assert (readable["chart"] < 0.5) == (scheme == "light"), "charts are drawn anew"


def test_the_head_and_the_models_stay_in_sight(page: Browser) -> None:
    page.resize(390, 500)
    box = f"{TABLE}.parentElement"
    page.ask(f"{box}.scrollTo(200, 60)")
    offsets = page.ask(
        f"(() => {{ const at = {box}.getBoundingClientRect();"
        f"const name = {TABLE}.querySelectorAll('tbody th.name')[3].getBoundingClientRect();"
        f"const top = {TABLE}.tHead.rows[0].cells[0].getBoundingClientRect();"
        f"return [{box}.scrollLeft, {box}.scrollTop, name.left - at.left, top.top - at.top]; }})()"
    )
    assert offsets[:2] == [200, 60]
    assert max(map(abs, offsets[2:])) <= 1


def test_verdicts_need_no_sideways_scrolling_on_a_phone(page: Browser, folder: Path) -> None:
    page.resize(390, 844)
    page.open(folder / "report.html")
    assert page.ask("document.documentElement.scrollWidth") == 390
    right = (
        "Math.max(...[...document.querySelectorAll('{}')].map((one) => one.getBoundingClientRect().right))"
    )
    for verdict in ("#matrix-note", "#matrix-table tbody td:nth-child(2)", "#contrast-table td"):
        assert 0 < page.ask(right.format(verdict)) <= 390, verdict


@pytest.mark.parametrize(("button", "name"), [("matrix-csv", "ssleval.csv"), ("matrix-latex", "ssleval.tex")])
def test_the_matrix_is_saved_as_csv_and_latex(
    page: Browser, tmp_path: Path, button: str, name: str, scores: dict[str, dict[str, float]]
) -> None:
    page.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path), eventsEnabled=True)
    page.ask(f"document.getElementById('{button}').click()")
    page.wait("Browser.downloadProgress", state="completed")
    text = (tmp_path / name).read_text(encoding="utf-8")
    if name.endswith("tex"):
        assert text.count("\\textbf") == len(BOARDS)
        assert text.startswith("\\begin{tabular}{lrrrr}\n")
        assert text.count(" \\\\\n") == len(names(page)), "a head and the ranked models"
        return
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["model"] for row in rows] == names(page)[:-1]
    for row in rows:
        assert float(row["linear/folder:oxford_pets"]) == scores[row["model"]]["oxford_pets"]


def test_a_score_opens_its_result_and_arrows_move_between_scores(page: Browser) -> None:
    page.ask(f"{TABLE}.querySelector('tbody .score button').focus()")
    page.press("ArrowRight", 39)
    page.press("ArrowDown", 40)
    title = page.ask("document.activeElement.title")
    assert title.startswith(f"{names(page)[1]}, linear/folder:oxford_pets (test): top1 ")
    page.press("Enter", 13, "\r")
    assert page.ask("document.getElementById('details-title').textContent").startswith(
        f"{names(page)[1]} on linear/folder:oxford_pets"
    )
    page.press("Escape", 27)


def test_sections_without_anything_to_show_are_absent(
    browser: Browser, page: Browser, tmp_path: Path
) -> None:
    seen = "[...document.querySelectorAll('{}')].filter((one) => one.checkVisibility()).map((one) => {})"
    shown = seen.format("main section", "one.id")
    links = seen.format("#sections a", "one.hash.slice(1)")
    assert page.ask(shown) == page.ask(links) == SECTIONS
    (tmp_path / "none").mkdir()
    write_report(tmp_path / "none", tmp_path / "empty.html")
    browser.open(tmp_path / "empty.html")
    assert page.ask(shown) == page.ask(links) == []
    assert page.ask("document.getElementById('summary').textContent") == "There are no results."


def test_points_are_labelled_and_labels_cover_nothing(page: Browser) -> None:
    boxes = page.ask(
        "[...document.querySelectorAll('#cost-chart .textpoint text')].filter((one) => one.textContent)"
        ".map((one) => [one.textContent, one.getBoundingClientRect().toJSON()])"
    )
    assert len(boxes) >= 4
    assert {text for text, _ in boxes} <= set(names(page))
    for place, (_, one) in enumerate(boxes):
        for _, two in boxes[:place]:
            apart = (
                one["left"] >= two["right"] or two["left"] >= one["right"]
                or one["top"] >= two["bottom"] or two["top"] >= one["bottom"]
            )  # fmt: skip
            assert apart


def test_names_are_texts_wherever_the_page_shows_them(browser: Browser, tmp_path: Path) -> None:
    hostile = "<img src=x onerror=alert(1)>'\"&</script>"
    store(tmp_path / "results", hostile, right(0.8))
    store(tmp_path / "results", "=HYPERLINK(1)", right(0.5, seed=1))
    write_report(tmp_path / "results", tmp_path / "report.html", Options(title=hostile))
    browser.open(tmp_path / "report.html")
    assert names(browser) == [hostile, "=HYPERLINK(1)"]
    assert browser.ask("document.querySelectorAll('img').length") == 0
    table = browser.ask("JSON.parse(document.getElementById('data').textContent).matrix.csv")
    assert table[2].startswith("'=HYPERLINK(1),"), "no formula in a spreadsheet"
    assert browser.complaints() == []


def test_no_folder_of_this_machine_is_on_the_page(folder: Path) -> None:
    assert any("/srv/someone" in result.dataset for result in read_all(folder / "results"))
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "/srv/someone" not in text
    assert str(folder) not in text
