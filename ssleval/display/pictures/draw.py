"""Kinds of pictures by name."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from ssleval.core.backbone import Backbone
from ssleval.core.registry import suggestion
from ssleval.display.pictures.attention import draw_attention
from ssleval.display.pictures.depth import draw_depth
from ssleval.display.pictures.look import Look, Picture
from ssleval.display.pictures.matches import draw_matches
from ssleval.display.pictures.norms import draw_norms
from ssleval.display.pictures.pca import draw_pca
from ssleval.display.pictures.retrieval import draw_retrieval
from ssleval.display.pictures.segmentation import draw_segmentation
from ssleval.errors import ConfigError, UnknownNameError


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of picture."""

    draw: Callable[[Backbone, Sequence[Picture], Look], Image.Image]
    dataset: str
    """The default source of pictures, and what a head is fitted on."""
    rows: tuple[int, ...]
    """Rows of its scored split that are drawn by default."""
    fits: bool = False
    """Whether a head is fitted; then image files need a dataset as well."""


KINDS: Mapping[str, Kind] = {
    "pca": Kind(draw_pca, "scenes", (8, 28, 48, 68, 3, 23, 43, 63)),
    "attention": Kind(draw_attention, "scenes", (8, 3, 11)),
    "norms": Kind(draw_norms, "scenes", (8, 3, 11)),
    "matches": Kind(draw_matches, "scenes:pairs", (3,)),
    "retrieval": Kind(draw_retrieval, "scenes", tuple(range(8, 208))),
    "segmentation": Kind(draw_segmentation, "scenes:mask", (8, 3, 11, 15, 7, 13), fits=True),
    "depth": Kind(draw_depth, "scenes:depth", (8, 3, 11, 15, 7, 13), fits=True),
}
"""By the name that `ssleval show` gives them."""


def draw(backbone: Backbone, pictures: Sequence[Picture], what: str, look: Look | None = None) -> Image.Image:
    """Return a picture of what ``backbone`` makes of ``pictures``; ``what`` is one of `KINDS`.

    Raises:
        ConfigError: no pictures, or a setting that the kind does not use.
        NotApplicableError: the model, or the dataset of ``look``, lacks what the kind shows.
    """
    if what not in KINDS:
        raise UnknownNameError(f"no picture {what!r}; {suggestion(what, KINDS)}")
    if not pictures:
        raise ConfigError(f"{what}: no picture to look at")
    return KINDS[what].draw(backbone, pictures, look or Look())
