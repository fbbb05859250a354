"""A static leaderboard: the matrix of models and boards, a page for each model and each board.

Plain HTML and one style sheet, no script, relative links: any server of files shows it, and so does a disk.
Names in results are untrusted; the templates escape them.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ssleval import __version__
from ssleval.core.escape import shortened, visible
from ssleval.core.text import without_folders
from ssleval.display.publishing.public import file_names, tables, write_files
from ssleval.errors import DataError
from ssleval.results.leaderboard import columns, marked_score, titles
from ssleval.results.matrix import Cell, cell, span
from ssleval.results.overall import Overall, cells_of, family_of, family_order, overall
from ssleval.results.ranking import Board, Entry
from ssleval.results.remarks import remarks

FOLDER = Path(__file__).parent / "pages"
_MARK = '<meta name="generator" content="ssleval">'
_FACTS = {
    "supervision": "supervision", "family": "family", "arch": "architecture", "parameters": "parameters (M)",
    "image_size": "image size", "patch_size": "patch size", "pretraining_data": "pretraining data",
    "license": "licence", "source": "source",
}  # fmt: skip
"""Fields of a model's card, with what they are called."""


def write_site(ranked: Sequence[Board], folder: Path, title: str, *, incomplete: bool = False) -> int:
    """Write the site into ``folder``; return the number of pages.

    Pages of an earlier export whose model or board is gone are removed; no other file is.
    """
    site = _Site(ranked, title, incomplete=incomplete)
    files = site.pages()
    write_files(folder, {**files, **site.tables, "style.css": _text("style.css"), ".nojekyll": ""})
    for place in ("models", "boards"):
        for page in (folder / place).glob("*.html"):
            if f"{place}/{page.name}" not in files and _MARK in page.read_text("utf-8", "replace")[:1000]:
                page.unlink()
    return len(files)


def _text(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


class _Site:
    def __init__(self, ranked: Sequence[Board], title: str, *, incomplete: bool) -> None:
        self.ranked, self.title = ranked, visible(title)
        self.cells, self.title_of = cells_of(ranked), titles(ranked)
        self.found: Overall | None = None
        self.unranked = ""
        try:
            self.found = overall(ranked, incomplete=incomplete)
        except DataError as error:
            self.unranked = str(error).partition("; ")[0]
        self.tables = tables(ranked, self.found)
        self.names = columns(ranked)
        every = dict.fromkeys(title for title, _ in self.cells)
        first = self.found.models if self.found else ()
        self.models = [*first, *sorted(name for name in every if name not in first)]
        self.model_files, self.board_files = file_names(self.models), file_names(self.names)
        self.environment = Environment(
            loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined,
            trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        self.environment.filters |= {"name": _name, "wrapped": _wrapped, "span": span}
        self.environment.filters["page"] = self._model_page

    def pages(self) -> dict[str, str]:
        """Return every page by its path."""
        pages = {"index.html": self._page("index", "", **self._index())}
        for model in self.models:
            pages[self._model_page(model)] = self._page("model", "../", **self._model(model))
        for place, name in enumerate(self.names):
            pages[f"boards/{self.board_files[name]}.html"] = self._page("board", "../", **self._board(place))
        return pages

    def _page(self, template: str, root: str, **content: Any) -> str:
        latest = max(entry.result.created for board in self.ranked for entry in board.entries)[:10]
        return self.environment.get_template(f"{template}.html.jinja").render(
            root=root, site=self.title, found=self.found, latest=latest, version=__version__, **content
        )

    def _index(self) -> dict[str, Any]:
        order = sorted(
            range(len(self.ranked)), key=lambda place: family_order(family_of(self.ranked[place].task))
        )
        standings = (
            sorted(self.found.standings, key=lambda one: family_order(one.family)) if self.found else ()
        )
        return {
            "boards": [self._of_board(place) for place in order],
            "cells": {model: [self._cell(model, place) for place in order] for model in self.models},
            "standings": standings,
            "unranked": self.unranked,
            "files": list(self.tables),
        }

    def _of_board(self, place: int) -> dict[str, Any]:
        board, name = self.ranked[place], self.names[place]
        family, page = family_of(board.task), f"boards/{self.board_files[name]}.html"
        first = board.entries[0].result.leading
        fields = {"board": board, "name": name, "page": page, "family": family, "first": first}
        return {**fields, "order": family_order(family)}

    def _model_page(self, model: str) -> str:
        return f"models/{self.model_files[model]}.html"

    def _cell(self, model: str, place: int) -> Cell | None:
        entry = self.cells.get((model, place))
        return None if entry is None else cell(entry, self.ranked[place].entries[0])

    def _model(self, model: str) -> dict[str, Any]:
        own = {place: entry for (name, place), entry in self.cells.items() if name == model}
        result, ranked = next(iter(own.values())).result, self.found.models if self.found else ()
        places = self.found.standings[0].places["mean_rank"] if self.found else ()
        return {
            "model": model,
            "place": places[ranked.index(model)] if model in ranked else None,
            "stated": {**_told(result.backbone, _FACTS), "weights (sha256)": result.weights_sha256},
            "rows": [
                {**self._of_board(place), **self._line(self.ranked[place], entry)}
                for place, entry in own.items()
            ],
        }

    def _line(self, board: Board, entry: Entry) -> dict[str, Any]:
        settings = {name: entry.result.settings.get(name) for name in ("precision", "seed", "limit")}
        return {
            "rank": f"{'=' if entry.tied else ''}{entry.rank}",
            "score": entry.result.leading.shown,
            "bar": _bar(board, entry),
            "settings": {name: value for name, value in settings.items() if value is not None},
            "created": entry.result.created[:10],
        }

    def _board(self, place: int) -> dict[str, Any]:
        board = self.ranked[place]
        result, metrics = board.entries[0].result, board.entries[0].result.metrics
        return {
            **self._of_board(place),
            "rows": [
                {
                    "model": self.title_of[entry.label, entry.result.weights_sha256],
                    **self._line(board, entry),
                    "others": [marked_score(entry.result, name) for name in list(metrics)[1:]],
                }
                for entry in board.entries
            ],
            "others": list(metrics)[1:],
            "stated": {
                **{name: getattr(board, name) for name in ("task", "dataset", "split", "protocol")},
                **_told(result.data, _OF_DATA),
            },
            "settings": {name: without_folders(str(value)) for name, value in result.protocol.items()},
            "notes": list(dict.fromkeys(filter(None, _remarks(board)))),
        }


_OF_DATA = {"license": "licence of the data", "source": "source of the data"}


def _told(card: Mapping[str, Any], fields: Mapping[str, str]) -> dict[str, str]:
    return {told: without_folders(str(card[name])) for name, told in fields.items() if card.get(name)}


def _remarks(board: Board) -> Iterator[str]:
    for entry in board.entries:
        yield from (remarks(entry.result, name) for name in entry.result.metrics)


def _name(text: object) -> str:
    return shortened(visible(str(text)))


def _wrapped(text: object) -> Markup:
    """Return a name as markup that may be broken after its separators."""
    return Markup("<wbr>").join(re.split(r"(?<=[/_:])(?=\w)", _name(text)))


def _bar(board: Board, entry: Entry) -> Mapping[str, str]:
    """Return where score and interval stand between the outermost ends of the board, in percent."""
    every = [one.result.metrics[board.headline].ci95 for one in board.entries]
    low, high = min(ends[0] for ends in every), max(ends[1] for ends in every)
    score = entry.result.metrics[board.headline]

    def share(value: float) -> str:
        return f"{100 * (value - low) / (high - low or 1):.1f}"

    return {"low": share(score.ci95[0]), "high": share(score.ci95[1]), "value": share(score.value)}
