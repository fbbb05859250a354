"""`ssleval gate`: may this checkpoint replace the last one?"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from ssleval.cli.options import CacheDir, Json, cache_folder
from ssleval.errors import ConfigError

_EXIT = {"pass": 0, "fail": 1, "inconclusive": 3}


def gate_(
    suite: Annotated[str, typer.Option(help="A suite (ls suites) or YAML file.")],
    baseline: Annotated[
        str, typer.Option(help="A result file, a folder of one model's results, or a model.")
    ],
    candidate: Annotated[str, typer.Option(help="A checkpoint file, or a model.")],
    model: Annotated[
        str, typer.Option(help="Architecture of a candidate that is a file; default: the baseline's model.")
    ] = "",
    key: Annotated[str, typer.Option(help="Network of a training checkpoint: teacher, student.")] = "teacher",
    margin: Annotated[
        list[str] | None,
        typer.Option(
            help="TASK=NUMBER or TASK/DATASET=NUMBER: how much worse is tolerable; 0.01 is a point."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Probe seeds of tasks that train a probe.")] = 3,
    data_root: Annotated[Path, typer.Option(help="Folder that holds named datasets.")] = Path("data"),
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")] = "cpu",
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"], typer.Option(help="fp32, bf16 or fp16 forward passes.")
    ] = "fp32",
    num_workers: Annotated[int, typer.Option(min=0, help="Processes that decode images.")] = 0,
    limit: Annotated[int | None, typer.Option(help="Keep this many images of every split.")] = None,
    results: Annotated[Path, typer.Option(help="Folder for result files.")] = Path("results"),
    cache: CacheDir = None,
    out: Annotated[
        Path | None, typer.Option(help="Write gate.md, gate.json and gate.xml (JUnit) here.")
    ] = None,
    as_json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no notes.")] = False,
) -> None:
    """Fail (1) a candidate shown to be worse by more than a margin, pass (0) one shown not to be, else 3."""
    from ssleval.checks.gate.measuring import Gate, run_gate
    from ssleval.checks.gate.reports import markdown, to_json, write_reports
    from ssleval.checks.gate.verdicts import overall
    from ssleval.core import Context, DatasetOptions
    from ssleval.run.sweep import Sweep

    context = Context(
        device=device,
        precision=precision,
        num_workers=num_workers,
        cache=(folder := cache_folder(cache)),
        progress=not quiet,
    )
    options = DatasetOptions(data_root, cache=folder)
    sweep = Sweep(models="", suite=suite, key=key, limit=limit, options=options)
    asked = Gate(sweep, baseline, candidate, model, dict(_margin(one) for one in margin or ()), seeds)
    verdicts = run_gate(asked, context, results, note=_silent if quiet else _note)
    typer.echo(to_json(verdicts) if as_json else markdown(verdicts), nl=False)
    for path in write_reports(verdicts, suite, out) if out else ():
        _note(f"wrote {path}")
    raise SystemExit(_EXIT[overall(verdicts)])


def _margin(text: str) -> tuple[str, float]:
    name, _, number = text.partition("=")
    try:
        return name.strip(), float(number)
    except ValueError as error:
        raise ConfigError(f"--margin {text}: expected TASK=NUMBER, such as knn=0.005") from error


def _note(text: str) -> None:
    typer.echo(text, err=True)


def _silent(text: str) -> None:
    del text
