"""`ssleval verify`: are these the numbers of the papers?"""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssleval.cli.options import Json
from ssleval.core.registry import suggestion, summaries
from ssleval.errors import UnknownNameError

if TYPE_CHECKING:
    from ssleval.results import Result
    from ssleval.results.papers import Figures, Row
    from ssleval.results.verify import Line


def verify_(
    model: Annotated[
        str, typer.Argument(help="A model of the zoo; none: every model of the results folder.")
    ] = "",
    results: Annotated[Path, typer.Option(help="Folder of result files.")] = Path("results"),
    task: Annotated[str, typer.Option(help="Only this task.")] = "",
    dataset: Annotated[str, typer.Option(help="Only this dataset.")] = "",
    every: Annotated[
        bool, typer.Option("--all", help="List published figures that have no mapping, too.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Hold results to published figures: exit with 0 where all match, 1 a drift, 3 nothing comparable."""
    from ssleval.backbones.zoo import read_zoo
    from ssleval.results import read_all
    from ssleval.results.papers import read_figures
    from ssleval.results.verify import Line, verify

    figures, found = read_figures(), read_all(results)
    wanted = _wanted(model, found, figures)
    _refuse("task", task, {*summaries("ssleval.tasks")})
    _refuse(
        "dataset",
        dataset,
        {one.measured.test.name for one in figures.mapped} | {one.dataset for one in found},
    )
    lines = [
        line
        for line in verify(found, figures, read_zoo(), wanted)
        if line.figure
        and task in {"", line.figure.measured.protocol.task}
        and (not dataset or line.figure.measured.test.is_of(dataset))
    ]
    if every:
        lines += [Line("not mapped", row, name, differs=(why,)) for row, name, why in _others(figures, model)]
    for line in lines:
        typer.echo(json.dumps(line.to_dict()) if as_json else _shown(line))
    counts = Counter(line.status for line in lines)
    if not as_json:
        unknown = sorted(
            name
            for name in ({model} if model else {one.model for one in found})
            if not figures.model_called(name)
        )
        unmapped = 0 if every else sum(1 for _ in _others(figures, model))
        typer.echo(_summary(model or str(results), counts, unmapped, unknown))
    raise SystemExit(1 if counts["drift"] else 0 if counts["match"] else 3)


def _wanted(model: str, found: "list[Result]", figures: "Figures") -> list[str]:
    """Return the names in the zoo of the models asked for.

    Raises:
        UnknownNameError: neither published nor measured under this name.
    """
    measured = {one.model for one in found}
    if not model:
        return [name for one in sorted(measured) if (name := figures.model_called(one))]
    name = figures.model_called(model)
    if not name and model not in measured:
        hint = suggestion(model, {*figures.models, *measured})
        raise UnknownNameError(f"no published figure and no result is of a model {model!r}; {hint}")
    return [name] if name else []


def _others(figures: "Figures", model: str) -> "Iterator[tuple[Row, str, str]]":
    """Yield figures without a mapping: of the model asked for, or all."""
    name = figures.model_called(model)
    return (one for one in figures.unmapped if not model or (name and one[1] == name))


def _shown(line: "Line") -> str:
    from ssleval.results.numbers import with_interval

    row, figure = line.row, line.figure
    source = f"{row.source}{f' ({row.note})' if row.note else ''}"
    if figure is None:
        what = f"{row.model} {row.arch}, {row.pretrain_data}  {row.task}/{row.dataset}  {row.metric}"
        return f"{line.status.upper():<15} {what}: published {row.value}, {source}\n  {line.differs[0]}"
    measured, result = figure.measured, line.result
    name, data = (result.model, result.dataset) if result else (measured.model, measured.test.name)
    head = f"{line.status.upper():<15} {name}  {measured.protocol.task}/{data}  {measured.metric}: "
    if line.score is not None and line.gap is not None:
        score, places = line.score, figure.decimals + 1
        head += f"{with_interval(score.value, score.ci95, score.unit, places)}, "
        source += f"; {'+' if line.gap > 0 else ''}{line.gap:.{places}f}"
    told = [f"published {row.value}, {source}"]
    if line.status in {"match", "drift"}:
        told += [
            f"tolerance {figure.tolerance:.4g}: {figure.rounding:g} for rounding + "
            f"{measured.protocol.tolerance:g} ({measured.protocol.because})"
        ]
    told += [f"check {one}" for one in line.checks]
    return head + "\n  ".join([*told, *line.differs])


def _refuse(kind: str, name: str, known: set[str]) -> None:
    if name and name not in known:
        raise UnknownNameError(f"no {kind} {name!r}; {suggestion(name, known)}")


def _summary(what: str, counts: Counter[str], unmapped: int, unknown: list[str]) -> str:
    text = ", ".join(f"{counts[one]} {one}" for one in ("match", "drift", "not comparable"))
    if unmapped:
        text += f"; {unmapped} published figures have no mapping, --all lists them"
    if unknown:
        text += f"; no published figure is known to be of {', '.join(unknown)}"
    return f"{what}: {text}"
