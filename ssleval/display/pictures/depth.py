"""`depth`: metres of all pixels from a linear head, fitted as the task `depth` does."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32
from PIL import Image

from ssleval.core.backbone import Backbone
from ssleval.display.pictures.canvas import Tile, beside, heat, page
from ssleval.display.pictures.fitted import ITERATIONS, SIDE, fitting_set, predictor, training_table
from ssleval.display.pictures.look import Look, Picture
from ssleval.heads.dense.depth import Bins, depth_map, fit_depth
from ssleval.heads.dense.grid import Fit, grids_of, targets_of
from ssleval.tasks.depth import Depth


def draw_depth(backbone: Backbone, pictures: Sequence[Picture], look: Look) -> Image.Image:
    """Draw every picture, the metres that the head reads from it, and the truth where there is one.

    Colours go from near (light) to far (dark), by the logarithm, from the nearest to the farthest of a row.

    Raises:
        ConfigError: no dataset to fit on.
        NotApplicableError: it has no depth, or the model no class token.
    """
    dataset = fitting_set(look, "depth", "depth")
    side = look.side(backbone, SIDE)
    task = Depth(size=side, iterations=ITERATIONS, flip=False).resolved(dataset)
    request, _ = task.requests(dataset)
    train = training_table(backbone, request, look)
    bins = Bins(task.min_depth, task.max_depth, task.bins, task.upsample)
    how = (task.iterations, task.batch_size, task.learning_rate, task.weight_decay, task.pixels, task.clip)
    head = fit_depth(
        grids_of(train, request.readouts, look.context.device),
        targets_of(dataset, request.split, train.rows),
        len(train.ids),
        Fit(*how),
        bins,
        warmup=round(task.warmup * task.iterations),
        seed=look.context.seed,
        device=look.context.device,
    )
    predict = predictor(backbone, head, request, look)
    rows: list[list[Tile | None]] = []
    for picture in pictures:
        width, height = picture.image.size
        metres = depth_map(predict(picture.image), bins, (height, width)).cpu().numpy()
        rows.append([Tile(picture.image, picture.name), *_maps(metres, picture.target)])
    title = f"{backbone.card.name}: linear depth, {side} px"
    notes = [
        f"Fitted on {len(train.ids)} images of {dataset.card.name}, {task.iterations} iterations.",
        "Light is near, dark is far, black unknown; one scale a picture.",
    ]
    return page(title, beside(rows), notes)


def _maps(metres: Float32[np.ndarray, "H W"], truth: object) -> list[Tile]:
    maps = [(metres, "predicted")]
    if isinstance(truth, np.ndarray):
        maps.append((truth, "measured"))
    known = np.concatenate([one[one > 0] for one, _ in maps])
    low, high = np.quantile(known, [0.01, 0.99])
    return [
        Tile(_coloured(one, float(low), float(high)), f"{name}, {low:.1f} to {high:.1f} m")
        for one, name in maps
    ]


def _coloured(metres: Float32[np.ndarray, "H W"], low: float, high: float) -> Image.Image:
    known = np.maximum(metres, 1e-6)
    near = (np.log(high) - np.log(known)) / max(np.log(high) - np.log(low), 1e-6)
    # The darkest colour is left to what is unknown.
    shown = np.where(metres > 0, 0.1 + 0.9 * near.clip(0, 1), 0)
    return heat(shown, (metres.shape[1], metres.shape[0]))
