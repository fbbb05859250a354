"""Features as arrays, with what their rows are: for own analyses, and for tools that take vectors."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Shaped

from ssleval.backbones.zoo import load
from ssleval.core import Context, DatasetOptions, FeatureRequest, Readout
from ssleval.core.backbone import Backbone
from ssleval.core.files import write_atomically
from ssleval.datasets.catalog import open_dataset
from ssleval.errors import ConfigError
from ssleval.features import FeatureSource, local_device

if TYPE_CHECKING:
    import pyarrow as pa

_READOUT = re.compile(
    r"pooled|(?P<kind>cls|mean|gem|patches)(\[(quarter (?P<quarter>[1-4])|(?P<block>-?\d{1,4}))\])?"
    r"(?P<unnormed>:unnormed)?"
)
SUFFIXES = (".npz", ".parquet")


@dataclass(frozen=True, slots=True)
class Features:
    """Features of one split, row for row with its ids."""

    ids: Sequence[str]
    labels: Shaped[np.ndarray, "n ..."] | None
    """Classes ``[n]``, or multi-labels ``[n c]``; None where targets are dense."""
    class_names: Sequence[str]
    arrays: Mapping[str, Float[np.ndarray, "n ..."]]
    """By name of the readout; memory-mapped and read-only."""

    def __getitem__(self, readout: str) -> Float[np.ndarray, "n ..."]:
        """Return the array of one readout."""
        return self.arrays[readout]

    def save(self, path: Path | str) -> None:
        """Write ``path`` by its suffix: ``.npz`` for numpy, ``.parquet`` for tables.

        Both hold ``ids``, ``labels`` and an array for each readout. A cell of Parquet is a vector: grids are
        flattened, and ``shapes`` in the metadata tells their axes. ``class_names`` are an array of the
        one, and metadata of the other.

        Raises:
            ConfigError: another suffix.
            OSError: the file cannot be written; what was there before still is.
        """
        path = Path(path)
        refuse_suffix(path)
        write_atomically(path, self._write_npz if path.suffix == ".npz" else self._write_parquet)

    def _write_npz(self, draft: Path) -> None:
        parts: dict[str, Any] = {"ids": np.array(self.ids, dtype=np.str_), **self.arrays}
        parts["class_names"] = np.array(self.class_names, dtype=np.str_)
        if self.labels is not None:
            parts["labels"] = self.labels
        with draft.open("wb") as file:
            np.savez(file, **parts)

    def _write_parquet(self, draft: Path) -> None:
        import json

        import pyarrow as pa
        import pyarrow.parquet as pq

        columns: dict[str, pa.Array] = {"ids": pa.array(list(self.ids), pa.string())}
        if self.labels is not None:
            columns["labels"] = pa.array(self.labels) if self.labels.ndim == 1 else _vectors(self.labels)
        columns |= {name: _vectors(array) for name, array in self.arrays.items()}
        shapes = {name: array.shape[1:] for name, array in self.arrays.items()}
        said = {"class_names": json.dumps(list(self.class_names)), "shapes": json.dumps(shapes)}
        pq.write_table(pa.table(columns).replace_schema_metadata(said), draft)


def extract_features(
    model: str | Backbone,
    dataset: str = "scenes",
    split: str = "test",
    readouts: Sequence[str | Readout] = ("pooled",),
    *,
    checkpoint: Path | str | None = None,
    key: str = "teacher",
    card: Mapping[str, Any] | None = None,
    limit: int | None = None,
    options: DatasetOptions | None = None,
    context: Context | None = None,
) -> Features:
    """Return the features of one split; they are extracted where the feature store lacks them.

    Images are prepared as the model's card says.

    Args:
        model: a name (zoo alias, ``source:identifier``, ``random:NAME``) or a constructed backbone.
        dataset: a registered name or ``source:location``.
        split: name of the split.
        readouts: what to keep of a forward pass: ``pooled``, ``cls[-1]``, ``mean[-1]``, ``gem[-1]`` or
            ``patches[-1]``, with any block in place of the last, and ``:unnormed`` for features before the
            final norm.
        checkpoint: local weights for the named architecture.
        key: which network of the checkpoint.
        card: how images are prepared, as `ssleval.load` takes it.
        limit: keep this many images of the split.
        options: where data lies and how it is fingerprinted.
        context: device, precision, batch size and the like.

    Raises:
        SslevalError: anything the caller can mend; the message says what and how.
    """
    context = context or Context()
    context = replace(context, device=local_device(context.device))
    wanted = tuple(parse_readout(one) if isinstance(one, str) else one for one in readouts)
    if not wanted:
        raise ConfigError("no readouts; pooled is the model's own descriptor")
    opened = open_dataset(dataset, options or DatasetOptions()).limited(limit)
    if isinstance(model, str):
        model = load(
            model, checkpoint=checkpoint, key=key, card=card, seed=context.seed, device=context.device
        )
    source = FeatureSource(model, context)
    request = FeatureRequest(opened, split, None, wanted)
    source.prepare([request])
    table = source.load(request)
    arrays = {str(readout): table[readout] for readout in wanted}
    return Features(table.ids, table.targets, opened.card.class_names, arrays)


def refuse_suffix(path: Path) -> None:
    """Refuse a file that `Features.save` could not write, before hours of extraction; ConfigError."""
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path}: features are written as {' or '.join(SUFFIXES)}; choose such a name")


def parse_readout(text: str) -> Readout:
    """Return the readout that a text names; ConfigError: it names none."""
    match = _READOUT.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"no readout {text!r}; known: pooled, cls[-1], mean[-1], gem[-1], patches[-1], another block in "
            "place of -1, and :unnormed at the end"
        )
    if match["kind"] is None:
        return Readout("pooled")
    block, quarter = int(match["block"] or -1), int(match["quarter"] or 0)
    return Readout(match["kind"], block, match["unnormed"] is None, quarter)  # pyright: ignore[reportArgumentType]


def _vectors(array: Shaped[np.ndarray, "n ..."]) -> "pa.FixedSizeListArray":
    import pyarrow as pa

    flat = np.ascontiguousarray(array.reshape(len(array), -1))
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1])
