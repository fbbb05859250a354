"""What is looked at, and how."""

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
from ssleval.features import Live, pixels_of

SIZE = 448
"""Pixels of the long side, where nobody says how many."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One image to look at."""

    name: str
    image: Image.Image
    target: Any = None
    """What its dataset says of it; None for a file."""


@dataclass(frozen=True, slots=True)
class Look:
    """How a picture is drawn; what a kind has no use for it refuses where it is not the default."""

    block: int = -1
    """Whose patch tokens are shown, after the model's final norm."""
    size: int = 0
    """Pixels of the long side that the model sees, a multiple of its patch; 0: the kind's own."""
    dataset: Dataset | None = None
    """On whose training split heads are fitted."""
    limit: int = 500
    """Images of it that are fitted on."""
    context: Context = field(default_factory=Context)

    def side(self, backbone: Backbone, default: int = SIZE) -> int:
        """Return the pixels of the long side.

        Raises:
            ConfigError: they are no multiple of the model's patch.
        """
        patch = backbone.card.patch_size
        if self.size % patch or self.size < 0:
            raise ConfigError(
                f"{backbone.card.name}: size {self.size} is not a multiple of its patch size {patch}; "
                f"{max(1, round(self.size / patch)) * patch} is"
            )
        return self.size or max(1, default // patch) * patch


def whole_patches(backbone: Backbone, picture: Picture, side: int) -> Tensor:
    """Return 8-bit pixels ``[1 H W 3]`` of an image in its own aspect, in whole patches."""
    geometry = Geometry(side, "long", multiple="patch").on_grid(backbone.card.patch_size)
    return pixels_of(picture.image, geometry)


def patch_tokens(backbone: Backbone, pictures: Sequence[Picture], look: Look) -> list[Float[Tensor, "h w d"]]:
    """Return the patch tokens of every picture, on the CPU in float32.

    Raises:
        NotApplicableError: the model has no such block.
    """
    live, geometry = Live(backbone, look.context), Geometry(look.side(backbone), "long", multiple="patch")
    readout = Readout("patches", look.block)
    return [live.read_image(picture.image, geometry, readout).cpu() for picture in pictures]


def as_image(colours: np.ndarray) -> Image.Image:
    """Return an array ``[H W 3]`` of values in [0, 1] as an image."""
    return Image.fromarray((colours.clip(0, 1) * 255).round().astype(np.uint8))
