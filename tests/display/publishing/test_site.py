"""The static site: every page by what a reader sees of it, every link, and names that are hostile."""

import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from ssleval.core import Samples
from ssleval.display.publishing.public import file_names, public_boards
from ssleval.display.publishing.site import write_site
from ssleval.errors import DataError
from ssleval.results import Result, record
from tests.display.report.browser import Browser, installed
from tests.results.test_overall import measured, suite

PLACES = [("knn", "a"), ("linear", "a"), ("retrieval", "b")]
HOSTILE = "<script>alert(1)</script>&\"'{{ 7 * 7 }}\x1b\u202e"
VOID = {"meta", "link", "br", "wbr", "line"}


class Page(HTMLParser):
    """Its links, tags and rows of tables; tags that are not closed are an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.tags.append(tag)
        self.links += [str(named["href"])] if "href" in named else []
        assert not any(name.startswith("on") or name == "style" for name in named)
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in {"th", "td"}:
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if {"th", "td"} & set(self._open):
            self.rows[-1][-1] += data


def site(folder: Path, made: Sequence[tuple[Result, Samples]], **settings: bool) -> dict[str, Page]:
    """Write results and the site of them; return its pages by path."""
    stored = [record.write(folder / "results", result, samples) for result, samples in made]
    count = write_site(public_boards(stored), folder / "site", "Ours", **settings)
    paths = sorted((folder / "site").rglob("*.html"))
    assert len(paths) == count
    return {str(path.relative_to(folder / "site")): Page(path.read_text(encoding="utf-8")) for path in paths}


def check_links(folder: Path, pages: dict[str, Page]) -> None:
    for name, page in pages.items():
        assert page.links
        for link in page.links:
            path, _, fragment = link.partition("#")
            assert not re.match(r"\w+:|/", link), f"{link} is not relative"
            target = (folder / "site" / name).parent / unquote(path) if path else folder / "site" / name
            assert target.is_file(), f"{name}: {link}"
            assert not fragment or f'id="{fragment}"' in target.read_text(encoding="utf-8")


def test_every_model_and_board_has_a_page_and_links_lead_somewhere(tmp_path: Path) -> None:
    pages = site(tmp_path, suite({"weak": 0.3, "strong": 0.9, "org/middle": 0.6}, PLACES))
    assert set(pages) == {
        "index.html",
        *(f"models/{name}.html" for name in ("weak", "strong", "org_middle")),
        *(f"boards/{name}.html" for name in ("knn_a", "linear_a", "retrieval_b")),
    }
    check_links(tmp_path, pages)
    index = pages["index.html"]
    assert {link for link in index.links if ".html" in link} == set(pages) - {"index.html"}
    assert ["1", "strong", "1.00", "1"] in index.rows
    assert ["3", "weak", "3.00", "3"] in index.rows
    # The matrix: scores as the samples give them, in percent.
    assert index.text.index("strong") < index.text.index("org/middle") < index.text.index("weak")
    for number, model in (("1", "strong"), ("2", "org/middle"), ("3", "weak")):
        board = next(row for row in pages["boards/knn_a.html"].rows if row[1:2] == [model])
        assert board[0] == number
        value = board[2].split(" ")[0]
        assert any(row[0] == model and row[1].startswith(f"{value} ±") for row in index.rows)
        mine = next(row for row in pages[f"models/{model.replace('/', '_')}.html"].rows if row[0] == "knn/a")
        assert mine[1:3] == [f"{number} of 3", board[2]]


def test_the_best_is_bold_and_what_is_tied_with_it_underlined(tmp_path: Path) -> None:
    made = suite({"strong": 0.9, "weak": 0.3}, PLACES[:1])
    made.append(measured("near", "knn", 0.897, "a"))
    site(tmp_path, made)
    text = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    matrix = text[text.index('id="scores"') :]
    assert len(re.findall("<b>", matrix)) == 1
    assert len(re.findall("<u>", matrix)) == 1


def test_models_without_all_boards_stand_below_and_are_not_ranked_unless_asked(tmp_path: Path) -> None:
    made = [*suite({"x": 0.9, "y": 0.3}, PLACES), measured("partial", "knn", 0.99, "a")]
    index = site(tmp_path / "one", made)["index.html"]
    assert "Not ranked: partial lacks linear/a, retrieval/b." in index.text
    ranked = [row[1] for row in index.rows if re.fullmatch(r"\d", row[0])]
    assert ranked == ["x", "y"]
    asked = site(tmp_path / "two", made, incomplete=True)["index.html"]
    assert {row[1] for row in asked.rows if re.fullmatch(r"[\d.]+", row[0])} == {"x", "y", "partial"}


def test_one_model_has_a_site_without_a_ranking(tmp_path: Path) -> None:
    pages = site(tmp_path, suite({"only": 0.7}, PLACES))
    check_links(tmp_path, pages)
    assert "No overall ranking: " in pages["index.html"].text
    assert "--" not in pages["index.html"].text


def test_hostile_names_are_text_and_never_leave_the_folder(tmp_path: Path) -> None:
    made = [
        measured(model, "knn", accuracy, HOSTILE, supervision=HOSTILE)
        for model, accuracy in ((HOSTILE, 0.9), ("../../../escape", 0.3), ("a/b", 0.4), ("A_b", 0.5))
    ]
    made = [
        (replace(result, data={**result.data, "source": HOSTILE}, protocol={HOSTILE: HOSTILE}), samples)
        for result, samples in made
    ]
    pages = site(tmp_path, made)
    check_links(tmp_path, pages)
    for page in pages.values():
        assert "script" not in page.tags
        assert not re.search("[\x1b\u202e]", page.text)
    assert "<script>alert(1)</script>&\"'{{ 7 * 7 }}\\x1b\\u202e" in pages["index.html"].text
    outside = {path.name for path in tmp_path.iterdir()}
    assert outside == {"results", "site"}


def test_no_folder_of_this_machine_is_published(tmp_path: Path) -> None:
    made = [
        measured("/srv/me/net.py:build", "knn", 0.9, "folder:/srv/me/cats"),
        measured("/srv/other/net.py:build", "knn", 0.3, "folder:/srv/me/cats"),
        measured("/srv/me/net.py:build", "knn", 0.9, "folder:/srv/cats"),
    ]
    made = [
        (
            replace(
                result,
                backbone={**result.backbone, "source": "trained in /srv/me/run/7"},
                data={**result.data, "source": "/srv/me/cats"},
                protocol={"prompts": "/srv/me/prompts.txt", "version": 1},
            ),
            samples,
        )
        for result, samples in made
    ]
    pages = site(tmp_path, made)
    check_links(tmp_path, pages)
    for path in (tmp_path / "site").rglob("*.*"):
        assert not re.search("/home|/srv", path.read_text(encoding="utf-8")), path
    names = {row[0] for row in pages["index.html"].rows}
    # What is left of two names is alike, so that digits tell them apart.
    assert len([name for name in names if re.fullmatch(r"net\.py:build#[0-9a-f]{4}", name)]) == 2
    assert len([name for name in names if re.fullmatch(r"knn/folder:cats#[0-9a-f]{4}", name)]) == 2


def test_pages_of_models_that_are_gone_are_removed_and_nothing_else(tmp_path: Path) -> None:
    site(tmp_path, suite({"x": 0.9, "y": 0.3, "gone": 0.5}, PLACES))
    folder = tmp_path / "site"
    (folder / "models" / "mine.html").write_text("<p>mine</p>")
    (folder / "CNAME").write_text("board.example")
    for path in (tmp_path / "results" / "gone").iterdir():
        path.unlink()
    write_site(public_boards(record.read_all(tmp_path / "results")), folder, "Ours")
    assert {path.name for path in (folder / "models").iterdir()} == {"x.html", "y.html", "mine.html"}
    assert (folder / "CNAME").exists()
    with pytest.raises(DataError, match="no results"):
        public_boards([])


def test_two_exports_are_equal_byte_by_byte(tmp_path: Path) -> None:
    made = suite({"x": 0.9, "y": 0.3}, PLACES)
    texts = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        site(folder, made)
        texts.append({path.name: path.read_bytes() for path in (folder / "site").rglob("*.*")})
    assert texts[0] == texts[1]


def test_file_names_differ_where_case_does_not_count() -> None:
    names = file_names(["a/b", "A_b", "plain", "..", "x" * 300])
    assert names["plain"] == "plain"
    assert len({name.lower() for name in names.values()}) == 5
    assert all(re.fullmatch(r"[\w.-]{1,100}", name) and set(name) != {"."} for name in names.values())


@pytest.mark.skipif(installed() is None, reason="no Chromium is installed")
def test_pages_fit_a_phone_follow_the_system_and_ask_for_nothing_else(tmp_path: Path) -> None:
    long = "hf-hub:some-organisation/vit_giant_patch14_reg4_dinov2.lvd142m-augmented"
    tasks = ("knn", "linear", "segmentation", "correspondence", "video_segmentation", "caption_retrieval")
    places = [(task, f"folder:a_name_{task}_of_data") for task in tasks]
    pages = site(tmp_path, suite({"x": 0.9, long: 0.6, "y": 0.3}, places))
    program = installed()
    assert program is not None
    browser = Browser(program, tmp_path / "profile")
    try:
        for name in pages:
            address = tmp_path / "site" / name
            browser.open(address)
            colours = set()
            for scheme in ("light", "dark"):
                features = [{"name": "prefers-color-scheme", "value": scheme}]
                browser.call("Emulation.setEmulatedMedia", features=features)
                colours.add(browser.ask("getComputedStyle(document.body).backgroundColor"))
            assert len(colours) == 2
            for width in (1280, 390):
                browser.resize(width)
                assert browser.ask("document.documentElement.scrollWidth") <= width, (name, width)
            asked = {url for url in browser.requests() if not url.endswith("favicon.ico")}
            assert asked == {address.as_uri(), (tmp_path / "site" / "style.css").as_uri()}
            assert browser.complaints() == []
    finally:
        browser.close()
