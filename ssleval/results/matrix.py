"""Models x boards as one compact table: Markdown, CSV, LaTeX and JSON. Imports no torch.

The best score of a board is bold, and scores that its samples do not separate from it are underlined. After
the sign stands half the width of the 95 % interval.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any, NamedTuple

from ssleval.core.escape import latex_cell, markdown_cell, markdown_table
from ssleval.core.text import some
from ssleval.results.cost import overall_costs
from ssleval.results.leaderboard import columns, csv_text
from ssleval.results.numbers import shown
from ssleval.results.overall import FEWEST_BOARDS, Overall, Place
from ssleval.results.ranking import Entry
from ssleval.results.remarks import mark


def markdown(found: Overall) -> str:
    """Return the matrix, the standings, costs, the groups and what is left out."""
    parts = [
        markdown_table(
            ["model", *map(markdown_cell, columns(found.boards))],
            [[markdown_cell(model), *cells] for model, cells in _cells(found, _markdown_score)],
        ),
        *_standings(found),
        *_costs(found),
        *_groups(found),
        *(
            f"Not ranked: {markdown_cell(name)} lacks {markdown_cell(some(missing))}."
            for name, missing in found.left_out.items()
        ),
    ]
    return "\n\n".join(parts) + "\n"


def latex(found: Overall) -> str:
    """Return the matrix as a LaTeX table; it needs the package booktabs."""
    heads = ["Model", *map(latex_cell, columns(found.boards))]
    lines = [
        f"{latex_cell(model)} & {' & '.join(cells)} \\\\" for model, cells in _cells(found, _latex_score)
    ]
    return "\n".join(
        [
            f"\\begin{{tabular}}{{l{'r' * len(found.boards)}}}",
            "\\toprule",
            f"{' & '.join(heads)} \\\\",
            "\\midrule",
            *lines,
            "\\bottomrule",
            "\\end{tabular}",
            "",
        ]
    )


def csv(found: Overall) -> str:
    """Return one row for each model: aggregates with their sets of ranks, and scores with their intervals."""
    return csv_text([_flat(row) for row in records(found)])


def records(found: Overall) -> list[dict[str, Any]]:
    """Return one row for each ranked model, best first, for JSON."""
    costs = overall_costs(found)
    return [
        {
            "model": model,
            "standings": {
                standing.family: {name: asdict(places[row]) for name, places in standing.places.items()}
                for standing in found.standings
            },
            "scores": {
                column: None if entry is None else _scored(entry)
                for column, entry in zip(columns(found.boards), _entries(found, model), strict=True)
            },
            "costs": {cost.name: {"value": cost.values[row], "front": row in cost.front} for cost in costs},
        }
        for row, model in enumerate(found.models)
    ]


def _scored(entry: Entry) -> dict[str, Any]:
    score = entry.result.leading
    return {
        "metric": entry.result.headline,
        "value": score.value,
        "ci95": list(score.ci95),
        "unit": score.unit,
        "rank": entry.rank,
        "tied": entry.tied,
    }


def _flat(row: dict[str, Any]) -> dict[str, object]:
    flat: dict[str, object] = {"model": row["model"]}
    for family, places in row["standings"].items():
        for name, place in places.items():
            flat |= {f"{family}/{name}": place["value"], f"{family}/{name}/rank": place["rank"]}
            for by in ("images", "boards"):
                low, high = place[by] or (None, None)
                flat |= {f"{family}/{name}/{by}_low": low, f"{family}/{name}/{by}_high": high}
    for column, score in row["scores"].items():
        low, high = score["ci95"] if score else (None, None)
        flat |= {column: score and score["value"], f"{column}/ci95_low": low, f"{column}/ci95_high": high}
    for name, cost in row["costs"].items():
        flat |= {name: cost["value"], f"{name}/front": cost["front"]}
    return flat


def _entries(found: Overall, model: str) -> list[Entry | None]:
    return [found.cells.get((model, place)) for place in range(len(found.boards))]


def _cells(found: Overall, write: Callable[[str, str, bool, bool], str]) -> Iterator[tuple[str, list[str]]]:
    """Yield every model with its cells; ``write`` takes score, half width, whether best, whether tied."""
    best = [board.entries[0] for board in found.boards]
    for model in found.models:
        cells: list[str] = []
        for first, entry in zip(best, _entries(found, model), strict=True):
            if entry is None:
                cells.append("")
                continue
            cells.append(write(*cell(entry, first)))
        yield model, cells


class Cell(NamedTuple):
    """One score of the matrix, for people."""

    value: str
    half: str
    """Half the width of the interval."""
    best: bool
    tied: bool
    """Whether the samples do not separate it from the best."""


def cell(entry: Entry, first: Entry) -> Cell:
    """Return the cell of an entry of the board that ``first`` leads."""
    score, best = entry.result.leading, entry is first
    half = shown((score.ci95[1] - score.ci95[0]) / 2, score.unit)
    return Cell(shown(score.value, score.unit) + mark(entry.result), half, best, entry.rank == 1 and not best)


def _markdown_score(value: str, half: str, best: bool, tied: bool) -> str:
    marked = f"**{value}**" if best else f"<u>{value}</u>" if tied else value
    return f"{marked} ±{half}"


def _latex_score(value: str, half: str, best: bool, tied: bool) -> str:
    marked = f"\\textbf{{{value}}}" if best else f"\\underline{{{value}}}" if tied else value
    return f"{marked}$_{{\\pm {half}}}$"


def _standings(found: Overall) -> Iterator[str]:
    first = found.standings[0]
    heads = ["model", "mean rank", "Borda", "Bradley-Terry", "rank: images", "rank: boards"]
    rows: list[list[str]] = []
    for row, model in enumerate(found.models):
        ranks, count, strength = (first.places[name][row] for name in ("mean_rank", "borda", "bradley_terry"))
        values = [f"{ranks.value:.2f}", f"{count.value:g}", f"{strength.value:+.2f}"]
        rows.append([markdown_cell(model), *values, span(ranks.images), span(ranks.boards)])
    yield markdown_table(heads, rows)
    if len(found.standings) > 1:
        yield markdown_table(
            ["mean rank, set for other images", *(f"{one.family} ({one.boards})" for one in found.standings)],
            [
                [markdown_cell(model), *(_placed(one.places["mean_rank"][row]) for one in found.standings)]
                for row, model in enumerate(found.models)
            ],
        )
    if first.boards < FEWEST_BOARDS:
        yield f"Ranks on other boards need at least {FEWEST_BOARDS} boards, not {first.boards}."


def _placed(place: Place) -> str:
    return f"{place.value:.2f} ({span(place.images)})" if place.images else f"{place.value:.2f}"


def span(ranks: tuple[int, int] | None) -> str:
    """Return a set of ranks as ``2`` or ``2 to 4``; '' for None."""
    if ranks is None:
        return ""
    return str(ranks[0]) if ranks[0] == ranks[1] else f"{ranks[0]} to {ranks[1]}"


def _costs(found: Overall) -> Iterator[str]:
    costs = overall_costs(found)
    if not costs:
        return
    ranks = found.standings[0].places["mean_rank"]
    rows: list[list[str]] = []
    for row, model in enumerate(found.models):
        cells = [_spent(cost.values[row], marked=row in cost.front) for cost in costs]
        rows.append([markdown_cell(model), f"{ranks[row].value:.2f}", *cells])
    yield markdown_table(["model", "mean rank", *(markdown_cell(cost.name) for cost in costs)], rows)
    yield "Bold: no other model has both a better mean rank and a lower cost."


def _spent(value: float | None, *, marked: bool) -> str:
    shown_value = "" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"
    return f"**{shown_value}**" if marked else shown_value


def _groups(found: Overall) -> Iterator[str]:
    if len(found.groups) < 2:
        return
    yield markdown_table(
        ["supervision", "models", "mean rank"],
        [[markdown_cell(one.supervision), str(one.models), f"{one.mean_rank:.2f}"] for one in found.groups],
    )
    if found.group_pvalue is not None:
        yield f"If the groups did not differ: p = {found.group_pvalue:.3f}, by permutation of models."
