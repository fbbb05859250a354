"""hf:ORG/NAME@REVISION, a Hugging Face dataset, or hf:DIRECTORY, a local copy of one.

The image column and the label column are recognised by their types; two candidates are refused. The split
``validation`` is called val. A test split whose labels are all -1 was published without them: val is scored.
A set without a label column may have any splits; it serves to train on, and to take features of.
A configuration of a set is written ORG/NAME/CONFIG@REVISION. With :SPLIT behind it, that one split is scored;
it is streamed, not downloaded, and nothing can be fitted.
"""

import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Int
from PIL import Image

from ssleval.core import Dataset, DatasetCard, DatasetOptions, Split, datasets
from ssleval.datasets.files.images import decode, fingerprint
from ssleval.datasets.files.places import say
from ssleval.datasets.files.streams import Stream, commit_of, content_of, stream_split
from ssleval.datasets.files.tables import refuse_untrained
from ssleval.errors import ConfigError, DataError


@dataclass(frozen=True, slots=True)
class _Rows:
    """One split as the library holds it, undecoded: rows of ``{"bytes", "path"}``."""

    name: str
    rows: Any
    image_column: str

    def encoded(self, index: int) -> bytes:
        return content_of(self.rows[index][self.image_column], f"{self.name}[{index}]")

    def __call__(self, index: int) -> Image.Image:
        return decode(self.encoded(index), f"{self.name}[{index}]")


@datasets.register("hf")
def hf(location: str, options: DatasetOptions) -> Dataset:
    """Open a dataset of the hub or a local one: parquet, image folders, or saved by the library."""
    name = f"hf:{location}"
    if not location:
        raise ConfigError("hf: needs a name; write hf:ORG/NAME@REVISION or hf:DIRECTORY")
    base, colon, split = location.rpartition(":")
    if colon and not Path(location).expanduser().exists():
        return _streamed(base, split, name, options)
    loaded: dict[str, Any] = _load(location, name)
    splits = _labelled(
        name, {{"validation": "val"}.get(split, split): rows for split, rows in loaded.items()}
    )
    if not any(_kinds(rows.features) for rows in splits.values()):
        return _unlabelled(name, location, splits, options)
    if "train" not in splits or not {"test", "val"} & set(splits):
        raise DataError(
            f"{name}: needs a train split and a test or validation one, found {', '.join(loaded)}"
        )
    features = splits["train"].features
    differing = [split for split, rows in splits.items() if rows.features != features]
    if differing:
        raise DataError(f"{name}: other columns in {', '.join(differing)} than in train")
    image, label = _columns(name, features)
    lengths = {split: len(rows) for split, rows in splits.items()}
    scored = "test" if "test" in splits else "val"

    def open_split(split: str) -> Split:
        names = {"train", split}
        refuse_untrained(name, {one: _labels(f"{name}/{one}", splits[one], label) for one in names})
        return _split(f"{name}/{split}", splits[split], image, label, full_hash=options.full_hash)

    return Dataset(_card(name, location, splits["train"], lengths, scored, label), open_split)


def _unlabelled(name: str, location: str, splits: Mapping[str, Any], options: DatasetOptions) -> Dataset:
    first = next(iter(splits))
    say(f"{name}: no ClassLabel column among {', '.join(splits[first].features)}; images without labels")
    columns = {split: _image_column(name, rows.features) for split, rows in splits.items()}
    lengths = {split: len(rows) for split, rows in splits.items()}

    def open_split(split: str) -> Split:
        own = f"{name}/{split}"
        return _split(own, splits[split], columns[split], None, full_hash=options.full_hash)

    return Dataset(_card(name, location, splits[first], lengths, first), open_split)


def _streamed(location: str, split: str, name: str, options: DatasetOptions) -> Dataset:
    rows = _load(location, name, split=split, streaming=True)
    if rows.features is None:
        raise DataError(f"{name}: its files state no columns; leave out :{split}, which downloads the set")
    image, label = _columns(name, rows.features)
    import datasets as hub

    undecoded = rows.select_columns([image, label]).cast_column(image, hub.Image(decode=False))
    commit = None if Path(location).expanduser().is_dir() else commit_of(location.partition("@")[2])
    subject = None if commit is None else ("hf", location, split)
    scored = {"validation": "val"}.get(split, split)
    opened = stream_split(Stream(name, undecoded, image), label, subject, options)
    return Dataset(_card(name, location, rows, {scored: len(opened)}, scored, label), lambda _: opened)


def _card(
    name: str, location: str, rows: Any, lengths: Mapping[str, int], scored: str, label: str = ""
) -> DatasetCard:
    """Return the card of a set, of which ``rows`` are a split; without ``label`` it has none."""
    return DatasetCard(
        name,
        "label" if label else "none",
        tuple(rows.features[label].names) if label else (),
        lengths=lengths,
        test_split=scored,
        license=rows.info.license or "",
        source=location if Path(location).expanduser().is_dir() else f"huggingface.co/datasets/{location}",
    )


def _labelled(name: str, splits: dict[str, Any]) -> dict[str, Any]:
    """Return the splits without a test split that was published without labels: -1 or none at all."""
    if not {"test", "val"} <= set(splits):
        return splits
    kinds = _kinds(splits["test"].features)
    known = [label for column in kinds for label in splits["test"].with_format(None)[column][:]]
    if len(kinds) != 1 or not known or not all(label is None or label == -1 for label in known):
        return splits
    say(f"{name}: its test split has no labels; val is scored in its place")
    return {split: rows for split, rows in splits.items() if split != "test"}


def _kinds(features: Any) -> list[str]:
    import datasets as hub

    return [column for column, kind in features.items() if isinstance(kind, hub.ClassLabel)]


def _load(location: str, name: str, **streamed: Any) -> Any:
    """Return the splits by name, or with ``split`` and ``streaming`` the rows of that one."""
    try:
        import datasets as hub
        from datasets.exceptions import DatasetsError
    except ModuleNotFoundError as error:
        raise ConfigError(f"{name}: needs the datasets library; pip install 'ssleval[hf]'") from error
    if not sys.stderr.isatty():
        hub.disable_progress_bars()
    folder = Path(location).expanduser()
    try:
        if (folder / "dataset_dict.json").is_file() and not streamed:
            loaded = hub.load_from_disk(str(folder))
        elif folder.is_dir():
            loaded = hub.load_dataset(str(folder), **streamed)
        else:
            loaded = _load_from_hub(hub, location, name, streamed)
    except (OSError, ValueError, DatasetsError) as error:
        raise DataError(f"{name}: cannot be loaded: {' '.join(str(error).split())}") from error
    if streamed:
        return loaded
    if not isinstance(loaded, dict):
        raise DataError(f"{name}: holds one split, needs train and test; save them as a DatasetDict")
    return dict(loaded)


def _load_from_hub(hub: Any, location: str, name: str, streamed: Mapping[str, Any]) -> Any:
    path, _, revision = location.partition("@")
    if not revision:
        raise ConfigError(f"{name}: names no folder here and no revision of the hub; write {name}@COMMIT")
    parts = path.split("/")
    return hub.load_dataset("/".join(parts[:2]), "/".join(parts[2:]) or None, revision=revision, **streamed)


def _columns(name: str, features: Any) -> tuple[str, str]:
    return _image_column(name, features), _only(name, "ClassLabel", _kinds(features), features)


def _image_column(name: str, features: Any) -> str:
    import datasets as hub

    images = [column for column, kind in features.items() if isinstance(kind, hub.Image)]
    return _only(name, "Image", images, features)


def _only(name: str, kind: str, columns: Sequence[str], features: Any) -> str:
    if len(columns) != 1:
        shown = ", ".join(columns) or f"none among {', '.join(features)}"
        raise DataError(f"{name}: needs exactly one {kind} column, found {shown}; select or cast columns")
    return columns[0]


def _split(name: str, rows: Any, image: str, label: str | None, *, full_hash: bool) -> Split:
    import datasets as hub

    undecoded = _Rows(name, rows.select_columns([image]).cast_column(image, hub.Image(decode=False)), image)
    targets = None if label is None else _labels(name, rows, label)
    labels = np.zeros(len(rows), np.int64) if targets is None else targets
    mark = fingerprint(_lines(undecoded, labels, full_hash=full_hash))
    return Split([f"{index:06d}" for index in range(len(rows))], undecoded, targets, mark)


def _labels(name: str, rows: Any, label: str) -> Int[np.ndarray, " n"]:
    stated = rows.with_format(None)[label][:]
    unlabelled = [row for row, one in enumerate(stated) if one is None or one < 0]
    if unlabelled:
        raise DataError(
            f"{name}: {len(unlabelled)} of {len(stated)} rows have no label, such as row {unlabelled[0]}; "
            "leave them out"
        )
    return np.asarray(stated, dtype=np.int64)


def _lines(undecoded: _Rows, targets: Int[np.ndarray, " n"], *, full_hash: bool) -> Iterator[list[str | int]]:
    import pyarrow.compute

    compute = cast(Any, pyarrow.compute)
    # Arrow knows the lengths of its cells without reading their content.
    cells = compute.struct_field(undecoded.rows.data.column(undecoded.image_column), "bytes")
    sizes = compute.binary_length(cells).to_pylist()
    for index, (size, target) in enumerate(zip(sizes, targets.tolist(), strict=True)):
        length = len(undecoded.encoded(index)) if size is None else size
        content = [hashlib.sha256(undecoded.encoded(index)).hexdigest()] if full_hash else []
        yield [index, length, *content, target]
