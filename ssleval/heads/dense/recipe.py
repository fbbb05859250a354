"""Settings of linear segmentation as it was published, and those that only the published protocol reads."""

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

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

    crop: int = 0
    """Side of training crops and of the window that slides over test images."""
    ratios: tuple[float, ...] = ()
    """Smallest and largest random factor of a training image's short side."""
    cat_max_ratio: float = 0.75
    """Crops are drawn anew, ten times at most, while one class has this part of the labelled pixels."""
    flip: float = 0.5
    """Probability of mirroring a crop."""
    distortion: float = 0.5
    """Probability of each change of brightness, contrast, saturation and hue."""
    stride: int = 0
    """Pixels from one window to the next."""
    test_ratios: tuple[float, ...] = ()
    """Factors of a test image's short side; probabilities are averaged over them."""
    test_flip: Literal["protocol", "yes", "no"] = "protocol"
    """Whether every test image is also seen mirrored."""
