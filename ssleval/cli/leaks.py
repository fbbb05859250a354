"""`ssleval leaks`: which images of one split are near-duplicates of another's."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from ssleval.cli import options
from ssleval.cli.options import notes, print_rows, say, tell

if TYPE_CHECKING:
    from ssleval.core import DatasetOptions
    from ssleval.run.leaks import Leaks, Side

_SHOWN = 10


@options.grouped
def leaks_(
    *,
    train: Annotated[str, Argument(help="The set that is searched: a name or source:location.")],
    test: Annotated[str, Argument(help="The set whose images are looked up; default: the same.")] = "",
    model: Annotated[str, Option(help="Whose descriptors are compared.")] = "dino_scenes",
    train_split: Annotated[str, Option(help="Split of the first; default: that heads are fitted on.")] = "",
    test_split: Annotated[str, Option(help="Split of the second; default: the scored one.")] = "",
    rate: Annotated[
        float, Option(min=0, max=0.5, help="False alarms: share of images without a copy taken for one.")
    ] = 0.01,
    non_copies: Annotated[
        str, Option(help="A set without a copy in the first; default: images of the first among each other.")
    ] = "",
    size: Annotated[int, Option(min=1, help="Pixels of a side.")] = 320,
    out: Annotated[Path | None, Option(help="JSON file to write, for run --drop-leaks.")] = None,
    picture: Annotated[Path | None, Option(help="PNG file of the pairs to write.")] = None,
    most: Annotated[int, Option(min=1, help="Pairs in the picture.")] = 40,
    checkpoint: options.Checkpoint = None,
    key: options.Key = "teacher",
    running: options.Extracting,
    exif: options.Exif = False,
    full_hash: options.FullHash = False,
    as_json: options.Json = False,
) -> None:
    """Find near-duplicates between two splits, at a stated rate of false alarms.

    Examples:
      ssleval leaks scenes --model dino_scenes --out leaks.json --picture leaks.png
      ssleval leaks images:pretraining caltech101 --model dinov2_vits14 --non-copies images:holidays
    """
    from ssleval.backbones.zoo import load
    from ssleval.core.files import write_atomically, write_text_atomically
    from ssleval.features import FeatureSource
    from ssleval.run.leaks import find_leaks

    context, note, limit = running.context(), notes(quiet=running.quiet), running.limit
    data = running.options(full_hash=full_hash, exif=exif)
    first = _side(train, train_split, data, limit, fitted=True)
    second = _side(test or train, test_split, data, limit, fitted=False)
    known = _side(non_copies, "", data, limit, fitted=False) if non_copies else None
    backbone = load(model, checkpoint=checkpoint, key=key, device=context.device, note=note)
    source = FeatureSource(backbone, context)
    found = find_leaks(source, first, second, rate=rate, non_copies=known, size=size)
    if out is not None:
        write_text_atomically(out, json.dumps(found.to_dict()) + "\n")
        say(f"wrote {out}")
    if picture is not None:
        from ssleval.display.pictures.leaks import draw_leaks

        drawn = draw_leaks(found, most)
        write_atomically(picture, lambda draft: drawn.save(draft, format="PNG"))
        say(f"wrote {picture}")
    if as_json:
        print_rows([found.to_dict()])
    else:
        _tell(found)


def _side(name: str, split: str, data: "DatasetOptions", limit: int | None, *, fitted: bool) -> "Side":
    from ssleval.datasets.catalog import open_dataset
    from ssleval.run.leaks import Side, sides_of

    dataset = open_dataset(name, data).limited(limit)
    return Side(name, dataset, split) if split else sides_of(name, dataset)[0 if fitted else 1]


def _tell(found: "Leaks") -> None:
    limit, fields = found.threshold, found.to_dict()
    leaked, images, same = len(fields["leaked"]), fields["images"], {row for row, _ in found.identical}
    tell(
        f"{found.model}: {leaked:,} of {images:,} images of {found.test} have a near-duplicate in "
        f"{found.train}, {len(same):,} of them byte for byte"
    )
    tell(
        f"  similarity above {limit.value:.4f}; false alarms {limit.alarms}, or {limit.rate * images:.1f} "
        f"images, by {limit.n:,} {found.non_copies}"
    )
    for one, other, similarity in fields["pairs"][:_SHOWN]:
        tell(f"  {similarity:.4f}  {one} = {other}")
    if len(fields["pairs"]) > _SHOWN:
        tell(f"  and {len(fields['pairs']) - _SHOWN:,} more pairs; --json prints all")
