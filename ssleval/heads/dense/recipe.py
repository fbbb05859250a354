"""Settings of linear segmentation as it was published, and those that only the published protocol reads."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Literal, TypeAlias, TypeVar, cast

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ssleval.core import Interpolation
from ssleval.core.backbone import PatchesOf
from ssleval.core.settings import Fraction, Natural, Positive
from ssleval.errors import ConfigError
from ssleval.heads.dense.augment import Augmentation
from ssleval.heads.dense.grid import LinearHead
from ssleval.heads.dense.windows import classes_of_views

T = TypeVar("T", bound="PaperFields")

Choice: TypeAlias = Literal["protocol", "nearest", "bilinear", "bicubic", "lanczos"]
"""An interpolation, or that of the protocol."""

_FAST: dict[str, Any] = {"size": 448, "interpolation": "bicubic", "iterations": 1000, "pixels": 2048}
_PAPER: dict[str, Any] = {"interpolation": "bilinear", "iterations": 40_000}
PUBLISHED: dict[tuple[str, str], dict[str, Any]] = {
    ("fast", "lin"): _FAST,
    ("fast", "ms"): _FAST,
    ("paper", "lin"): {
        **_PAPER, "size": 512, "crop": 512, "ratios": (0.5, 2.0), "stride": 341,
        "test_ratios": (1.0,), "test_flip": "no",
    },
    ("paper", "ms"): {
        **_PAPER, "size": 640, "crop": 640, "ratios": (1.0, 3.0), "stride": 320,
        "test_ratios": (1.0, 1.32, 1.73, 2.28, 3.0), "test_flip": "yes",
    },
}  # fmt: skip
"""What stands in place of 0, () and `protocol`, for every protocol and inputs.

Source of ("paper", ...): DINOv2's ADE20K configurations, linear and +ms.
"""


@dataclass(frozen=True, kw_only=True)
class PaperFields:
    """What ``protocol=paper`` alone has a use for. 0, () and `protocol` stand for the published value."""

    crop: Natural = 0
    """Side of training crops and of the window that slides over test images."""
    ratios: tuple[Positive, ...] = ()
    """Smallest and largest random factor of a training image's short side."""
    cat_max_ratio: Positive = 0.75
    """Crops are drawn anew, ten times at most, while one class has this part of the labelled pixels."""
    flip: Fraction = 0.5
    """Probability of mirroring a crop."""
    distortion: Fraction = 0.5
    """Probability of each change of brightness, contrast, saturation and hue."""
    stride: Natural = 0
    """Pixels from one window to the next."""
    test_ratios: tuple[Positive, ...] = ()
    """Factors of a test image's short side; probabilities are averaged over them."""
    test_flip: Literal["protocol", "yes", "no"] = "protocol"
    """Whether every test image is also seen mirrored."""

    def refuse_conflicts(self, protocol: str, pixels: int, size: int) -> None:
        """Refuse settings that the protocol does not read, or that do not go together, with a ConfigError."""
        paper = {field.name: (getattr(self, field.name), field.default) for field in fields(PaperFields)}
        unread = {"pixels": (pixels, 0)} if protocol == "paper" else paper
        for name, (value, default) in unread.items():
            if value != default:
                raise ConfigError(f"segmentation: {name}={value} has no effect with protocol={protocol}")
        if protocol == "paper":
            if not 1 <= self.stride <= self.crop:
                raise ConfigError(
                    f"segmentation: stride={self.stride} for windows of crop={self.crop}; windows must touch"
                )
            self.augmentation(size, "bilinear")

    def augmentation(self, size: int, interpolation: Choice) -> Augmentation:
        """Return how training images are drawn whose short side has ``size`` pixels."""
        drawn = self.ratios, self.crop, self.cat_max_ratio, self.flip, self.distortion
        return Augmentation(size, *drawn, cast("Interpolation", interpolation))

    def windows(
        self, patches_of: PatchesOf, head: LinearHead, size: int, interpolation: Choice, device: str
    ) -> Callable[[Image.Image, tuple[int, int]], UInt8[np.ndarray, "H W"]]:
        """Return what gives the classes of a test image, whose short side becomes ``size``, at (H, W)."""
        return partial(
            classes_of_views,
            lambda pixels: head(patches_of(pixels)),
            shorts=[int(size * ratio) for ratio in self.test_ratios],
            mirrored=self.test_flip == "yes",
            crop=self.crop,
            stride=self.stride,
            interpolation=cast("Interpolation", interpolation),
            device=device,
        )


def published(settings: T, protocol: str, inputs: str) -> T:
    """Return ``settings`` with the published values in place of 0, () and `protocol`."""
    values = PUBLISHED[protocol, inputs].items()
    changes = {name: value for name, value in values if getattr(settings, name) in (0, (), "protocol")}
    return replace(settings, **changes) if changes else settings
