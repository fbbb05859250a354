"""Classes of commands whose help names flags without a type: `--json`, not `--json <bool>`."""

from typing import Any

from typer.core import TyperCommand, TyperGroup


class Command(TyperCommand):
    """One command."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters; flags have no placeholder for a value."""
        return _without_types(super().get_params(ctx))


class Group(TyperGroup):
    """A command that holds others."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters; flags have no placeholder for a value."""
        return _without_types(super().get_params(ctx))


def _without_types(parameters: list[Any]) -> list[Any]:
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    return parameters
