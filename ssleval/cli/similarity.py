"""`ssleval similarity`: which models see images alike."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from typer import Argument, Option

from ssleval.cli import options
from ssleval.cli.options import notes, print_rows, say

if TYPE_CHECKING:
    from ssleval.core import Context
    from ssleval.features import FeatureSource


@options.grouped
def similarity_(
    *,
    models: Annotated[list[str], Argument(help="Names, globs, or NAME=FILE with local weights.")],
    dataset: Annotated[str, Option(help="Name or source:location.")] = "scenes",
    split: Annotated[str, Option(help="Default: the scored one.")] = "",
    readout: Annotated[
        Literal["pooled", "cls", "mean", "gem"], Option(help="The model's descriptor, or of the last block.")
    ] = "pooled",
    k: Annotated[int, Option(min=1, help="Nearest neighbours that are compared.")] = 10,
    running: options.Extracting,
    results: options.Results = Path("results"),
    as_json: options.Json = False,
) -> None:
    """Print a matrix of models: debiased linear CKA above the diagonal, shared neighbours below.

    Examples:
      ssleval similarity dino_scenes pixels --dataset digits
      ssleval similarity 'dinov2_*' timm:vit_tiny_patch16_224=vit_tiny.safetensors --dataset caltech101
    """
    from ssleval.backbones.zoo import match_models
    from ssleval.core import FeatureRequest
    from ssleval.core.escape import markdown_cell, markdown_table
    from ssleval.core.files import write_text_atomically
    from ssleval.core.image_level import VectorPerImage
    from ssleval.datasets.catalog import open_dataset
    from ssleval.features import local_device
    from ssleval.results.similarity import file_of, matrix, to_dict
    from ssleval.run.similarity import similarities

    context = running.context()
    context = replace(context, device=local_device(context.device))
    opened = open_dataset(dataset, running.options()).limited(running.limit)
    shape = VectorPerImage(readout=readout)
    request = FeatureRequest(opened, split or opened.card.test_split, shape.geometry, (shape.vector,))
    asked = [pair for model in models for pair in _named(model, match_models)]
    note = notes(quiet=running.quiet)
    sources = [partial(_source, name, file, context, note) for name, file in asked]
    found = similarities(sources, dataset, request, k)
    path = file_of(found, results)
    write_text_atomically(path, json.dumps(to_dict(found)) + "\n")
    if as_json:
        print_rows([to_dict(found)])
        return
    heads, *rows = (
        [*map(markdown_cell, row)]
        for row in (["CKA above, shared neighbours below", *found.models], *matrix(found))
    )
    typer.echo(markdown_table(heads, rows))
    say(
        f"{found.images:,} images, {k} neighbours, by chance {100 * k / (found.images - 1):.1f} %; "
        f"wrote {path}"
    )


def _named(text: str, match: Callable[[str], list[str]]) -> list[tuple[str, Path | None]]:
    """Return the models that an argument names, each with its file of weights, if any."""
    name, equals, file = text.rpartition("=")
    return [(name, Path(file))] if equals else [(one, None) for one in match(text)]


def _source(name: str, file: Path | None, context: "Context", note: Callable[[str], None]) -> "FeatureSource":
    from ssleval.backbones.zoo import load
    from ssleval.features import FeatureSource

    return FeatureSource(load(name, checkpoint=file, device=context.device, note=note), context)
