"""`depth`: metres of every pixel by a linear head, fitted as in the task `depth`."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32
from PIL import Image

from ssleval.core.backbone import Backbone
from ssleval.display.pictures.canvas import Tile, beside, heat, page
from ssleval.display.pictures.fitted import ITERATIONS, SIDE, fitted, fitting_set
from ssleval.display.pictures.look import Look, Picture
from ssleval.heads.dense.depth import Bins, depth_map, fit_bins
from ssleval.heads.dense.grid import Fit, LinearHead, channels_of
from ssleval.heads.dense.labelled import Labelled
from ssleval.tasks.depth import Depth


def draw_depth(backbone: Backbone, pictures: Sequence[Picture], look: Look) -> Image.Image:
    """Draw every picture, the predicted metres, and the measured ones where there are any.

    Colours go from near (light) to far (dark), logarithmically, between the 1st and 99th percentile of a row.
    """
    dataset = fitting_set(look, "depth", "depth")
    side = look.side(backbone, SIDE)
    task = Depth(size=side, iterations=ITERATIONS, flip=False).resolved(dataset)
    bins = Bins(task.min_depth, task.max_depth, task.bins, task.upsample)

    def fit(train: Labelled) -> LinearHead:
        unfitted = LinearHead(channels_of(train.grids), task.bins, normalise=False, seed=look.context.seed)
        return fit_bins(unfitted, train.examples, Fit.of(task), bins, look.context)

    predict, said = fitted(backbone, task, dataset, look, fit)
    rows: list[list[Tile | None]] = []
    for picture in pictures:
        width, height = picture.image.size
        metres = depth_map(predict(picture.image), bins, (height, width)).cpu().numpy()
        rows.append([Tile(picture.image, picture.name), *_maps(metres, picture.target)])
    title = f"{backbone.card.name}: linear depth, {side} px"
    notes = [said, "Light is near, dark is far, black unknown; one scale a picture."]
    return page(title, beside(rows), notes)


def _maps(metres: Float32[np.ndarray, "H W"], truth: object) -> list[Tile]:
    maps = [(metres, "predicted")]
    if isinstance(truth, np.ndarray):
        maps.append((truth, "measured"))
    low, high = map(float, np.quantile(np.concatenate([m[m > 0] for m, _ in maps]), [0.01, 0.99]))
    return [Tile(_coloured(m, low, high), f"{name}, {low:.1f} to {high:.1f} m") for m, name in maps]


def _coloured(metres: Float32[np.ndarray, "H W"], low: float, high: float) -> Image.Image:
    known = np.maximum(metres, 1e-6)
    near = (np.log(high) - np.log(known)) / max(np.log(high) - np.log(low), 1e-6)
    # The darkest colour means unknown.
    shown = np.where(metres > 0, 0.1 + 0.9 * near.clip(0, 1), 0)
    return heat(shown, (metres.shape[1], metres.shape[0]))
