"""The command reference, made from the command line itself.

`python -m tests.cli.command_reference > docs/command-line.md` writes the page; a test fails when it is stale.
"""

from collections.abc import Iterator
from textwrap import dedent
from typing import Any

import typer
from typer.core import TyperArgument, TyperGroup, TyperOption

from ssleval.cli.app import app
from ssleval.cli.show import ModelGroup

HEAD = """# Command line

Results go to stdout, progress and notes to stderr. Exit codes: 0 done, 1 a gate failed or a figure drifted,
2 you can fix it (one line says what, why and what to do; `--traceback` shows where it arose), 3 inconclusive
or nothing comparable, 70 a fault in ssleval, 130 interrupted, 141 the output was closed (`| head`).
What goes wrong in a model file or a plug-in is named by file and line, and ends with 2.
`--batch_size` and `--batch-size` are the same. `ssleval --install-completion` teaches the shell to complete
commands and options. This page is generated: `python -m tests.cli.command_reference > docs/command-line.md`.

The cache folder holds extracted features and rendered data. It is `--cache`, else the environment variable
`SSLEVAL_CACHE`, else the platform's folder for caches: on Linux `$XDG_CACHE_HOME/ssleval` or
`~/.cache/ssleval`, on macOS `~/Library/Caches/ssleval`. Python follows the same rule.
"""


def reference() -> str:
    """Return the page."""
    return HEAD + "".join(_section(name, command) for name, command in leaves())


def leaves(prefix: str = "", command: Any = None) -> Iterator[tuple[str, Any]]:
    """Yield every command that does something, by its full name."""
    command = command or typer.main.get_command(app)
    if not isinstance(command, TyperGroup):
        yield prefix, command
        return
    for name, inner in command.commands.items():
        # What a group does without a name of a command goes by the name of the group.
        own = isinstance(command, ModelGroup) and name == command.fallback
        yield from leaves(prefix if own else f"{prefix} {name}".strip(), inner)


def options(command: Any) -> list[TyperOption]:
    """Return the options of a command."""
    return [one for one in command.params if isinstance(one, TyperOption) and "--help" not in one.opts]


def _section(name: str, command: Any) -> str:
    arguments = [one for one in command.params if isinstance(one, TyperArgument)]
    usage = " ".join([name, *((one.name or "").upper() for one in arguments)])
    says, _, examples = (command.help or "").partition("\n\nExamples:\n")
    lines = [f"\n## `ssleval {usage}`\n", f"\n{says.strip()}\n"]
    lines.append(f"\n```bash\n{dedent(examples).strip()}\n```\n" if examples else "")
    rows = [_row(option) for option in options(command)]
    if rows:
        lines += ["\n| option | meaning | default |\n", "|:---|:---|:---|\n", *rows]
    return "".join(lines)


def _row(option: TyperOption) -> str:
    plain = option.is_flag or option.default is None or option.default == []
    default = "required" if option.required else "" if plain else option.default
    return f"| `{option.opts[0]}` | {option.help} | {default} |\n"


if __name__ == "__main__":
    print(reference(), end="")  # noqa: T201
