"""captions:FILE.csv or captions:FILE.jsonl, a table of images and their captions: columns path and caption.

Paths are relative to the table. An image with several captions has several rows. Images come in the order of
their first row, the captions of an image in the order of theirs. There is one split, ``test``.
"""

from dataclasses import replace

from ssleval.core import Dataset, DatasetCard, DatasetOptions, Split, datasets, digest
from ssleval.datasets.files.images import file_split
from ssleval.datasets.files.places import located, places
from ssleval.datasets.files.tables import read_texts
from ssleval.errors import DataError


@datasets.register("captions")
def captions(location: str, options: DatasetOptions) -> Dataset:
    """Open a table of captioned images."""
    table = located("captions", location, "FILE.csv")
    captions_of: dict[str, list[str]] = {}
    first_spelling: dict[str, str] = {}
    place_of = places(table.parent)
    for _, (path, caption) in read_texts(table, "captions", ("path", "caption")):
        captions_of.setdefault(first_spelling.setdefault(place_of(path), path), []).append(caption)
    if not captions_of:
        raise DataError(f"captions:{table}: no row; it needs one for every caption")
    paths, texts = list(captions_of), tuple(map(tuple, captions_of.values()))

    def open_split(name: str) -> Split:  # noqa: ARG001
        files = file_split(table.parent, paths, full_hash=options.full_hash)
        return replace(files, fingerprint=digest([files.fingerprint, texts]), target=texts.__getitem__)

    card = DatasetCard(
        name=f"captions:{location}", target="captions", lengths={"test": len(paths)}, source=str(table)
    )
    return Dataset(card, open_split)
