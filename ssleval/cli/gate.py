"""`ssleval gate`: may this checkpoint replace the last one?"""

import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Literal

import typer
from typer import Option

from ssleval.cli import options
from ssleval.cli.options import notes, say
from ssleval.core.settings import Positive, convert
from ssleval.errors import ConfigError

_EXIT = {"pass": 0, "fail": 1, "inconclusive": 3}


@options.grouped
def gate_(
    *,
    suite: Annotated[str, Option(help="A suite (ls suites) or YAML file.")],
    baseline: Annotated[str, Option(help="A result file, a folder of one model's results, or a model.")],
    candidate: Annotated[str, Option(help="A checkpoint file, or a model.")],
    model: Annotated[
        str, Option(help="Architecture of a candidate that is a file; default: the baseline's model.")
    ] = "",
    key: options.Key = "teacher",
    card: options.Card,
    margin: Annotated[
        list[str] | None,
        Option(help="TASK=NUMBER or TASK/DATASET=NUMBER: how much worse is tolerable; 0.01 is a point."),
    ] = None,
    first_run: Annotated[
        Literal["pass", "fail"],
        Option(help="No baseline yet: pass, and keep the candidate as the baseline, or fail."),
    ] = "fail",
    seeds: Annotated[int, Option(min=1, help="Probe seeds of tasks that train a probe.")] = 3,
    running: options.Running,
    results: options.Results = Path("results"),
    out: Annotated[Path | None, Option(help="Write gate.md, gate.json and gate.xml (JUnit) here.")] = None,
    as_json: options.Json = False,
) -> None:
    """Exit with 1 if the candidate is worse by more than a margin, 0 if it is not, 3 if neither is shown.

    Examples:
      ssleval gate --suite ci --baseline dinov2_vits14 --candidate run/teacher.pth --out gate
      ssleval gate --suite ci --baseline results/pixels --candidate dino_scenes --margin knn=0.005
    """
    from ssleval.checks.gate.measuring import Gate, run_gate
    from ssleval.checks.gate.reports import markdown, to_json, write_reports
    from ssleval.checks.gate.verdicts import overall
    from ssleval.features import current_shard
    from ssleval.run.sweep import Sweep

    context, limit = running.context(), running.limit
    sweep = Sweep("", suite=suite, key=key, limit=limit, options=running.options(), card=card.stated())
    with _errors_reported(suite, out):
        margins = dict(map(_margin, margin or ()))
        request = Gate(sweep, baseline, candidate, model, margins, seeds, first_run)
        verdicts = run_gate(request, context, results, note=notes(quiet=running.quiet))
    if current_shard().leads:
        typer.echo(to_json(verdicts) if as_json else markdown(verdicts), nl=False)
        for path in write_reports(verdicts, suite, out) if out else ():
            say(f"wrote {path}")
    raise SystemExit(_EXIT[overall(verdicts)])


@contextmanager
def _errors_reported(suite: str, out: Path | None) -> Generator[None]:
    """Write an error into the reports as well: a CI server that finds none shows those of the last run."""
    from ssleval.checks.gate.reports import remove_reports, write_error

    if out is None:
        yield
        return
    remove_reports(out)
    started = time.perf_counter()
    try:
        yield
    except Exception as error:
        said = " ".join(str(error).split()) or type(error).__name__
        # A disk that is full says so itself.
        with suppress(OSError):
            for path in write_error(said, suite, out, time.perf_counter() - started):
                say(f"wrote {path}")
        raise


def _margin(text: str) -> tuple[str, float]:
    name, equals, number = text.partition("=")
    if not equals:
        raise ConfigError(f"--margin {text}: expected TASK=NUMBER, such as knn=0.005")
    return name.strip(), convert(f"--margin {name.strip()}", number.strip(), Positive)
