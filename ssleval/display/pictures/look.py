"""What is drawn, and with which settings."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ssleval.core import Context, Dataset, Geometry, Readout
from ssleval.core.backbone import Backbone
from ssleval.errors import ConfigError
from ssleval.features import Live

SIZE = 448
"""Pixels of the long side by default."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One image to look at."""

    name: str
    image: Image.Image
    target: Any = None
    """The target that its dataset has for it; None for a file."""


@dataclass(frozen=True, slots=True)
class Look:
    """Settings of a drawing. A kind refuses a setting that it does not use, unless it has its default."""

    block: int = -1
    """Index of the block whose patch tokens are shown, after the model's final norm."""
    size: int = 0
    """Pixels of the long side that the model sees, a multiple of its patch size; 0: the kind's default."""
    dataset: Dataset | None = None
    """Heads are fitted on its training split."""
    limit: int = 500
    """Most images of that split that heads are fitted on."""
    context: Context = field(default_factory=Context)

    def side(self, backbone: Backbone, default: int = SIZE) -> int:
        """Return the pixels of the long side; refuse a size in broken patches."""
        patch = backbone.card.patch_size
        if self.size % patch or self.size < 0:
            raise ConfigError(
                f"{backbone.card.name}: size {self.size} is not a multiple of its patch size {patch}; "
                f"{max(1, round(self.size / patch)) * patch} is"
            )
        return self.size or max(1, default // patch) * patch


def patch_tokens(backbone: Backbone, pictures: Sequence[Picture], look: Look) -> list[Float[Tensor, "h w d"]]:
    """Return the patch tokens of every picture, in its own aspect, on the CPU in float32."""
    live, geometry = Live(backbone, look.context), Geometry(look.side(backbone), "long", multiple="patch")
    readout = Readout("patches", look.block)
    return [live.read_image(picture.image, geometry, readout).cpu() for picture in pictures]


def as_image(colours: np.ndarray) -> Image.Image:
    """Return an array ``[H W 3]`` of values in [0, 1] as an image."""
    return Image.fromarray((colours.clip(0, 1) * 255).round().astype(np.uint8))
