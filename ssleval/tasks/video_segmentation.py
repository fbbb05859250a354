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
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ssleval.core import Dataset, FeatureRequest, Geometry, Interpolation, Metric, Readout, Samples, Split
from ssleval.core.rows import samples_of
from ssleval.core.settings import Count, Natural, Positive
from ssleval.core.targets import clips_of
from ssleval.core.task import Inputs, Needs, Task, tasks
from ssleval.errors import ConfigError, DataError
from ssleval.features import Live
from ssleval.heads.propagation import Propagation, follow
from ssleval.metrics.stats import mean_of
from ssleval.metrics.video import object_scores

LONG_STEP = 64
"""The long side's length in pixels is a multiple of this, or of the patches that fit into it."""


@tasks.register("video_segmentation")
@dataclass(frozen=True)
class VideoSegmentation(Task):
    """Labels of the first frame, carried on by similar patches."""

    seeded: ClassVar[bool] = False
    needs: ClassVar[Needs] = Needs(("video",))
    size: Count = 480
    """Short side in pixels; rounded down to whole patches."""
    interpolation: Interpolation = "bilinear"
    context: Natural = 7
    """Frames looked back at, besides the first."""
    radius: Natural = 12
    """Patches from the middle of the square window to its edge."""
    topk: Count = 5
    temperature: Positive = 0.1
    tolerance: Positive = 0.008
    """Distance at which contours still agree, as a part of the image's diagonal."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The mean of J and F first; each of them, and how often and how long objects are held."""
        names = ("j_and_f", "j", "f", "j_recall", "f_recall", "j_decay", "f_decay")
        return tuple(Metric(name, mean_of(name), not name.endswith("decay")) for name in names)

    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        """Return the scored clips, whose frames go through the model one by one in `evaluate`."""
        return (FeatureRequest(dataset, dataset.card.test_split, None, ()),)

    def amounts(self, dataset: Dataset) -> dict[str, tuple[int, int]]:
        """Return the frames."""
        # With fewer frames, none would look back at as many as most do.
        return {"test": (self.context + 1, dataset.card.lengths[dataset.card.test_split])}

    def evaluate(self, inputs: Inputs) -> Samples:
        """Follow every clip; one row per object."""
        split, live = inputs.test_split, Live(inputs.backbone, inputs.context)
        rows: dict[str, dict[str, float]] = {}
        clips = clips_of(split)
        # Frames of a clip depend on earlier ones, so that a clip is what processes share.
        scored = live.shared(
            inputs.card.name, [*clips.values()], lambda frames: list(self._clip(live, split, frames)), len
        )
        for number, (clip, scores) in enumerate(zip(clips, scored, strict=True)):
            rows |= {f"{clip}#{item}": {**row, "clip": number} for item, row in scores}
        return samples_of(rows, cluster="clip")

    def _clip(
        self, live: Live, split: Split, frames: Sequence[int]
    ) -> Iterator[tuple[int, dict[str, float]]]:
        """Yield every object of a clip's first mask, and its scores."""
        assert split.target is not None
        mask = split.target(frames[0])
        objects = [int(value) for value in np.unique(mask) if value]
        if not objects:
            raise DataError(f"{split.ids[frames[0]]}: no object in the mask of the first frame")
        settings = Propagation(self.context, self.radius, self.topk, self.temperature)
        predicted = follow(self._tokens(live, split, frames), mask, live.backbone.card.patch_size, settings)
        return object_scores(map(split.target, frames[1:-1]), predicted, objects, self.tolerance)

    def _tokens(self, live: Live, split: Split, frames: Sequence[int]) -> Iterator[Float[Tensor, "h w d"]]:
        first = split.image(frames[0]).size
        for row in frames:
            frame = split.image(row)
            if frame.size != first:
                raise DataError(f"{split.ids[row]}: {frame.size} pixels, but its clip began with {first}")
            size = self.frame_size(frame.size, live.backbone.card.patch_size)
            resized = frame.resize(size, Image.Resampling[self.interpolation.upper()])
            yield live.read_image(resized, Geometry(None), Readout("patches"))

    def frame_size(self, size: tuple[int, int], patch: int) -> tuple[int, int]:
        """Return width and height in whole patches of a frame as the model sees it."""
        step = patch * max(1, LONG_STEP // patch)
        short, long = self.size // patch * patch, self.size * max(size) // min(size)
        if not short:
            raise ConfigError(f"video_segmentation: size={self.size} holds no patch of {patch} pixels")
        long = max(step, long // step * step)
        return (short, long) if size[0] < size[1] else (long, short)
