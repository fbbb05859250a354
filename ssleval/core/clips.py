"""Clips: splits whose items are videos, and the frames of theirs that a model sees."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from ssleval.core.vocabulary import Dataset, Split, digest
from ssleval.errors import ContractError


def frame_at(place: int, count: int, length: int) -> int:
    """Return the middle frame of part ``place`` of ``count`` equal parts of a clip of ``length`` frames."""
    return (2 * place + 1) * length // (2 * count)


def frames_of(dataset: Dataset, count: int) -> Dataset:
    """Return the set of ``count`` frames of every clip, in order, clip by clip; without targets.

    Frames are in the middle of as many equal parts of the clip. The images of a split of clips have a method
    ``frame``, which takes clip, part and number of parts.
    """
    lengths = {name: length * count for name, length in dataset.card.lengths.items()}
    card = replace(dataset.card, target="none", lengths=lengths)
    pictures = dataset.pictures and f"{dataset.pictures}/{count} frames"

    def opened(name: str) -> Split:
        clips = dataset.split(name)
        frame: Any = getattr(clips.image, "frame", None)
        if frame is None:
            raise ContractError(f"{card.name}: opened clips without frames, which its card promises")
        return Split(
            ids=[f"{clip}/{place}" for clip in clips.ids for place in range(count)],
            image=_Frames(frame, count),
            targets=None,
            fingerprint=digest([clips.fingerprint, count]),
            pictures=clips.pictures and digest([clips.pictures, count]),
            refuse_changed=clips.refuse_changed,
        )

    return Dataset(card, opened, pictures=pictures)


@dataclass(frozen=True, slots=True)
class _Frames:
    """Decodes frame i of all, ``count`` a clip; can be pickled."""

    frame: Callable[[int, int, int], Image.Image]
    count: int

    def __call__(self, index: int) -> Image.Image:
        return self.frame(*divmod(index, self.count), self.count)
