"""`ssleval ls`: what there is to choose from."""

from typing import Annotated, Literal

from typer import Argument, Option

from ssleval.cli.options import Json, print_rows, tell


def ls_(
    what: Annotated[Literal["models", "tasks", "datasets", "suites"], Argument(help="What to list.")],
    pattern: Annotated[str, Argument(help="Only names that match this glob: 'dino*'.")] = "",
    family: Annotated[str, Option(help="Only models of this family, a name or glob.")] = "",
    supervision: Annotated[
        Literal["self", "weak", "full", "none"] | None, Option(help="Only models trained so.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List models, tasks, datasets or suites, with what there is to know before choosing.

    Of a dataset that is named in full, the files that a copy has are listed too, and where they come from.

    Examples:
      ssleval ls models 'dino*' --supervision self
      ssleval ls datasets voc2012
      ssleval ls datasets --json
    """
    from ssleval.cli.tables import files_of, rows, selected, table

    listed = selected(rows(what), {what[:-1]: pattern, "family": family, "supervision": supervision or ""})
    files = files_of(pattern.lower()) if what == "datasets" else {}
    if as_json:
        print_rows([{**row, **files} for row in listed])
        return
    table(listed)
    for line in ("", f"source: {files['source']}", *files["tree"]) if files else ():
        tell(line)
