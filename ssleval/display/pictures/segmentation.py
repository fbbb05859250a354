"""`segmentation`: classes of all pixels from a linear head, fitted as the task `segmentation` does."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from ssleval.core.backbone import Backbone
from ssleval.display.pictures.canvas import Tile, beside, blended, label_colours, legend, page, stacked
from ssleval.display.pictures.fitted import ITERATIONS, SIDE, fitting_set, predictor, training_table
from ssleval.display.pictures.look import Look, Picture
from ssleval.heads.dense.grid import Fit, grids_of, targets_of
from ssleval.heads.dense.segmentation import classes_at, fit_classes
from ssleval.tasks.segmentation import Segmentation

SOLID = 0.65
"""Of a colour over the grey picture."""


def draw_segmentation(backbone: Backbone, pictures: Sequence[Picture], look: Look) -> Image.Image:
    """Draw every picture, what the head says of it, and the truth where there is one.

    Raises:
        ConfigError: no dataset to fit on.
        NotApplicableError: it has no masks of classes.
    """
    dataset = fitting_set(look, "segmentation", "mask")
    side = look.side(backbone, SIDE)
    task = Segmentation(size=side, iterations=ITERATIONS).resolved(dataset)
    request, _ = task.requests(dataset)
    train = training_table(backbone, request, look)
    head = fit_classes(
        grids_of(train, request.readouts, look.context.device),
        targets_of(dataset, request.split, train.rows),
        len(train.ids),
        Fit(task.iterations, task.batch_size, task.learning_rate, task.weight_decay, task.pixels),
        num_classes=dataset.card.num_classes,
        warmup=round(task.warmup * task.iterations),
        seed=look.context.seed,
        device=look.context.device,
    )
    predict = predictor(backbone, head, request, look)
    rows: list[list[Tile | None]] = []
    seen: set[int] = set()
    for picture in pictures:
        width, height = picture.image.size
        found = classes_at(predict(picture.image), (height, width))
        masks = [(found, "predicted")]
        if isinstance(picture.target, np.ndarray):
            masks.append((picture.target, "annotated"))
        over = [Tile(blended(picture.image, label_colours(mask), SOLID), name) for mask, name in masks]
        rows.append([Tile(picture.image, picture.name), *over])
        seen |= {int(label) for mask, _ in masks for label in np.unique(mask) if label != 255}
    title = f"{backbone.card.name}: linear segmentation, {side} px"
    notes = [f"Fitted on {len(train.ids)} images of {dataset.card.name}, {task.iterations} iterations."]
    sheet = page(title, beside(rows), notes)
    return stacked(sheet, legend(dataset.card.class_names, sorted(seen), sheet.width))
