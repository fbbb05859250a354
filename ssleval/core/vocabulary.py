"""The vocabulary of ssleval, first part. Read this file, then `backbone.py`, then `task.py`.

A *backbone* turns images into `Features`. A *task* turns features and targets into `Samples`, one
row per test item. A *metric* is a statistic of samples. A *result* is a score with everything
needed to trust it. This part holds what describes models, data and scores and imports no torch, so
that listing commands and result readers stay light.

Axis letters used everywhere: ``b`` images, ``H W`` pixels, ``h w`` patch grid, ``d`` channels of a
patch, ``p`` channels of the pooled vector, ``r`` rows of weights, ``n m`` samples, ``c`` classes.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float, Int, Shaped
from msgspec import Meta
from PIL import Image

from ssleval.core.cachefolder import default_cache
from ssleval.core.registry import Registry, suggestion
from ssleval.core.settings import Fraction, Natural, NonNegative, Seed, Side, Width, check
from ssleval.errors import ConfigError, ContractError, DataError, UnknownNameError

Interpolation: TypeAlias = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Precision: TypeAlias = Literal["fp32", "bf16", "fp16"]
Pixels: TypeAlias = Literal["exact", "fast"]
"""How images are decoded and resized: by PIL to the bit, or by torchvision, up to two grey levels off."""


def digest(content: Any) -> str:
    """Return the sha256 of ``content`` as canonical JSON: equal content, equal digest."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


# Images to tensors --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Geometry:
    """How a decoded image becomes a tensor. Pinned by a protocol, never by a library's default.

    Resizing is PIL's (antialiased, on 8-bit RGB), as in the official DINO and DINOv2 code.
    """

    resize: int | None
    """Pixels of the side named by ``mode``; None leaves the image as it is."""
    mode: Literal["short", "long", "square"] = "short"
    """Which side gets ``resize`` pixels; ``square`` squashes both."""
    crop: int | None = None
    """Side of the central square kept; smaller images are padded with black, as torchvision does."""
    interpolation: Interpolation = "bicubic"
    flip: bool = False
    """Mirrored left to right, last of all."""
    multiple: int | Literal["patch"] = 1
    """Both resized sides are rounded to a multiple of so many pixels, or of the model's patch size, where
    images keep their aspect."""
    crop_start: Literal["even", "down"] = "even"
    """How half a pixel is rounded where the crop begins: as in torchvision, or as in transformers."""
    pixels: Pixels = "exact"
    """As `Context.pixels` says, whatever a task asks for."""

    def __post_init__(self) -> None:
        """Refuse to round the sides of a square: its size is pinned."""
        if self.multiple != 1 and (self.fixed_size is not None or self.multiple == 0):
            raise ConfigError(f"{self}: only sides that vary with the image are rounded to a multiple")

    @property
    def fixed_size(self) -> int | None:
        """Side of the square every image ends up as, or None where sizes vary with the image."""
        return self.crop or (self.resize if self.mode == "square" else None)

    def on_grid(self, patch_size: int) -> "Geometry":
        """Return the same geometry with the pixels of a patch in place of the word."""
        return replace(self, multiple=patch_size) if self.multiple == "patch" else self

    def recorded(self) -> dict[str, Any]:
        """Return the fields for keys; those that came later only where they are not the default."""
        return _without_defaults(asdict(self), crop_start="even", pixels="exact")


@dataclass(frozen=True, slots=True)
class RandomView:
    """One augmented view of every image, in place of a `Geometry`: a random resized crop, then a flip.

    What is drawn depends on ``index``, ``seed`` and the image's id alone, so that a view is the same
    whatever else is extracted, in which order, and on how many machines.

    Source:
        torchvision's RandomResizedCrop and RandomHorizontalFlip, as in DINO's and DINOv2's linear probes.
    """

    index: int
    """Which of several views."""
    size: int = 224
    """Side of the square every image ends up as."""
    interpolation: Interpolation = "bicubic"
    seed: int = 0
    scale: tuple[float, float] = (0.08, 1.0)
    """Smallest and largest part of the image's area that a crop may have."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Smallest and largest width per height of a crop."""
    flip: float = 0.5
    """Probability of a mirror image."""
    pixels: Pixels = "exact"
    """As `Context.pixels` says."""
    drawn: Literal["torchvision", "tensorflow"] = "torchvision"
    """Crops that leave the image are drawn again, ten times, or cut to it, as in MAE's linear probe."""

    @property
    def fixed_size(self) -> int:
        """Side of the square every image ends up as."""
        return self.size

    def recorded(self) -> dict[str, Any]:
        """Return the fields for keys."""
        return _without_defaults(asdict(self), pixels="exact", drawn="torchvision")


def _without_defaults(fields: dict[str, Any], **defaults: str) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in defaults or value != defaults[name]}


@dataclass(frozen=True, slots=True)
class Readout:
    """What is kept of a forward pass; its text form, such as ``cls[-1]``, names it everywhere."""

    kind: Literal["pooled", "cls", "mean", "gem", "patches"]
    """The model's own descriptor; a block's class token; the mean of its patch tokens; their
    generalised mean (power 4, values clamped at 1e-6); the patch grid itself."""
    block: int = -1
    """Block index, negative from the end. ``pooled`` has none."""
    norm: bool = True
    """Whether the model's final norm is applied to the block's output (DINOv2's depth heads: no)."""
    quarter: int = 0
    """1 to 4: the block that ends this quarter of the model, whatever its depth, in place of ``block``."""
    twelfth: int = 0
    """1 to 12: the same of twelfths; of a model with fewer blocks, the block in which the twelfth ends."""

    def __str__(self) -> str:
        """Return the canonical name."""
        if self.kind == "pooled":
            return "pooled"
        block = f"quarter {self.quarter}" if self.quarter else str(self.block)
        block = f"twelfth {self.twelfth}" if self.twelfth else block
        return f"{self.kind}[{block}]{'' if self.norm else ':unnormed'}"


# Models -------------------------------------------------------------------------------------------

_Deviation: TypeAlias = Annotated[float, Meta(gt=0, le=2)]


@dataclass(frozen=True, slots=True)
class BackboneCard:
    """One entry of ``model_zoo.yaml``: everything a result must say about its model."""

    name: str
    loader: str
    """Which module of ``ssleval.backbones`` builds it."""
    arch: str
    """The loader's own name of the architecture."""
    embed_dim: Width
    """Channels of a patch token of the last block."""
    patch_size: Side
    """Pixels of input per step of the last block's patch grid (32 for a ResNet-50)."""
    pooled_dim: Annotated[int, Meta(ge=0, le=1 << 20)] = 0
    """Channels of ``pooled``; 0 means ``embed_dim``."""
    image_size: Side = 224
    """Side of the square the model was made for; ``Geometry`` of protocols that say `native`."""
    resize: Annotated[int, Meta(ge=0, le=16_384)] = 0
    """Pixels of the resized side before the central crop to ``image_size``; 0 means no crop."""
    resize_mode: Literal["short", "square"] = "short"
    crop_start: Literal["even", "down"] = "even"
    """As in `Geometry`."""
    interpolation: Interpolation = "bicubic"
    mean: tuple[Fraction, Fraction, Fraction] = (0.485, 0.456, 0.406)
    """Of RGB in [0, 1], as ``std``; by default ImageNet's."""
    std: tuple[_Deviation, _Deviation, _Deviation] = (0.229, 0.224, 0.225)
    normalisation: Literal["stated", "unknown"] = "stated"
    """``unknown``: nothing states ``mean`` and ``std``; then only untrained networks run."""
    pooling: str = "cls"
    """What ``pooled`` is: cls, mean, map, projection, cls+mean, gap..."""
    position_embedding: str = ""
    """Interpolation off the native resolution (protocols of DINO, DINOv2, timm), where it applies."""
    supervision: Literal["self", "weak", "full", "none", "unknown"] = "self"
    family: str = ""
    weights: Mapping[str, str] = field(default_factory=dict[str, str])
    """Where the weights come from: ``url``, or ``repo`` with ``file`` and ``revision``."""
    sha256: str = ""
    """Hash, or leading digits of it, of the weights *file*, where its publisher gives one."""
    unavailable: str = ""
    """A sentence saying why no stable public source exists; then nothing is ever guessed."""
    gated: bool = False
    license: str = ""
    pretraining_data: str = ""
    seeded_by: tuple[str, ...] = ()
    """Evaluation sets known to have seeded or been part of the pre-training data."""
    parameters: NonNegative = 0.0
    """Millions of parameters of the image tower."""
    source: str = ""
    """Paper and repository."""
    notes: str = ""
    """Where publishers contradict themselves, or evaluate with other settings than this card's."""

    def __post_init__(self) -> None:
        """Refuse values that a field cannot take, whoever made the card."""
        check(self, f"{self.name}: card")
        if 0 < self.resize < self.image_size:
            raise ConfigError(
                f"{self.name}: card.resize={self.resize} is less than image_size={self.image_size}: images "
                "would get black borders; state at least as much, or 0"
            )

    def native_geometry(self) -> Geometry:
        """Return the geometry the model was published with."""
        if self.resize_mode == "square" and not self.resize:
            return Geometry(self.image_size, "square", None, self.interpolation)
        return Geometry(
            self.resize or self.image_size,
            self.resize_mode,
            self.image_size,
            self.interpolation,
            crop_start=self.crop_start,
        )


COMPUTING_FIELDS = (
    "loader", "arch", "embed_dim", "patch_size", "pooled_dim", "image_size", "mean", "std", "pooling",
    "position_embedding",
)  # fmt: skip
"""What a card says about computing; names, licences and prose are left out."""


# Datasets -----------------------------------------------------------------------------------------

IGNORED = 255
"""The value of a mask's pixels that count nowhere, in training and in scores."""


class Sample(NamedTuple):
    """One dataset item."""

    id: str
    image: Image.Image
    """Decoded RGB. Geometry belongs to the protocol, normalisation to the backbone."""
    target: Any
    """Int label, multi-label row, mask, metres: the dataset card says which."""


@dataclass(frozen=True, slots=True)
class Split:
    """Items in a fixed order: two opens of one split agree item by item."""

    ids: Sequence[str]
    """Stable names, unique within the split: relative paths where there are files."""
    image: Callable[[int], Image.Image]
    """Decode item i to RGB. Must survive pickling, for workers.

    Raises DataError naming the file where it cannot be decoded whole.
    """
    targets: Shaped[np.ndarray, "n ..."] | None
    """Labels ``[n]`` int64 or multi-labels ``[n c]`` bool; None where targets are dense."""
    fingerprint: str
    """sha256 over what decides a score: paths, sizes and labels (or full content, on request)."""
    target: Callable[[int], Any] | None = None
    """Load the dense target of item i (mask, depth), where the card says there is one."""
    pictures: str = ""
    """sha256 over the images alone, where sets with different targets share them: features are extracted
    once for all of these. '' where the set has its images for itself."""
    refuse_changed: Callable[[], None] | None = None
    """Raises DataError where files are no longer what the fingerprint says; can be pickled. None where they
    were looked at when the split was opened. Features and results stored before count only after this."""

    @property
    def encoded(self) -> Callable[[int], bytes] | None:
        """Read the file of image i, where ``image`` decodes files and offers this method; else None.

        It belongs to ``image``: whoever gives a split other images takes away their files.
        """
        return getattr(self.image, "encoded", None)

    @property
    def file(self) -> Callable[[int], str] | None:
        """Return the path of the file of image i, where ``image`` decodes one file each and says so."""
        return getattr(self.image, "file", None)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        if self.target is not None:
            target = self.target(index)
        else:
            target = None if self.targets is None else self.targets[index]
        return Sample(self.ids[index], self.image(index), target)

    def subset(self, rows: Int[np.ndarray, " m"]) -> "Split":
        """Return the items at ``rows``, in that order.

        Targets are passed on as they are: one that names rows names those of another split, kept whole.
        """
        return Split(
            ids=[self.ids[int(row)] for row in rows],
            image=_AtRows(self.image, rows),
            targets=None if self.targets is None else self.targets[rows],
            fingerprint=digest([self.fingerprint, rows.tolist()]),
            target=None if self.target is None else _AtRows(self.target, rows),
            pictures=self.pictures and digest([self.pictures, rows.tolist()]),
            refuse_changed=self.refuse_changed,
        )


@dataclass(frozen=True, slots=True)
class _AtRows:
    load: Callable[..., Any]
    rows: Int[np.ndarray, " m"]

    def __call__(self, index: int, *rest: int) -> Any:
        return self.load(int(self.rows[index]), *rest)

    def __getattr__(self, name: str) -> "_AtRows | None":
        if name not in {"encoded", "file", "frame"}:
            raise AttributeError(name)
        load = getattr(self.load, name)
        return None if load is None else _AtRows(load, self.rows)


@dataclass(frozen=True, slots=True)
class DatasetCard:
    """What a result must say about its data."""

    name: str
    target: Literal[
        "label", "multilabel", "open_set", "mask", "instances", "video", "depth", "normals", "pairs", "views",
        "groups", "captions", "boxes", "objects", "clips", "none",
    ] = "label"  # fmt: skip
    """``clips``: a label of an item that has frames (`ssleval.core.clips`). ``open_set``: a label of the
    training split, -1 for what shows none of them."""
    class_names: tuple[str, ...] = ()
    """In label order. Empty where the target has no classes, or where only an opened copy knows them."""
    classes: int = 0
    """Published number of classes of a set whose names are read from the copy; else derived."""
    lengths: Mapping[str, int] = field(default_factory=dict[str, int])
    """Size of every split: published, or found when the folder was opened. Any other is refused."""
    train_split: str = "train"
    """The split that heads are fitted on."""
    test_split: str = "test"
    """The split that is scored."""
    metric: Literal["top1", "mean_per_class", "map"] = "top1"
    """The convention of the field for this set."""
    max_depth: float = 0.0
    """Metres that heads are fitted up to, where the target is depth; pixels beyond count nowhere."""
    graded: bool = False
    """Whether groups tell easy answers from hard ones, as the revisited Oxford set does."""
    exif: bool = False
    """Whether images were turned as their EXIF orientation says; recorded where they were."""
    outputs: tuple[tuple[str, ...], ...] = ()
    """By class, the classes of the set that heads are fitted on which stand for it; () where names say so."""
    domains: tuple[str, ...] = ()
    """Splits that show the same classes in other ways, as photos and sketches; recorded where there are."""
    license: str = ""
    source: str = ""
    """Paper or page, and how to get the files."""

    @property
    def num_classes(self) -> int:
        """Number of classes, 0 where the target has none."""
        return len(self.class_names) or self.classes


@dataclass(frozen=True, slots=True)
class Dataset:
    """A card and a function that opens one split of it."""

    card: DatasetCard
    open: Callable[[str], Split]
    fitted_on: Callable[[], "Dataset"] | None = None
    """Opens the set on whose training split heads are fitted, where this one only tests them; always
    the same object. None: heads are fitted on this set's own training split."""
    pictures: str = ""
    """Sets with the same name here show the same pictures and differ in targets: one pass serves them all."""
    beside: Callable[[str], "Dataset"] | None = None
    """Opens another set by its name, as this one was opened; equal names, the same object."""
    _opened: dict[str, Split] = field(default_factory=dict[str, Split], init=False, repr=False, compare=False)

    def split(self, name: str) -> Split:
        """Return a split, opened when first asked for; refuse one that breaks the promises of the card."""
        if name not in self._opened:
            self._refuse_unknown(name)
            self._opened[name] = self._checked(name)
        return self._opened[name]

    def _refuse_unknown(self, split: str) -> None:
        if split not in self.card.lengths:
            known = suggestion(split, self.card.lengths)
            raise UnknownNameError(f"{self.card.name}: no split {split!r}; {known}")

    def _checked(self, name: str) -> Split:
        card, split = self.card, self.open(name)
        if len(split) != card.lengths[name]:
            raise DataError(
                f"{card.name}/{name}: {len(split)} items, expected {card.lengths[name]}; "
                "the copy is incomplete or not the published one"
            )
        if card.target in {"label", "clips"} and split.targets is not None and len(split):
            low, high = int(split.targets.min()), int(split.targets.max())
            if low < 0 or high >= card.num_classes:
                raise DataError(f"{card.name}/{name}: labels {low}..{high} for {card.num_classes} classes")
        return split

    def evaluated_on(self, split: str) -> "Dataset":
        """Return the same data with another split as the one that is scored."""
        self._refuse_unknown(split)
        return replace(self, card=replace(self.card, test_split=split))

    def limited(self, limit: int | None) -> "Dataset":
        """Return the first ``limit`` items, in a fixed shuffled order, of every split; None keeps all.

        Folders come sorted by class, so the first files alone would hold one class. Of groups and open sets
        only the queries are limited: their answers are in the gallery, and a whitening needs many images.
        """
        if limit is None:
            return self
        if limit < 1:
            raise ConfigError(f"limit is {limit}; it must be at least 1")
        card = self.card
        looked_up = card.target in {"groups", "open_set"}
        whole = {card.train_split, "whitening"} if looked_up else set[str]()
        if card.test_split in whole:
            raise ConfigError(f"{card.name}: its images are each other's answers; run it without a limit")
        lengths = {
            name: length if name in whole else min(length, limit) for name, length in card.lengths.items()
        }
        opened, beside = self.fitted_on, self.beside

        def other(name: str) -> Dataset:
            assert beside is not None
            return beside(name).limited(limit)

        return Dataset(
            replace(card, lengths=lengths),
            lambda name: _first(self.split(name), lengths[name]),
            None if opened is None else cache(lambda: opened().limited(limit)),
            self.pictures,
            beside and cache(other),
        )


def _first(split: Split, limit: int) -> Split:
    if len(split) <= limit:
        return split
    return split.subset(np.sort(np.random.default_rng(0).permutation(len(split))[:limit]))


@dataclass(frozen=True, slots=True)
class DatasetOptions:
    """What opening a dataset may need from the caller."""

    data_root: Path = Path("data")
    """Folder that holds one folder for every named dataset."""
    full_hash: bool = False
    """Fingerprint the content of every file, not only its path and size, and use no listing that was kept."""
    download: bool = False
    """Let libraries that can download a set do so."""
    cache: Path = field(default_factory=default_cache)
    """Where sets that are made rather than found are kept, and listings of large sets."""
    exif: bool = False
    """Turn images as their EXIF orientation says, which published protocols ignore."""


DatasetLoader: TypeAlias = Callable[[str, DatasetOptions], Dataset]
"""Turns what stands behind the colon of ``source:location`` ('' for a plain name) into a Dataset."""

datasets: Registry[DatasetLoader] = Registry("dataset", "ssleval.datasets.sets", callable)


# Features, as tasks ask for and get them ----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FeatureRequest:
    """Features a task needs; the runner merges the requests of all tasks into one pass."""

    dataset: Dataset
    split: str
    geometry: Geometry | RandomView | None
    """None means the card's own (``BackboneCard.native_geometry``)."""
    readouts: tuple[Readout, ...]
    """Empty where the task runs the model itself: then the request only says which data decide the score."""


@dataclass(frozen=True, slots=True)
class FeatureTable:
    """Features of one split, row for row with its ids; arrays are memory-mapped, read-only."""

    ids: Sequence[str]
    targets: Shaped[np.ndarray, "n ..."] | None
    arrays: Mapping[Readout, Float[np.ndarray, "n ..."]]
    rows: Int[np.ndarray, " n"]
    """Index in the split of every row: skipped corrupt images leave gaps."""

    def __getitem__(self, readout: Readout) -> Float[np.ndarray, "n ..."]:
        return self.arrays[readout]


# Scores -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Samples:
    """What a task returns: named arrays with one row per test item (image, query, object)."""

    ids: Sequence[str]
    columns: Mapping[str, Shaped[np.ndarray, "n ..."]]
    cluster: str = ""
    """Column ``[n]`` whose equal values mark rows that were drawn together, such as objects of one clip:
    intervals and tests are then over clusters. '' where each row was drawn by itself."""

    def __post_init__(self) -> None:
        """Refuse arrays of another length than the ids, and a cluster that is no column."""
        if self.cluster and self.cluster not in self.columns:
            raise ContractError(f"samples: cluster {self.cluster!r} is none of {', '.join(self.columns)}")
        for name, column in self.columns.items():
            if len(column) != len(self.ids):
                raise ContractError(f"samples {name!r}: {len(column)} rows for {len(self.ids)} items")

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, name: str) -> Shaped[np.ndarray, "n ..."]:
        return self.columns[name]

    def at(self, rows: Shaped[np.ndarray, " k"]) -> "Samples":
        """Return the samples of some rows, by their places in the order wanted, or by a mask."""
        places = np.arange(len(self))[rows]
        ids = [self.ids[place] for place in places.tolist()]
        return replace(self, ids=ids, columns={name: column[rows] for name, column in self.columns.items()})


Statistic: TypeAlias = Callable[[Samples, Float[np.ndarray, "r n"]], Float[np.ndarray, " r"]]
"""A score for each row of item weights. All-ones weights give the score itself; an interval comes from the
same call with items left out, so that no task writes its own."""


statistics: Registry[Callable[..., Statistic]] = Registry("statistic", "ssleval.metrics", callable)
"""Functions from names of columns to a `Statistic`. A result records the name and the columns, so that its
stored samples can be scored and compared without the code of its task."""


@dataclass(frozen=True, slots=True)
class Metric:
    """How samples become one number."""

    name: str
    """``NAME``, or ``NAME@PARAMETER`` where a task reports several."""
    statistic: Statistic
    higher_is_better: bool = True
    unit: str = "fraction"

    def score(self, samples: Samples) -> float:
        """Return the statistic of all samples, each counted once."""
        return float(self.statistic(samples, np.ones((1, len(samples))))[0])


# Running ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Context:
    """Where and how to compute. What may move a score is `recorded`."""

    device: str = "auto"
    """``cpu``, ``cuda``, ``cuda:1``, ``mps``; ``auto`` becomes the first that is here of cuda, mps, cpu."""
    precision: Literal["fp32", "bf16", "fp16", "published"] = "fp32"
    """Of forward passes; ``published`` becomes, task by task, `Task.published_precision`."""
    batch_size: Natural = 0
    """Images per forward pass; 0 chooses."""
    num_workers: Natural | Literal["auto"] = "auto"
    """Processes that decode images; 0 decodes in this one, ``auto`` becomes what suits the device."""
    seed: Seed = 0
    skip_corrupt: bool = False
    """Leave out images that cannot be decoded, and count them, instead of stopping."""
    cache: Path = field(default_factory=default_cache)
    """Where features are kept."""
    progress: bool = True
    since: NonNegative = 0.0
    """Seconds since the epoch: features stored before then are extracted anew; 0 uses all."""
    pixels: Pixels = "exact"
    """Whether images are decoded and resized by PIL, or by torchvision in less than half the time."""

    def __post_init__(self) -> None:
        """Refuse values that a field cannot take; choose the device and the workers that are left open."""
        check(self, "context")
        # Imports torch, which whoever computes has imported, and who only lists must not need.
        if self.device == "auto":
            object.__setattr__(self, "device", _devices().usable_device("auto"))
        if self.num_workers == "auto":
            object.__setattr__(self, "num_workers", _devices().suitable_workers(self.device))

    def recorded(self) -> dict[str, Any]:
        """Return the fields that may move a score; ``pixels``, which came later, where they are not exact."""
        names = ("precision", "seed", "skip_corrupt", "pixels")
        return _without_defaults({name: getattr(self, name) for name in names}, pixels="exact")


def _devices() -> Any:
    return import_module("ssleval.core.devices")
