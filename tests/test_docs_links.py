"""Every relative link, anchor and picture of the pages leads somewhere, and the site shows every page.

Neither mkdocs nor a network is needed. Addresses of other sites are not followed.
"""

import re
import runpy
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")),
    *sorted(DOCS.rglob("*.md")),
]


def prose(text: str) -> str:
    """Return a page without its code, whose brackets are no links."""
    return re.sub(r"^ *```.*?^ *```|``.*?``|`[^`\n]*`", "`code`", text, flags=re.M | re.S)


def targets(text: str) -> list[str]:
    """Return what a page links to or shows, other sites left out."""
    linked = re.findall(r"\]\(\s*<?([^)\s>]*)", prose(text)) + re.findall(
        r"^ *\[[^\]]+\]: *(\S+)", prose(text), re.M
    )
    linked += re.findall(r"""<(?:a|img|source)\b[^>]*?(?:href|src|srcset)=["']([^"']*)""", prose(text))
    return [target for target in linked if not re.match(r"[a-z]+:", target)]


def slugs(text: str) -> Iterator[str]:
    """Yield the anchors that GitHub gives the headings of a page."""
    given: dict[str, int] = {}
    for heading in re.findall(
        r"^#{1,6} +(.+?) *#*$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M
    ):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        number = given.get(slug, 0)
        given[slug] = number + 1
        yield f"{slug}-{number}" if number else slug


@cache
def anchors(page: Path) -> frozenset[str]:
    text = page.read_text(encoding="utf-8")
    return frozenset([*slugs(text), *re.findall(r"""\b(?:id|name)=["']([^"']+)""", text)])


def fault(page: Path, target: str) -> str:
    """Return what is wrong with a link of a page; '' if nothing is."""
    path, _, anchor = target.partition("#")
    place = (page.parent / path).resolve() if path else page
    if not target or not place.is_relative_to(ROOT):
        return f"{target!r} leads out of the repository"
    if not place.exists() or place.name not in {entry.name for entry in place.parent.iterdir()}:
        return f"{target!r}: no such file"
    if anchor and (place.suffix != ".md" or anchor not in anchors(place)):
        return f"{target!r}: no such heading"
    return ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    faults = [fault(page, target) for target in targets(page.read_text(encoding="utf-8"))]
    assert not list(filter(None, faults))


@pytest.mark.parametrize(
    ("text", "faulty"),
    [
        ("[a](b.md) [a](b.md#two-words) [a](#here) ![p](p.png)\n# Here", 0),
        ("[a](c.md)", 1),
        ("[a](B.md)", 1),
        ("[a](b.md#three-words)", 1),
        ("[a](#there)\n# Here", 1),
        ("[a](p.png#here)", 1),
        ("![p](q.png) <img src='q.png'>", 2),
        ("[a](../../out.md)", 1),
        ("[a][b]\n\n[b]: c.md", 1),
        ("`[a](c.md)`\n```\n[a](c.md)\n```\n[a](https://example.org/c.md)", 0),
    ],
)
def test_a_link_into_the_void_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, faulty: int
) -> None:
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    (tmp_path / "p.png").touch()
    (tmp_path / "b.md").write_text("# Two `words`\n", encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    assert len(list(filter(None, (fault(page, target) for target in targets(text))))) == faulty


def test_anchors_are_those_of_github() -> None:
    headings = ("# A & b", "## `protocol=fast`, the default", "## top_1", "## [Met](met.md)", "## Met")
    text = "\n".join((*headings, "```", "# no heading", "```"))
    assert list(slugs(text)) == ["a--b", "protocolfast-the-default", "top_1", "met", "met-1"]


def leaves(entry: Any) -> Iterator[str]:
    """Yield the pages of a part of the navigation, in order."""
    if isinstance(entry, str):
        yield entry
    for below in entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ():
        yield from leaves(below)


SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def test_the_navigation_has_every_page_once() -> None:
    shown = list(leaves(SITE["nav"]))
    assert sorted(shown) == sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))


def test_a_warning_ends_the_build_of_the_site() -> None:
    assert SITE["strict"] is True
    assert set(SITE["validation"].values()) == {"warn"}


def test_links_to_files_of_the_repository_lead_on_from_the_site() -> None:
    hook = runpy.run_path(str(ROOT / ".ci" / "site.py"))["on_page_markdown"]
    page = SimpleNamespace(file=SimpleNamespace(src_uri="tasks/knn.md"))
    text = "[`knn.py`](../../ssleval/tasks/knn.py) [action](../../action.yml) [zoo](../models.md) ![p](p.png)"
    there = "https://example.org"
    for address, action in (("", "action"), (there, f"[action]({there}/blob/HEAD/action.yml)")):
        shown = hook(text, page, SimpleNamespace(repo_url=address), None)
        python = "[`knn.py`](../api-tasks.md#ssleval.tasks.knn)"
        assert shown == f"{python} {action} [zoo](../models.md) ![p](p.png)"
