"""`norms`: lengths of patch tokens, before and after the final norm, and which of them are outliers.

The task `artefacts` measures what is drawn here.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from ssleval.core import Geometry, Readout
from ssleval.core.backbone import Backbone
from ssleval.display.pictures.canvas import TILE, Tile, heat, page, rendered, spotlit
from ssleval.display.pictures.look import Look, Picture, as_image
from ssleval.features import Live
from ssleval.heads.dense.artefacts import above_medians, norms_of

MEDIANS = 3.0
"""As in the task."""
_STAGES = {False: "before norm", True: "after norm"}
"""The final one."""


def draw_norms(backbone: Backbone, pictures: Sequence[Picture], look: Look) -> Image.Image:
    """Draw the norms of every picture's tokens; below, where outliers lie in all, and norms by block."""
    live, geometry = Live(backbone, look.context), Geometry(look.side(backbone), "long", multiple="patch")
    block = look.block % max(1, backbone.num_blocks)
    rows: list[list[Tile | None]] = []
    found: list[np.ndarray] = []
    for picture in pictures:
        norms = {norm: _norms(live, picture, geometry, norm=norm) for norm in _STAGES}
        found.append(np.stack([norms[norm] for norm in _STAGES], axis=1))
        size, shown = picture.image.size, {norm: norms[norm][block] for norm in _STAGES}
        outliers = above_medians(shown[False][None], MEDIANS)[0]
        maps = [
            Tile(heat(one / one.max(), size), f"{_STAGES[norm]}: {np.median(one):.3g}, max {one.max():.3g}")
            for norm, one in shown.items()
        ]
        lit = Tile(
            spotlit(picture.image, outliers, Image.new("RGB", size, "red")),
            f"{outliers.sum()} of {outliers.size} outliers",
        )
        rows.append([Tile(picture.image, picture.name), *maps, lit])
    rows.append([_places(found, block), _curves(found, "median"), _curves(found, "largest"), None])
    title = f"{backbone.card.name}: norms of patch tokens, block {look.block}, {look.side(backbone)} px"
    notes = (f"Outliers: norms above {MEDIANS:g} times the median of their image, before the final norm.",)
    return page(title, rows, notes)


def _norms(live: Live, picture: Picture, geometry: Geometry, *, norm: bool) -> Float[np.ndarray, "n h w"]:
    readouts = [Readout("patches", block, norm) for block in range(live.backbone.num_blocks)]
    tokens = (live.read_image(picture.image, geometry, readout) for readout in readouts)
    return np.concatenate([norms_of(one[None]) for one in tokens])


def _places(found: Sequence[np.ndarray], block: int) -> Tile | None:
    """Return how often each place of the grid is an outlier; None where grids differ or nothing is."""
    if len({one.shape for one in found}) > 1:
        return None
    often = above_medians(np.stack([one[block, 0] for one in found]), MEDIANS).mean(axis=0)
    map_ = np.kron(often / max(often.max(), 1e-12), np.ones((8, 8)))
    return Tile(as_image(np.repeat(map_[:, :, None], 3, axis=2)), f"outliers of {len(found)} images")


def _curves(found: Sequence[np.ndarray], what: str) -> Tile:
    """Return a plot of the norms by block, means over the pictures."""
    reduce = np.median if what == "median" else np.max
    figure = Figure((TILE / 100, TILE / 100), dpi=200, layout="constrained")
    axis = figure.subplots()
    for stage, name in enumerate(_STAGES.values()):
        values = np.mean([reduce(one[:, stage], axis=(1, 2)) for one in found], axis=0)
        axis.plot(range(1, len(values) + 1), values, label=name, marker=".")
    axis.set_yscale("log")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.tick_params(which="both", labelsize=6)
    axis.legend(fontsize=6, frameon=False)
    return Tile(rendered(figure), f"{what} norm by block")
