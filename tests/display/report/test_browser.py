"""The page in a real browser: it sorts, filters, opens, draws, prints, and asks no network for anything."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssleval.core import Samples
from ssleval.display.report.content import Options, write_report
from ssleval.results import record
from tests.display.report.browser import Browser, installed
from tests.results.test_leaderboard import N, right, store

pytestmark = pytest.mark.skipif(installed() is None, reason="no Chromium is installed")

LABELS = np.arange(N) % 10
KINDS = {"own": ("self", 0.85, 22.0), "weak": ("weak", 0.7, 86.0), "full": ("full", 0.5, 5.5)}
OUTCOMES = {name: right(accuracy, seed) for seed, (name, (_, accuracy, _)) in enumerate(KINDS.items())}


def fill(folder: Path) -> None:
    """Two boards of three models that are right, and say another class where they are not; one is older."""
    for k in (20, 10):
        for name, (supervision, _, size) in KINDS.items():
            made = store(folder, name, OUTCOMES[name], k=k)
            card = {**made.backbone, "supervision": supervision, "parameters": size, "family": f"of {name}"}
            cost = {} if name == "full" else {"flops_per_image": size * 4e8, "image_side": 224.0}
            speed = {"images_per_second": 1000 / size}
            said = np.where(OUTCOMES[name], LABELS, (LABELS + 1) % 10)
            columns = {"top1": OUTCOMES[name], "label": LABELS, "predicted": said}
            ids = [f"image{item:04d}.jpg" for item in range(N)]
            changed = replace(
                made, backbone=card, cost=cost, timings=speed, hardware={"cpu": "x", "cores": "2"}
            )
            record.write(folder, changed, Samples(ids, columns))


def log(folder: Path) -> Path:
    """A run of forty steps, evaluated twice."""
    folder.mkdir()
    score = {
        "top1@20": {"value": 0.5, "ci95": [0.4, 0.6], "n": 100},
        "top1@10": {"value": 0.4, "ci95": [0.3, 0.5], "n": 100},
    }
    terms = {"lr": 0.1, "loss": 5.0, "dino": 4.0, "teacher_entropy": 2.0, "kl": 1.0, "feature_rank": 9.0}
    lines = [{"step": step, "epoch": 0, **terms} for step in range(40)]
    scored = [{"step": step, "epoch": 0, "evaluation": score} for step in (20, 39)]
    text = "".join(json.dumps(line) + "\n" for line in [*lines, *scored])
    (folder / "log.jsonl").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    fill(folder / "results")
    (folder / "pictures" / "own").mkdir(parents=True)
    Image.new("RGB", (1400, 700), "teal").save(folder / "pictures" / "own" / "pca.png")
    options = Options(training=(log(folder / "run"),), drawn=folder / "pictures")
    write_report(folder / "results", folder / "report.html", options)
    return folder / "report.html"


@pytest.fixture
def page(browser: Browser, path: Path) -> Iterator[Browser]:
    """The page as opened anew; whatever is done with it, it asks for nothing and complains of nothing."""
    browser.medium("screen")
    browser.resize(1280)
    browser.open(path)
    browser.ask("document.getElementById('list').open = true")
    yield browser
    assert [url for url in browser.requests() if not url.startswith("data:")] == [path.as_uri()]
    assert browser.complaints() == []


def column(page: Browser, number: int) -> list[str]:
    """Texts of one column of the table of results."""
    return page.ask(
        f"[...document.getElementById('table').tBodies[0].rows].map((row) => row.cells[{number}].innerText)"
    )


def choose(page: Browser, field: str, value: str) -> None:
    """Type into a field or choose from a list, by the text that is shown."""
    page.ask(
        f"(() => {{ const field = document.getElementById({json.dumps(field)});"
        f"const text = {json.dumps(value)};"
        "const found = [...(field.options ?? [])].find((one) => one.textContent.startsWith(text));"
        "if (field.options && !found) throw new Error(`no ${text}`);"
        "field.value = found ? found.value : text;"
        "field.dispatchEvent(new Event('input', { bubbles: true })); })()"
    )


def text(page: Browser, name: str) -> str:
    return page.ask(f"document.getElementById({json.dumps(name)}).textContent")


def sort(page: Browser, title: str) -> str:
    """Press the head of a column; return the order it then says it has."""
    heads = "[...document.querySelectorAll('#table th button')]"
    find = f"{heads}.find((one) => one.textContent.startsWith('{title}'))"
    page.ask(f"{find}.click()")
    return page.ask(f"{find}.parentElement.getAttribute('aria-sort')")


def test_it_sorts_by_any_column_both_ways(page: Browser) -> None:
    assert column(page, 1) == ["own", "weak", "full"] * 2, "boards one after the other, ranked"
    assert sort(page, "Params") == "ascending"
    assert column(page, 1) == ["full", "full", "own", "own", "weak", "weak"]
    assert sort(page, "Params") == "descending"
    assert column(page, 1) == ["weak", "weak", "own", "own", "full", "full"]
    assert sort(page, "GFLOPs") == "ascending"
    assert column(page, 1) == ["own", "own", "weak", "weak", "full", "full"], (
        "what is not recorded comes last"
    )
    assert page.ask("document.activeElement.textContent").startswith("GFLOPs")


def test_it_filters_by_words_and_by_supervision(page: Browser) -> None:
    choose(page, "find", "of weak digits")
    assert column(page, 1) == ["weak", "weak"]
    assert text(page, "count") == "2 of 2 matching results shown, 6 in all."
    choose(page, "find", "nothing like it")
    assert column(page, 1) == []
    choose(page, "find", "")
    choose(page, "supervision-filter", "self-supervised")
    choose(page, "board", "knn/digits (test, protocol")
    assert column(page, 1) == ["own"]


def test_a_model_opens_by_keyboard_with_its_classes_items_pictures_and_provenance(page: Browser) -> None:
    page.ask("document.querySelector('#table tbody button').focus()")
    page.press("Enter", 13, "\r")
    assert page.ask("document.getElementById('details').open")
    assert text(page, "details-title").startswith("own on knn/digits")
    found = text(page, "details-body")
    for part in ("Protocol", "Settings", "precisionfp32", "weights_sha256", "flops_per_image"):
        assert part in found
    (classes,) = [
        lines
        for lines in page.ask(
            "[...document.querySelectorAll('#details-body table')].map((table) => "
            "[...table.tBodies[0].rows].map((row) => [...row.cells].map((cell) => cell.textContent)))"
        )
        if lines[0][0].startswith("class ")
    ]
    by_class = sorted(float(OUTCOMES["own"][label == LABELS].mean()) for label in range(10))
    assert [line[1] for line in classes] == [f"{value * 100:.1f}" for value in by_class], "worst first"
    wrong = np.flatnonzero(~OUTCOMES["own"])
    cards = page.ask("[...document.querySelectorAll('#details-body .items li')].map((one) => one.innerText)")
    assert len(cards) == min(24, len(wrong))
    first = int(wrong[0])
    assert cards[0].split("\n") == [
        f"image{first:04d}.jpg",
        f"true: class {first % 10}",
        f"said: class {(first + 1) % 10}",
    ]
    assert page.ask("document.querySelector('#details-body figure img').naturalWidth") == 1000
    page.press("Escape", 27)
    assert not page.ask("document.getElementById('details').open")


def test_what_flipped_is_what_the_samples_say(page: Browser) -> None:
    choose(page, "flip-first", "weak")
    choose(page, "flip-second", "own")
    gained = OUTCOMES["own"] & ~OUTCOMES["weak"]
    lost = OUTCOMES["weak"] & ~OUTCOMES["own"]
    said = text(page, "flip-summary")
    assert f"Of {N} shared items, {gained.sum()} right only for own and {lost.sum()} for weak" in said
    choose(page, "flip-kind", "Only the first is right")
    cards = page.ask("[...document.querySelectorAll('#flip-items li')].map((one) => one.innerText)")
    assert len(cards) == min(24, lost.sum())
    assert {card.split("\n")[0] for card in cards} <= {
        f"image{item:04d}.jpg" for item in np.flatnonzero(lost)
    }


def test_accuracy_stands_against_each_cost_with_its_front(page: Browser) -> None:
    full, own = (f"{name} {OUTCOMES[name].mean() * 100:.1f}" for name in ("full", "own"))
    for kind, front in (
        ("Images per second (x, 2 cores", f"{full}; {own}."),
        ("Parameters", f"{full}; {own}."),
        ("GFLOPs", f"{own}."),
    ):
        choose(page, "cost-kind", kind)
        assert page.ask("document.querySelectorAll('#cost-chart .scatterlayer .trace').length") >= 3
        assert f"cheapest: {front}" in text(page, "cost-front"), kind
    assert "not recorded: 1 of 3" in text(page, "cost-front")


def test_self_and_weak_supervision_are_compared_board_by_board(page: Browser) -> None:
    lines = page.ask(
        "[...document.getElementById('contrast-table').tBodies[0].rows].map((row) => row.innerText)"
    )
    assert len(lines) == 2
    assert all("self-supervised better" in line for line in lines)


def test_training_curves_and_pictures_are_drawn(page: Browser) -> None:
    titles = page.ask(
        "[...document.querySelectorAll('#training-charts details[open] figure')]"
        ".filter((one) => one.querySelector('.scatterlayer .trace'))"
        ".map((one) => one.querySelector('figcaption').innerText)"
    )
    want = ["loss, all terms", "DINO loss", "teacher entropy (nats)", "KL of teacher and student (nats)"]
    assert titles == [*want, "effective rank of features", "top1@20"]
    assert page.ask("document.querySelectorAll('#training-charts .errorbar').length") == 2
    assert page.ask("document.querySelectorAll('#picture-grid img').length") == 1


@pytest.mark.parametrize("width", [320, 390, 768])
def test_it_fits_a_narrow_screen(page: Browser, path: Path, width: int) -> None:
    page.resize(width)
    page.open(path)
    assert page.ask("document.documentElement.scrollWidth") <= width
    page.ask("document.querySelector('#table tbody button').click()")
    assert page.ask("document.getElementById('details').scrollWidth <= window.innerWidth")


def test_it_prints_without_what_only_a_screen_needs(page: Browser) -> None:
    assert page.pdf().startswith(b"%PDF-")
    page.medium("print")
    left_out = "[...document.querySelectorAll('nav, .controls, .more')]"
    assert page.ask(f"{left_out}.filter((one) => one.checkVisibility()).length") == 0
    assert page.ask("document.querySelector('#table tbody').checkVisibility()")
