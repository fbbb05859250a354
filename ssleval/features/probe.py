"""Whether stored features are those that the model gives: a few images of every pass are shown to it again.

A key holds what can be named: weights, card, code, attributes. Whatever else decides features (a file that
the code reads, a library, chance, the other images of a batch) shows in what the model returns. So before
features are used, and after they are extracted, some of their images go through the model once more, in
batches of other sizes and in another order, and must come out as they are stored. The stored features are
the record, so that this holds for those of every version.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ssleval.core import Context, Readout
from ssleval.core.backbone import Backbone
from ssleval.errors import ContractError, DataError
from ssleval.features.decode import Decoder, KeptImages
from ssleval.features.extract import forward
from ssleval.features.memorypass import AnyPass
from ssleval.features.passes import Pass
from ssleval.features.store import Column

IMAGES = 4
"""Images of a pass that are shown again: the first, the last, and others at equal distances."""

TOLERANCES: Mapping[str, float] = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 1e-1}
"""Greatest length of the difference of two vectors of one image, by the length of the longer, at a precision.

Several times what batches, threads, processors and GPUs differ by; docs/feature-store.md has the figures.
"""

EQUAL = 1e-6
"""Difference, by the length, below which vectors of different images count as the same."""

_CHANGED = {
    False: "the model, its code or that image is another now, under the same key; --force extracts anew",
    True: "the model changed while its features were extracted; it must be frozen",
}


def probe(
    backbone: Backbone, pass_: Pass, stored: AnyPass, context: Context, shown: KeptImages, *, anew: bool
) -> None:
    """Refuse stored features of a pass that are not those of the model, or tell no image from another.

    ``shown`` keeps the images for other models that see them. ``anew`` says that this process has just
    extracted the features, for the message.

    Raises:
        ContractError: the first readout that differs, of which image, by how much, and what to do.
        DataError: one of the images can no longer be decoded.
    """
    rows, columns = _shown(stored), pass_.columns(backbone)
    images = _decoded(pass_, rows, shown, context)
    for batch in _batches(len(images), pass_):
        values = forward(backbone, torch.cat([images[index] for index in batch]), pass_.readouts, context)
        for readout, column in columns.items():
            kept = stored.array(column)[[rows[index] for index in batch]]
            errors = difference(values[readout].to(getattr(torch, column.dtype)).cpu().numpy(), kept)
            # Written so that NaN counts as a difference.
            wrong = np.flatnonzero(~(errors <= TOLERANCES[context.precision]))
            if len(wrong):
                why = _cause(backbone, images, pass_, context, readout) or _CHANGED[anew]
                name = pass_.split.ids[rows[batch[wrong[0]]]]
                raise ContractError(
                    f"{backbone.card.name} on {pass_.label}: {column.name} of {name} differs by "
                    f"{errors[wrong[0]]:.1%} from what is stored: {why}"
                )
    for column in columns.values():
        _refuse_constant(backbone, pass_, stored, column, images)


def _refuse_constant(
    backbone: Backbone, pass_: Pass, stored: AnyPass, column: Column, images: Sequence[Tensor]
) -> None:
    """Refuse features that are the same for all images, unless ``images`` are the same too."""
    data, rows = stored.array(column), np.flatnonzero(stored.valid())
    if all(torch.equal(images[0], image) for image in images[1:]):
        return
    parts = (rows[start : start + 8] for start in range(0, len(rows), 8))
    if any((difference(data[part], data[rows[:1]]) > EQUAL).any() for part in parts):
        return
    same = "the same" if data[rows[0]].any() else "zero"
    raise ContractError(
        f"{backbone.card.name} on {pass_.label}: {column.name} is {same} for all {len(rows)} images; "
        "a score would be chance: check the weights and the code of the model"
    )


def difference(
    first: Float[np.ndarray, "n ..."], second: Float[np.ndarray, "m ..."]
) -> Float[np.ndarray, " n"]:
    """Return the length of the difference of every row, by the longer of the two; ``m`` is ``n`` or 1."""
    one, two = (array.reshape(len(array), -1).astype(np.float64) for array in (first, second))
    lengths = np.maximum(np.linalg.norm(one, axis=1), np.linalg.norm(two, axis=1))
    return np.linalg.norm(one - two, axis=1) / np.where(lengths == 0, 1, lengths)


def _shown(stored: AnyPass) -> list[int]:
    rows = np.flatnonzero(stored.valid())
    places = np.unique(np.linspace(0, max(0, len(rows) - 1), min(IMAGES, len(rows))).round().astype(int))
    return rows[places].tolist()


def _decoded(
    pass_: Pass, rows: Sequence[int], shown: KeptImages, context: Context
) -> list[UInt8[Tensor, "1 H W 3"]]:
    images: list[Tensor] = []
    decoder = Decoder(pass_.split, pass_.geometry, 1)
    # Processes take longer to start than so few images to decode.
    for row, decoded in zip(rows, shown.batches(decoder, rows, replace(context, num_workers=0)), strict=True):
        if decoded.images is None:
            raise DataError(f"{decoded.corrupt[row]}; it could be decoded when its features were stored")
        images.append(decoded.images)
    return images


def _batches(count: int, pass_: Pass) -> list[list[int]]:
    """Return one image alone and the others in reverse, so that neither batch is one of the pass."""
    indices = list(range(count))
    if pass_.geometry.fixed_size is None:
        return [[index] for index in indices]
    return [part for part in (indices[:1], indices[:0:-1]) if part]


def _cause(
    backbone: Backbone, images: Sequence[Tensor], pass_: Pass, context: Context, readout: Readout
) -> str:
    """Return what is wrong with the model itself, or '' where it gives every image the same features."""

    def last(*batch: Tensor) -> Float[np.ndarray, "1 ..."]:
        return forward(backbone, torch.cat(batch), (readout,), context)[readout][-1:].float().cpu().numpy()

    for image in images:
        alone = last(image)
        if not difference(alone, last(image)) <= TOLERANCES[context.precision]:
            return "the model gives an image other features each time; take what is random out of it"
        if pass_.geometry.fixed_size is None:
            continue
        if not difference(alone, last(*images, image)) <= TOLERANCES[context.precision]:
            return "the model gives an image other features, or another row, in another batch; mend its code"
    return ""
