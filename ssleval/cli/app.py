"""The command line: parse, call, print.

No decision is made here, and nothing heavy is imported before a command needs it.
"""

import sys
from typing import Annotated

import typer
from typer import Option

from ssleval.cli.cache import cache_app
from ssleval.cli.commands import Command, Group
from ssleval.cli.compare import compare_
from ssleval.cli.datasets import datasets_app
from ssleval.cli.doctor import doctor
from ssleval.cli.endings import INTERRUPTED, ended, open_streams, refuse_unusable
from ssleval.cli.export import export_app
from ssleval.cli.features import features_
from ssleval.cli.gate import gate_
from ssleval.cli.leaderboard import leaderboard_
from ssleval.cli.leaks import leaks_
from ssleval.cli.ls import ls_
from ssleval.cli.report import report_
from ssleval.cli.run import run_
from ssleval.cli.show import show_app
from ssleval.cli.similarity import similarity_
from ssleval.cli.train import train_command
from ssleval.cli.verify import verify_
from ssleval.core.faults import forget_frames

_COMMANDS = {
    "Measure": {"run": run_, "ls": ls_, "doctor": doctor, "features": features_, "leaks": leaks_},
    "Compare": {
        "leaderboard": leaderboard_,
        "compare": compare_,
        "gate": gate_,
        "verify": verify_,
        "similarity": similarity_,
    },
    "Look": {"report": report_},
    "Train": {"train": train_command},
}
"""Commands by the panel of the help that they stand in."""

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Compare frozen vision backbones on a common footing.",
    epilog="Exit codes: 0 done, 1 a gate failed, 2 you can fix it (one line says how), 3 inconclusive, "
    "70 a fault in ssleval.",
)
for panel, commands in _COMMANDS.items():
    for name, command in commands.items():
        app.command(name=name, cls=Command, rich_help_panel=panel)(command)
app.add_typer(show_app, name="show", rich_help_panel="Look")
app.add_typer(datasets_app, name="datasets", rich_help_panel="Data and cache")
app.add_typer(export_app, name="export", rich_help_panel="Data and cache")
app.add_typer(cache_app, name="cache", rich_help_panel="Data and cache")


def _version(wanted: bool) -> bool:
    if wanted:
        from ssleval import __version__

        typer.echo(f"ssleval {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _options(
    version: Annotated[bool, Option(callback=_version, is_eager=True, help="Print the version.")] = False,
    traceback: Annotated[bool, Option(help="Show where an error arose.")] = False,
) -> None:
    # `_version` acts on the one, `main` on the other, which it sees wherever it stands.
    del version, traceback


def main() -> None:
    """Run the command line; print errors that a user can fix as one line and exit with 2."""
    open_streams()
    arguments = [_spelling(argument) for argument in sys.argv[1:]]
    try:
        _run(arguments)
    except BaseException as error:
        forget_frames(error)
        raise


def _run(arguments: list[str]) -> None:
    with ended(traceback="--traceback" in arguments):
        given = [argument for argument in arguments if argument != "--traceback"]
        refuse_unusable(given)
        code = app(given, prog_name="ssleval", standalone_mode=False)
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        raise SystemExit(code)


def _spelling(argument: str) -> str:
    # `--batch_size` and `--batch-size` are both what people type.
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else argument
