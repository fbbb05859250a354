import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ssleval.core.escape import visible
from ssleval.display.report.content import write_report
from ssleval.display.report.page import embedded_json, render
from tests.results.test_leaderboard import right, store

HOSTILE = "</script><script>alert(1)</script><!--<img src=x onerror=alert(2)>\u2028 & 'q' \"d\""


class Page(HTMLParser):
    """What a browser would find: elements with their attributes, and the text of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            self.scripts[-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    folder = tmp_path_factory.mktemp("report")
    store(folder / "results", HOSTILE, right(0.8))
    store(folder / "results", "plain", right(0.5, seed=1))
    write_report(folder / "results", folder / "report.html")
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def test_names_never_become_markup(page: Page) -> None:
    assert [attributes.get("type") for attributes in page.all("script")] == [
        "application/json",
        None,
        "module",
    ]
    assert not page.all("img")
    data = json.loads(page.scripts[0])
    assert data["rows"][0]["label"] == visible(HOSTILE)
    title = Page(render(HOSTILE, "{}"))
    assert len(title.all("script")) == 3
    assert not title.all("img")


@pytest.mark.parametrize("text", [HOSTILE, "\u2029", "<!--", "]]>", "é漢"])
def test_embedded_json_keeps_its_meaning_without_a_single_bracket(text: str) -> None:
    embedded = embedded_json(json.dumps({"name": text}, ensure_ascii=False))
    assert json.loads(embedded) == {"name": text}
    assert not set(embedded) & set("<>&\u2028\u2029")


def test_nothing_is_fetched_and_only_the_scripts_of_the_page_may_run(page: Page) -> None:
    for tag, attributes in page.found:
        for name in ("src", "href", "srcset", "action", "data"):
            address = attributes.get(name) or ""
            assert not address or address.startswith(("#", "data:")), (tag, address)
    policy = next(
        one["content"] or "" for one in page.all("meta") if one.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'; ")
    (allowed,) = re.findall(r"script-src ([^;]*);", policy)
    digests = [hashlib.sha256(one.encode()).digest() for one in page.scripts[1:]]
    assert allowed.split() == [f"'sha256-{base64.b64encode(one).decode()}'" for one in digests]
    assert "unsafe-eval" not in policy


def test_everything_has_a_name_for_those_who_cannot_see_it(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.found if attributes.get("id")]
    assert len(ids) == len(set(ids))
    assert page.all("html")[0]["lang"] == "en"
    for tag, attributes in page.found:
        for name in ("aria-labelledby", "aria-describedby"):
            assert attributes.get(name) is None or attributes[name] in ids, (tag, attributes)
        if attributes.get("role") == "region":
            assert attributes.get("tabindex") == "0", "what scrolls is reached by keyboard"
    links = [one["href"] or "" for one in page.all("a")]
    assert all(link.removeprefix("#") in ids for link in links)


def test_scripts_set_texts_and_never_markup() -> None:
    folder = Path(__file__).parents[3] / "ssleval" / "display" / "report" / "page"
    scripts = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.js"))
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", scripts
    )
    for name in re.findall(r'byId\("([^"]+)"\)', scripts):
        assert f'id="{name}"' in (folder / "page.html.jinja").read_text(encoding="utf-8"), name
