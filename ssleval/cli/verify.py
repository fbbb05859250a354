"""`ssleval verify`: are these the numbers of the papers?"""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from ssleval.cli.options import Json, Results, print_rows, tell
from ssleval.core.registry import spelt_as_path, suggestion, summaries, unknown
from ssleval.core.text import counted
from ssleval.errors import UnknownNameError

if TYPE_CHECKING:
    from ssleval.results import Result
    from ssleval.results.papers import Figures
    from ssleval.results.verify import Line


def verify_(
    model: Annotated[str, Argument(help="A model of the zoo; none: every model of the results folder.")] = "",
    results: Results = Path("results"),
    task: Annotated[str, Option(help="Only this task.")] = "",
    dataset: Annotated[str, Option(help="Only this dataset.")] = "",
    every: Annotated[bool, Option("--all", help="List published figures that have no mapping, too.")] = False,
    as_json: Json = False,
) -> None:
    """Compare results with published figures: exit with 0 if all match, 1 on a drift, 3 if none compares.

    Examples:
      ssleval verify
      ssleval verify dino_vits16 --task knn --all
    """
    from ssleval.backbones.zoo import read_zoo
    from ssleval.results import read_all
    from ssleval.results.papers import read_figures
    from ssleval.results.verify import Line, verify

    figures = read_figures()
    measured = [] if spelt_as_path(model) and not results.exists() else read_all(results)
    names = _published_names(model, measured, figures)
    tasks = {*summaries("ssleval.tasks")}
    datasets = {row.measured.test.name for row in figures.mapped} | {row.dataset for row in measured}
    for kind, name, known in (("task", task, tasks), ("dataset", dataset, datasets)):
        if name and name not in known:
            raise UnknownNameError(f"no {kind} {name!r}; {suggestion(name, known)}")
    lines = [
        line
        for line in verify(measured, figures, read_zoo(), names)
        if line.figure
        and task in {"", line.figure.measured.protocol.task}
        and (not dataset or line.figure.measured.test.is_of(dataset))
    ]
    published = figures.model_called(model)
    unmapped = [figure for figure in figures.unmapped if not model or (published and figure[1] == published)]
    if every:
        lines += [Line("not mapped", row, name, differs=(why,)) for row, name, why in unmapped]
    for line in lines:
        print_rows([line.to_dict()]) if as_json else _tell(line)
    counts = Counter(line.status for line in lines)
    if not as_json:
        models = {model} if model else {result.model for result in measured}
        unknown = sorted(name for name in models if not figures.model_called(name))
        tell(_summary(model or str(results), counts, 0 if every else len(unmapped), unknown))
    raise SystemExit(1 if counts["drift"] else 0 if counts["match"] else 3)


def _published_names(model: str, measured: "list[Result]", figures: "Figures") -> list[str]:
    """Return the names in the zoo of ``model``, or of all models that were measured."""
    known = {result.model for result in measured}
    names = [name for each in ([model] if model else sorted(known)) if (name := figures.model_called(each))]
    if model and not names and model not in known:
        error = unknown("model", model, {*figures.models, *known})
        raise UnknownNameError(f"no published figure and no result: {error}")
    return names


def _tell(line: "Line") -> None:
    head, *told = _shown(line)
    tell(head)
    for part in told:
        tell(f"  {part}")


def _shown(line: "Line") -> list[str]:
    from ssleval.results.numbers import with_interval

    row, figure = line.row, line.figure
    source = f"{row.source}{f' ({row.note})' if row.note else ''}"
    if figure is None:
        what = f"{row.model} {row.arch}, {row.pretrain_data}  {row.task}/{row.dataset}  {row.metric}"
        return [f"{line.status.upper():<15} {what}: published {row.value}, {source}", line.differs[0]]
    measured, result = figure.measured, line.result
    name, data = (result.model, result.dataset) if result else (measured.model, measured.test.name)
    head = f"{line.status.upper():<15} {name}  {measured.protocol.task}/{data}  {measured.metric}: "
    if line.score is not None and line.gap is not None:
        score, places = line.score, figure.decimals + 1
        head += f"{with_interval(score.value, score.ci95, score.unit, places)}, "
        source += f"; {'+' if line.gap > 0 else ''}{line.gap:.{places}f}"
    told: list[str] = []
    if line.status in {"match", "drift"}:
        allowed = f"{figure.rounding:g} for rounding + {measured.protocol.tolerance:g}"
        told.append(f"tolerance {figure.tolerance:.4g}: {allowed} ({measured.protocol.because})")
    told += [f"check {name}" for name in line.checks]
    return [f"{head}published {row.value}, {source}", *told, *line.differs]


def _summary(subject: str, counts: Counter[str], unmapped: int, unknown: list[str]) -> str:
    parts = [", ".join(f"{counts[status]} {status}" for status in ("match", "drift", "not comparable"))]
    if unmapped:
        have = "has" if unmapped == 1 else "have"
        parts.append(f"{counted(unmapped, 'published figure')} {have} no mapping, --all lists them")
    if unknown:
        parts.append(f"no published figure is known to be of {', '.join(unknown)}")
    return f"{subject}: {'; '.join(parts)}"
