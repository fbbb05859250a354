"""`ssleval features`: features as a file of arrays."""

from pathlib import Path
from typing import Annotated

from typer import Option

from ssleval.cli import options
from ssleval.cli.options import tell


@options.grouped
def features_(
    *,
    model: Annotated[str, Option(help="A name of `ssleval ls models`, or source:identifier.")],
    out: Annotated[Path, Option(help="File to write: .npz or .parquet.")],
    dataset: Annotated[str, Option(help="A name or source:location.")] = "scenes",
    split: Annotated[str, Option(help="Split of the dataset.")] = "test",
    readout: Annotated[
        str, Option(help="Comma list: pooled, cls[-1], mean[-1], gem[-1], patches[-1], any block.")
    ] = "pooled",
    checkpoint: options.Checkpoint = None,
    key: options.Key = "teacher",
    card: options.Card,
    running: options.Extracting,
    exif: options.Exif = False,
) -> None:
    """Write the features of one split with ids, labels and class names.

    Examples:
      ssleval features --model dino_scenes --out features.npz
      ssleval features --model dino_scenes --dataset digits --limit 50 --readout cls[-1] --out f.parquet
    """
    from ssleval.features import current_shard
    from ssleval.run.extracting import extract_features, refuse_suffix

    refuse_suffix(out)
    found = extract_features(
        model,
        dataset,
        split,
        readout.split(","),
        checkpoint=checkpoint,
        key=key,
        card=card.stated(),
        limit=running.limit,
        options=running.options(exif=exif),
        context=running.context(),
    )
    if not current_shard().leads:
        return
    found.save(out)
    for name, array in found.arrays.items():
        tell(f"{out}: {name} {'x'.join(map(str, array.shape))} {array.dtype}")
