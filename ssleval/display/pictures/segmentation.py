"""`segmentation`: classes of every pixel by a linear head, fitted as in the task `segmentation`."""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import to_hex
from PIL import Image

from ssleval.core.backbone import Backbone
from ssleval.datasets.scenes.sheet import PALETTE
from ssleval.display.pictures.canvas import Tile, beside, blended, label_colours, page
from ssleval.display.pictures.fitted import ITERATIONS, SIDE, fitted, fitting_set
from ssleval.display.pictures.look import Look, Picture
from ssleval.heads.dense.grid import Fit
from ssleval.heads.dense.segmentation import classes_at, fit_classes
from ssleval.tasks.segmentation import Segmentation

SOLID = 0.65
"""Opacity of the colours over the grey picture."""


def draw_segmentation(backbone: Backbone, pictures: Sequence[Picture], look: Look) -> Image.Image:
    """Draw every picture, the predicted classes, and the annotated ones where there are any."""
    dataset = fitting_set(look, "segmentation", "mask")
    side = look.side(backbone, SIDE)
    task = Segmentation(size=side, iterations=ITERATIONS).resolved(dataset)
    count = dataset.card.num_classes
    predict, said = fitted(
        backbone, task, dataset, look,
        lambda train: fit_classes(train.examples, Fit.of(task), count, look.context),
    )  # fmt: skip
    rows: list[list[Tile | None]] = []
    seen: set[int] = set()
    for picture in pictures:
        width, height = picture.image.size
        masks = [(classes_at(predict(picture.image), (height, width)), "predicted")]
        if isinstance(picture.target, np.ndarray):
            masks.append((picture.target, "annotated"))
        over = [Tile(blended(picture.image, label_colours(mask), SOLID), name) for mask, name in masks]
        rows.append([Tile(picture.image, picture.name), *over])
        seen |= {int(label) for mask, _ in masks for label in np.unique(mask) if label != 255}
    title = f"{backbone.card.name}: linear segmentation, {side} px"
    colours = {dataset.card.class_names[label]: to_hex(PALETTE[label + 1] / 255) for label in sorted(seen)}
    return page(title, beside(rows), [said], legend=colours)
