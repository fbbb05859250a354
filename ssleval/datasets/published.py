"""Sets with a published size: a card that is always available, and files that are read when asked for."""

import json
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from ssleval.core import Dataset, DatasetCard, DatasetOptions, Split, datasets
from ssleval.core.faults import located
from ssleval.errors import ConfigError, DataError


class Copy(NamedTuple):
    """The content of a set as read from disk."""

    class_names: tuple[str, ...]
    """In label order."""
    open: Callable[[str], Split]
    """Opens one of the splits of the card."""
    more: Mapping[str, int] = {}
    """Number of images that the copy adds to a split, such as distractors; the split may be new."""
    outputs: tuple[tuple[str, ...], ...] = ()
    """As in a card."""


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
    fitted_on: "Published | str" = ""
    """The set whose training images heads are fitted on, or its name, if this set has none."""
    tree: tuple[str, ...] = ()
    """Files that a copy has, below the folder of its name, as the publisher's archives leave them behind."""

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
                f"{card.name}/{self._expected}"
            )
        with self._reading(root):
            copy = self.read(root, options)
        if len(copy.class_names) != card.classes:
            raise DataError(
                f"{card.name}: {len(copy.class_names)} classes in {root}, expected {card.classes}; "
                f"the copy is incomplete or not the published one{self._expected}"
            )

        def open_split(split: str) -> Split:
            with self._reading(root):
                return copy.open(split)

        name = self.fitted_on
        trained = datasets.get(name) if name and isinstance(name, str) else name
        added = {split: card.lengths.get(split, 0) + count for split, count in copy.more.items()}
        return Dataset(
            replace(
                card,
                class_names=copy.class_names,
                lengths={**card.lengths, **added},
                outputs=copy.outputs,
            ),
            open_split,
            # Opened only when asked for: zero-shot classification needs none of its images.
            cache(lambda: trained("", options)) if callable(trained) else None,
        )

    @property
    def _expected(self) -> str:
        tree = f"; expected in {self.card.name}/: {', '.join(self.tree)}" if self.tree else ""
        return f"{tree}; {self.card.source}"

    @contextmanager
    def _reading(self, root: Path) -> Generator[None]:
        """Say of every fault of a copy what was expected; a list of another form ends in a line, too."""
        try:
            yield
        except DataError as error:
            raise DataError(f"{error}{self._expected}") from error
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise DataError(
                f"{self.card.name}: a file in {root} is not as published ({located(error)}){self._expected}"
            ) from error


def published(
    card: DatasetCard,
    *tree: str,
    downloads: bool = False,
    embedded: bool = False,
    fitted_on: Published | str = "",
) -> Callable[[Reader], Reader]:
    """Return a decorator that registers the function which reads the set of ``card``, as in `Published`."""

    def register(read: Reader) -> Reader:
        datasets.register(card.name)(Published(card, read, downloads, embedded, fitted_on, tree))
        return read

    return register


def first_folder(root: Path, places: Sequence[str], *content: str) -> Path:
    """Return the first of the folders ``places`` below ``root`` that holds files or folders of these names.

    DataError where there is none.
    """
    for place in places:
        if all((root / place / name).exists() for name in content):
            return root / place
    below = ", ".join(place for place in places if place != ".")
    raise DataError(f"{root}: no {' and '.join(content)} in it{f' or in {below}' if below else ''}")


def listed_in(root: Path, *names: str, split: str) -> Path:
    """Return the first of the lists ``names`` that is there, with a split for ``{split}``; else the first."""
    listed = [root / name.format(split=split) for name in names]
    return next((path for path in listed if path.is_file()), listed[0])


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
