"""Video segmentation: do patch features alone follow objects from the first frame on?

The protocol of DINO's ``eval_video_segmentation.py`` on DAVIS-2017, semi-supervised: the first frame's
mask is given, nothing is trained. Frames are resized (bilinear) to 480 pixels on the short side, the long
side down to a multiple of 64. Patches of the last block take soft labels of the 5 patches most similar to
them, by exp(cosine / 0.1), within 12 patches, in the first frame and in the 7 before. Labels are
upsampled bilinearly, stretched to [0, 1] object by object; the largest wins. J (overlap) and F (contours)
are means over frames without the first and the last, then over the objects of the first frame.

Source: Caron et al. 2021, arXiv:2104.14294, sec. 4.2.1, table 5; Pont-Tuset et al. 2017, arXiv:1704.00675.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn.functional import one_hot

from ssleval.core import Context, Dataset, FeatureRequest, Interpolation, Metric, Readout, Samples, Split
from ssleval.core.backbone import Backbone
from ssleval.core.task import Source, Task, tasks
from ssleval.errors import ConfigError, DataError, NotApplicableError
from ssleval.features.extract import forward
from ssleval.features.geometry import FILTERS
from ssleval.features.progress import progress
from ssleval.features.readouts import canonical
from ssleval.heads.propagation import harden, propagate
from ssleval.metrics.stats import mean_of
from ssleval.metrics.video import contour_f, decay, recall, region_j

LONG_STEP = 64
"""The long side's length in pixels is a multiple of this, or of the patches that fit into it."""


@tasks.register("video_segmentation")
@dataclass(frozen=True)
class VideoSegmentation(Task):
    """Labels of the first frame, carried on by similar patches."""

    size: int = 480
    """Short side in pixels; rounded down to whole patches."""
    interpolation: Interpolation = "bilinear"
    context: int = 7
    """Frames looked back at, besides the first."""
    radius: int = 12
    """Patches from the middle of the square window to its edge."""
    topk: int = 5
    temperature: float = 0.1
    tolerance: float = 0.008
    """Distance at which contours still agree, as a part of the image's diagonal."""

    seeded = False

    def __post_init__(self) -> None:
        """Refuse settings that no clip could honour."""
        if self.context < 0 or self.radius < 0 or self.topk < 1:
            raise ConfigError(
                f"video_segmentation: context={self.context}, radius={self.radius}, topk={self.topk}; "
                "expected context and radius from 0 and topk from 1"
            )
        if min(self.size, self.temperature, self.tolerance) <= 0:
            raise ConfigError("video_segmentation: size, temperature and tolerance must be positive")

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The mean of J and F first; each of them, and how often and how long objects are held."""
        better = {"j_and_f": True, "j": True, "f": True, "j_recall": True, "f_recall": True}
        worse = {"j_decay": False, "f_decay": False}
        return tuple(
            Metric(name, mean_of(name), higher_is_better=higher) for name, higher in (better | worse).items()
        )

    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        """Return the scored clips, whose frames go through the model one by one in `evaluate`.

        Raises:
            NotApplicableError: the dataset has no masks of clips.
        """
        card = dataset.card
        if card.target != "video":
            raise NotApplicableError(
                f"video_segmentation needs clips with the object of every pixel; {card.name} has target "
                f"{card.target!r}"
            )
        return (FeatureRequest(dataset, card.test_split, None, ()),)

    def evaluate(self, source: Source, dataset: Dataset, context: Context) -> Samples:
        """Follow every clip; one row per object."""
        split = dataset.split(dataset.card.test_split)
        ids: list[str] = []
        rows: list[dict[str, float]] = []
        label = f"{source.backbone.card.name} on {dataset.card.name}"
        with progress(label, len(split), 0, show=context.progress) as advance:
            for clip, frames in _clips(split).items():
                for item, scores in self._clip(source.backbone, split, frames, context):
                    ids.append(f"{clip}#{item}")
                    rows.append(scores)
                advance(len(frames))
        return Samples(ids, {name: np.array([row[name] for row in rows]) for name in rows[0]})

    def _clip(
        self, backbone: Backbone, split: Split, frames: Sequence[int], context: Context
    ) -> Iterator[tuple[int, dict[str, float]]]:
        """Yield every object of a clip's first mask, and its scores."""
        objects = [int(value) for value in np.unique(_mask(split, frames[0])) if value]
        if not objects:
            raise DataError(f"{split.ids[frames[0]]}: no object in the mask of the first frame")
        per_frame: list[list[tuple[float, float]]] = []
        for row, predicted in zip(frames[1:-1], follow(self, backbone, split, frames, context), strict=False):
            target = _mask(split, row)
            pairs = [(predicted == item, target == item) for item in objects]
            per_frame.append([(region_j(*pair), contour_f(*pair, self.tolerance)) for pair in pairs])
        for item, scores in zip(objects, np.array(per_frame).transpose(1, 2, 0), strict=True):
            j, f = scores
            means = {"j_and_f": float(scores.mean()), "j": float(j.mean()), "f": float(f.mean())}
            held = {"j_recall": recall(j), "f_recall": recall(f), "j_decay": decay(j), "f_decay": decay(f)}
            yield item, means | held

    def pixels(self, image: Image.Image, patch: int) -> UInt8[np.ndarray, "H W 3"]:
        """Return a frame as the model sees it, of whole patches of ``patch`` pixels.

        Raises:
            ConfigError: it would have no patch.
        """
        step = patch * max(1, LONG_STEP // patch)
        short, long = self.size // patch * patch, self.size * max(image.size) // min(image.size)
        if not short:
            raise ConfigError(f"video_segmentation: size={self.size} holds no patch of {patch} pixels")
        sides = (short, max(step, long // step * step))
        width, height = sides if image.width < image.height else sides[::-1]
        return np.array(image.resize((width, height), FILTERS[self.interpolation]))


def follow(
    task: VideoSegmentation, backbone: Backbone, split: Split, frames: Sequence[int], context: Context
) -> Iterator[UInt8[np.ndarray, "H W"]]:
    """Yield the predicted mask of every frame of a clip after the first, in the size of its images.

    Raises:
        DataError: frames of one clip differ in size.
    """
    patch, readout = backbone.card.patch_size, canonical(Readout("patches"), backbone)
    image = split.image(frames[0])

    def tokens() -> Iterator[Float[Tensor, "h w d"]]:
        for row in frames:
            frame = split.image(row)
            if frame.size != image.size:
                raise DataError(
                    f"{split.ids[row]}: {frame.size} pixels, but its clip began with {image.size}"
                )
            pixels = torch.from_numpy(task.pixels(frame, patch))[None]
            yield forward(backbone, pixels, (readout,), context)[readout][0]

    height, width = (side // patch for side in task.pixels(image, patch).shape[:2])
    mask = _mask(split, frames[0])
    small = np.array(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST), dtype=np.int64)
    first = one_hot(torch.from_numpy(small), int(mask.max()) + 1).float().to(context.device)
    for labels in propagate(
        tokens(),
        first,
        context=task.context,
        radius=task.radius,
        topk=task.topk,
        temperature=task.temperature,
    ):
        found = Image.fromarray(harden(labels, patch).cpu().numpy())
        yield np.array(found.resize(image.size, Image.Resampling.NEAREST))


def _clips(split: Split) -> dict[str, list[int]]:
    """Return the rows of every clip, by the part of their ids before the last slash."""
    clips: dict[str, list[int]] = {}
    for row, name in enumerate(split.ids):
        clips.setdefault(name.rpartition("/")[0], []).append(row)
    for clip, rows in clips.items():
        if len(rows) < 3:
            raise DataError(
                f"clip {clip}: {len(rows)} frames; the first and the last are not scored, so that it takes "
                "three: a --limit draws frames from all clips, choose a larger one"
            )
    return clips


def _mask(split: Split, row: int) -> UInt8[np.ndarray, "H W"]:
    assert split.target is not None
    return split.target(row)
