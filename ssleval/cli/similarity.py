"""`ssleval similarity`: which models see images alike."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from typer import Argument, Option

from ssleval.cli import options
from ssleval.cli.options import notes, print_rows, say
from ssleval.core.cachefolder import default_cache

if TYPE_CHECKING:
    from ssleval.core import Context
    from ssleval.features import FeatureSource


def similarity_(
    models: Annotated[list[str], Argument(help="Names, globs, or NAME=FILE with local weights.")],
    dataset: Annotated[str, Option(help="Name or source:location.")] = "scenes",
    split: Annotated[str, Option(help="Default: the scored one.")] = "",
    readout: Annotated[
        Literal["pooled", "cls", "mean", "gem"], Option(help="The model's descriptor, or of the last block.")
    ] = "pooled",
    k: Annotated[int, Option("--k", min=1, help="Nearest neighbours that are compared.")] = 10,
    data_root: options.DataRoot = Path("data"),
    device: options.Device = "auto",
    precision: options.Precision = "fp32",
    num_workers: options.Workers = "auto",
    pixels: options.Pixels = "exact",
    limit: options.Limit = None,
    results: options.Results = Path("results"),
    cache: options.CacheDir = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Print a matrix of models: debiased linear CKA above the diagonal, shared neighbours below.

    Examples:
      ssleval similarity dino_scenes pixels --dataset digits
      ssleval similarity 'dinov2_*' timm:vit_tiny_patch16_224=vit_tiny.safetensors --dataset caltech101
    """
    from ssleval.backbones.zoo import match_models
    from ssleval.core import Context, DatasetOptions, FeatureRequest
    from ssleval.core.escape import markdown_cell, markdown_table
    from ssleval.core.files import write_text_atomically
    from ssleval.core.image_level import VectorPerImage
    from ssleval.datasets.catalog import open_dataset
    from ssleval.results.similarity import file_of, matrix, to_dict
    from ssleval.run.similarity import similarities

    folder = cache or default_cache()
    context = Context(
        device=device, precision=precision, num_workers=options.workers(num_workers), cache=folder,
        progress=not quiet, pixels=pixels,
    )  # fmt: skip
    opened = open_dataset(dataset, DatasetOptions(data_root, cache=folder))
    opened = opened if limit is None else opened.limited(limit)
    shape = VectorPerImage(readout=readout)
    request = FeatureRequest(opened, split or opened.card.test_split, shape.geometry, (shape.vector,))
    asked = [pair for model in models for pair in _named(model, match_models)]
    sources = [partial(_source, name, file, context, quiet=quiet) for name, file in asked]
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


def _source(name: str, file: Path | None, context: "Context", *, quiet: bool) -> "FeatureSource":
    from ssleval.backbones.zoo import load
    from ssleval.features import FeatureSource

    backbone = load(name, checkpoint=file, device=context.device, note=notes(quiet=quiet))
    return FeatureSource(backbone, context)
