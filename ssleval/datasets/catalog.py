"""Datasets by name: registered names, or ``source:location``."""

import re
from dataclasses import replace
from functools import cache, partial
from importlib.metadata import entry_points
from typing import Any

from ssleval.core import Dataset, DatasetCard, DatasetOptions, datasets
from ssleval.core.faults import faults_of, is_foreign
from ssleval.core.registry import suggestion, summaries
from ssleval.core.settings import check
from ssleval.datasets.files.upright import upright
from ssleval.datasets.published import Published
from ssleval.errors import ContractError, DataError, UnknownNameError


def open_dataset(name: str, options: DatasetOptions) -> Dataset:
    """Open ``name``: a registered set, or ``source:location``.

    Raises:
        UnknownNameError: there is no such set or source; the message offers the nearest names.
        DataError: the files are absent or not the published ones.
        ConfigError: an option has a value of another type, or the targets cannot be turned with the images.
        ContractError: it is a plug-in that fails, or opens something else.
    """
    check(options, "options")
    if "\0" in name or any("\ud800" <= letter <= "\udfff" for letter in name):
        raise DataError(f"{name!a}: no name of a dataset or path in UTF-8, in which results are stored")
    source, colon, location = name.partition(":")
    if source not in datasets:
        raise UnknownNameError(f"no dataset {name!r}; {_hint(source, is_source=bool(colon))}")
    loader = datasets.get(source)
    with faults_of(f"dataset {name!r}", foreign=is_foreign(loader)):
        opened: Any = loader(location, options)
    if not isinstance(opened, Dataset):
        raise ContractError(f"dataset {name!r}: its loader returned {type(opened).__name__}, not a Dataset")
    beside = cache(partial(open_dataset, options=options))
    return replace(upright(opened) if options.exif else opened, beside=beside)


def split_names(text: str) -> list[str]:
    """Return the names in a comma list.

    A comma inside braces is part of a name. So is one in ``source:location``, unless a dataset follows.
    """
    names: list[str] = []
    for part in re.split(r",(?![^{}]*\})", text):
        if names and ":" in names[-1] and not _begins_a_name(part.strip()):
            names[-1] += f",{part}"
        else:
            names.append(part)
    return [name.strip() for name in names if name.strip()]


def _begins_a_name(part: str) -> bool:
    source, colon, _ = part.partition(":")
    if source not in datasets or colon or source == "scenes":
        return source in datasets or not part
    # A source needs a location, so that the word alone is a folder: masks:images,masks.
    return not getattr(datasets.get(source), "__module__", "").startswith(datasets.package)


def list_datasets() -> dict[str, DatasetCard | str]:
    """Return for every name the card of the published set, or a line that describes the source.

    Third-party datasets are described by their entry point and are not imported.
    """
    lines = summaries(datasets.group, datasets.package)
    foreign = {point.name for point in entry_points(group=datasets.group)}
    listed: dict[str, DatasetCard | str] = {}
    for name in datasets:
        loader = None if name in foreign else datasets.get(name)
        listed[name] = loader.card if isinstance(loader, Published) else lines.get(name, "")
    return listed


def expected_files(name: str) -> tuple[str, ...]:
    """Return files that a copy of a published set has, as examples below its folder; () for other names."""
    loader = datasets.get(name)
    return loader.tree if isinstance(loader, Published) else ()


def _hint(source: str, *, is_source: bool) -> str:
    sources = [name for name, item in list_datasets().items() if isinstance(item, str)]
    if is_source:
        return suggestion(source, sources)
    if "/" in source or source.startswith(("~", ".")):
        return f"a folder of images is folder:{source}"
    return suggestion(source, datasets)
