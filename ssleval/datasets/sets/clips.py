"""clips:PATH, videos of actions: train/CLASS/CLIP and val/ or test/, each clip a file or a folder of frames.

Files are decoded by PyAV (`pip install ssleval[video]`); folders hold frames, sorted by name. Classes are
numbered by folder name. The scored split is test/ if it exists, else val/. UCF101, Kinetics-400 and
Something-Something v2 need a folder of links by class.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ssleval.core import Dataset, DatasetCard, DatasetOptions, Split, datasets, digest
from ssleval.core.clips import frame_at
from ssleval.datasets.files.images import (
    EXTENSIONS,
    class_folders,
    decode,
    file_rows,
    fingerprint,
    is_stray,
    refuse_other_classes,
    split_folders,
)
from ssleval.datasets.files.places import located
from ssleval.errors import ConfigError, DataError

VIDEOS = (".mp4", ".avi", ".mkv", ".webm", ".mov", ".mpg", ".mpeg")
"""File name extensions of videos."""
_MOST_FRAMES = 200_000
"""Of a video: an hour at 50 a second."""


@datasets.register("clips")
def clips(location: str, options: DatasetOptions) -> Dataset:
    """Open a folder of class folders of clips."""
    root = located("clips", location)
    splits = split_folders(root, "clips:")
    names = class_folders(root / "train")
    refuse_other_classes("clips", root, splits, names)
    listed = {split: _listed(root / split, names) for split in splits}

    def open_split(split: str) -> Split:
        found, labels = listed[split]
        rows = file_rows(
            root / split, chain.from_iterable(files for _, files in found), full_hash=options.full_hash
        )
        mark = digest([fingerprint(rows), [len(files) for _, files in found], labels])
        ids = [name for name, _ in found]
        return Split(ids, ClipFiles(root / split, [files for _, files in found]), np.array(labels), mark)

    lengths = {split: len(found) for split, (found, _) in listed.items()}
    card = DatasetCard(
        f"clips:{location}", "clips", names, lengths=lengths, test_split=splits[-1], source=str(root)
    )
    return Dataset(card, open_split)


@dataclass(frozen=True, slots=True)
class ClipFiles:
    """Decodes the middle frame of clip i, or others; can be pickled."""

    root: Path
    files: Sequence[Sequence[str]]
    """Of every clip: its frames, or one video."""

    @property
    def file(self) -> Callable[[int], str] | None:
        """Return the path of the file of clip i, where each clip is one file."""
        return self._file if all(len(files) == 1 for files in self.files) else None

    def _file(self, index: int) -> str:
        return str(self.root / self.files[index][0])

    def __call__(self, index: int) -> Image.Image:
        """Decode the middle frame of clip ``index`` to RGB."""
        return self.frame(index, 0, 1)

    def frame(self, index: int, place: int, count: int) -> Image.Image:
        """Decode the middle frame of one of ``count`` equal parts of clip ``index`` to RGB."""
        files = self.files[index]
        if len(files) == 1 and files[0].lower().endswith(VIDEOS):
            return _decoded(str(self.root / files[0]), count)[place]
        path = self.root / files[frame_at(place, count, len(files))]
        return decode(path, str(path))


def _listed(root: Path, names: Sequence[str]) -> tuple[list[tuple[str, list[str]]], list[int]]:
    """Return every clip of a split with its files, and the labels."""
    found: list[tuple[str, list[str]]] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        with os.scandir(root / name) as entries:
            inside = sorted(
                (entry for entry in entries if not is_stray(entry.name)), key=lambda one: one.name
            )
        if not inside:
            raise DataError(f"{root / name}: no clips in this class; add some or remove the folder")
        found += [(f"{name}/{entry.name}", _files(entry, f"{name}/{entry.name}")) for entry in inside]
        labels += [label] * len(inside)
    return found, labels


def _files(entry: os.DirEntry[str], name: str) -> list[str]:
    if not entry.is_dir():
        if entry.name.lower().endswith(VIDEOS):
            return [name]
        raise DataError(
            f"{entry.path}: neither a video ({' '.join(VIDEOS)}) nor a folder of frames; remove it"
        )
    inside = sorted(one for one in os.listdir(entry.path) if not is_stray(one))  # noqa: PTH208
    if other := [one for one in inside if not one.lower().endswith(EXTENSIONS)]:
        raise DataError(f"{entry.path}/{other[0]}: not an image; a folder of a clip holds its frames alone")
    if not inside:
        raise DataError(f"{entry.path}: a clip without frames; remove the folder")
    return [f"{name}/{one}" for one in inside]


@lru_cache(maxsize=2)
def _decoded(path: str, count: int) -> list[Image.Image]:
    """Return ``count`` frames of a video, from the middles of as many equal parts; they are not turned.

    It is decoded twice: containers state wrong numbers of frames, and packets may hold none that is shown.

    Raises:
        ConfigError: PyAV is not installed.
        DataError: the file cannot be decoded.
    """
    try:
        # Only where there are videos: the library is optional.
        av: Any = import_module("av")
    except ImportError as error:
        raise ConfigError(f"{path}: a video needs PyAV; `pip install ssleval[video]`") from error
    try:
        length = sum(1 for _ in _frames(av, path))
        wanted = [frame_at(place, count, length) for place in range(count)]
        kept: dict[int, Image.Image] = {}
        for number, frame in enumerate(islice(_frames(av, path), wanted[-1] + 1)):
            if number in wanted:
                kept[number] = frame.to_image().convert("RGB")
    except (av.FFmpegError, OSError, IndexError, ValueError) as error:
        raise DataError(f"{path}: cannot be decoded ({error}); replace or remove it") from error
    if not length or not set(wanted) <= kept.keys():
        raise DataError(f"{path}: {len(kept)} of {count} frames can be decoded; replace or remove it")
    return [kept[number] for number in wanted]


def _frames(av: Any, path: str) -> Iterator[Any]:
    """Yield the frames that are shown; DataError: more or larger ones than are decoded."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        _refuse_large(path, stream.codec_context.width, stream.codec_context.height)
        for number, frame in enumerate(container.decode(stream)):
            if number == _MOST_FRAMES:
                raise DataError(f"{path}: more than {_MOST_FRAMES:,} frames; cut it into clips")
            _refuse_large(path, frame.width, frame.height)
            yield frame


def _refuse_large(path: str, width: int, height: int) -> None:
    most = Image.MAX_IMAGE_PIXELS or 0
    if most and width * height > most:
        raise DataError(f"{path}: frames of {width}x{height} pixels; at most {most:,} are decoded")
