"""Published settings of linear segmentation, and the fields that only the published protocol reads."""

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Choice: TypeAlias = Literal["protocol", "nearest", "bilinear", "bicubic", "lanczos"]
"""An interpolation; `protocol` is the published one."""

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
"""Values that replace 0, () and `protocol`, for every protocol and inputs.

Source of ("paper", ...): DINOv2's ADE20K configurations, linear and +ms.
"""


@dataclass(frozen=True, kw_only=True)
class PaperFields:
    """Fields that only ``protocol=paper`` reads. 0, () and `protocol` stand for the published value."""

    crop: int = 0
    """Side of training crops and of the sliding window on test images."""
    ratios: tuple[float, ...] = ()
    """Smallest and largest random factor of a training image's short side."""
    cat_max_ratio: float = 0.75
    """Crops are drawn anew, at most ten times, while one class has this fraction of the labelled pixels."""
    flip: float = 0.5
    """Probability of mirroring a crop."""
    distortion: float = 0.5
    """Probability of each change of brightness, contrast, saturation and hue."""
    stride: int = 0
    """Pixels from one window to the next."""
    test_ratios: tuple[float, ...] = ()
    """Factors of a test image's short side; probabilities are averaged over them."""
    test_flip: Literal["protocol", "yes", "no"] = "protocol"
    """Whether every test image is also evaluated mirrored."""
