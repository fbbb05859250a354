"""Usage errors in the words of all other messages: one line, the nearest name, where the names are listed."""

import re
from typing import Any

import typer

from ssleval.core.registry import suggestion

USAGE_ERROR = typer.BadParameter.__mro__[1]
"""`UsageError` of the click that typer holds or imports."""
_QUOTED = re.compile(r"'(.*?)'")


def usage(error: Any) -> str:
    """Return typer's message as one line."""
    context: Any = error.ctx
    path = context.command_path if context else "ssleval"
    command = path.removeprefix("ssleval").strip()
    message = " ".join(error.format_message().split()).rstrip(".")
    return f"{f'{command}: ' if command else ''}{_in_our_words(message, context)}; see `{path} --help`"


def _in_our_words(message: str, context: Any) -> str:
    if named := re.match(r"No such option:? '?(-[^\s']+)", message):
        spellings = [name for option in context.command.get_params(context) for name in option.opts]
        return f"no option {named[1]}; {suggestion(named[1], (name for name in spellings if name[0] == '-'))}"
    if named := re.match(r"No such command '(.*?)'", message):
        return f"no command {named[1]!r}; {suggestion(named[1], context.command.commands)}"
    if chosen := re.search(r"Invalid value for '(.*?)': .*?'(.*)' is not one of (.*)", message):
        return f"{chosen[1]} {chosen[2]!r}: {suggestion(chosen[2], _QUOTED.findall(chosen[3]))}"
    if missing := re.match(r"Missing (?:option|argument) '(.*?)'", message):
        return f"{missing[1]} is missing"
    return re.sub(r"^Invalid value for '(.*?)': (?:Input should be )?", r"\1 should be ", message)
