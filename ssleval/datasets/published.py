"""Sets with a published size: a card that is always available, and files that are read when asked for."""

import json
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from ssleval.core import Dataset, DatasetCard, DatasetOptions, Split, datasets
from ssleval.errors import ConfigError, DataError


class Copy(NamedTuple):
    """The content of a set as read from disk."""

    class_names: tuple[str, ...]
    """In label order."""
    open: Callable[[str], Split]
    """Opens one of the splits of the card."""
    more: Mapping[str, int] = {}
    """Number of images that the copy adds to a split, such as distractors; the split may be new."""


Reader: TypeAlias = Callable[[Path, DatasetOptions], Copy]
"""Reads the copy of a set in one folder."""


@dataclass(frozen=True, slots=True)
class Published:
    """A dataset loader that can be listed without its files."""

    card: DatasetCard
    """Complete except for the class names, which are read from the copy; ``classes`` is their number."""
    read: Reader
    downloads: bool = False
    """Whether the reader can fetch the files."""
    embedded: bool = False
    """Whether the files are part of an installed package, so that no folder is needed."""
    fitted_on: "Published | None" = None
    """The set whose training images heads are fitted on, if this set has none."""

    def __call__(self, location: str, options: DatasetOptions) -> Dataset:
        """Open the copy in ``data_root/<name>``; nothing may follow the colon."""
        card = self.card
        if location:
            raise ConfigError(f"{card.name} takes nothing behind a colon, got {location!r}; drop it")
        root = options.data_root.expanduser() / card.name
        if not (self.embedded or (self.downloads and options.download) or root.is_dir()):
            fetch = "--download fetches it; " if self.downloads else ""
            raise DataError(
                f"{card.name}: no folder {root}; {fetch}set --data-root to the folder that holds "
                f"{card.name}/; {card.source}"
            )
        copy = self.read(root, options)
        if len(copy.class_names) != card.classes:
            raise DataError(
                f"{card.name}: {len(copy.class_names)} classes in {root}, expected {card.classes}; "
                "the copy is incomplete or not the published one"
            )
        trained = self.fitted_on
        added = {split: card.lengths.get(split, 0) + count for split, count in copy.more.items()}
        return Dataset(
            replace(card, class_names=copy.class_names, lengths={**card.lengths, **added}),
            copy.open,
            # Opened only when asked for: zero-shot classification needs none of its images.
            None if trained is None else cache(lambda: trained("", options)),
        )


def published(
    card: DatasetCard, *, downloads: bool = False, embedded: bool = False
) -> Callable[[Reader], Reader]:
    """Return a decorator that registers the function which reads the set of ``card``, as in `Published`."""

    def register(read: Reader) -> Reader:
        datasets.register(card.name)(Published(card, read, downloads, embedded))
        return read

    return register


def read_lines(listed: Path) -> list[str]:
    """Return the lines of a text file of a set, without blanks around them and without blank lines.

    DataError where it is missing.
    """
    return [line.strip() for line in read_text(listed).split("\n") if line.strip()]


def read_json(table: Path) -> Any:
    """Return the content of a JSON file of a set; DataError where it is missing or damaged."""
    try:
        return json.loads(read_text(table))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{table}: not a whole JSON file ({error}); fetch it again") from error


def read_text(path: Path) -> str:
    """Return a text file of a set, its lines ended by a line feed.

    It is in UTF-8, or in UTF-16 with the mark that Windows' shell writes.

    Raises:
        DataError: it is missing, or in another encoding.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; it comes with the images")
    content = path.read_bytes()
    try:
        text = content.decode("utf-16" if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text in UTF-8 ({error}); save it as such") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")
