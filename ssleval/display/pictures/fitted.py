"""What drawings with a fitted head share: training images of a task, and predictions for single images."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ssleval.core import Dataset, Geometry
from ssleval.core.backbone import Backbone
from ssleval.core.task import Inputs, Task
from ssleval.display.pictures.look import Look
from ssleval.errors import ConfigError, NotApplicableError
from ssleval.features import FeatureSource, Live, pixels_of
from ssleval.heads.dense.grid import LinearHead
from ssleval.heads.dense.labelled import Labelled, labelled

SIDE = 224
"""Pixels of both sides by default: half of the tasks' size takes a quarter of the time."""
ITERATIONS = 500
"""Training steps of a head: half of the tasks'."""

Predictor = Callable[[Image.Image], Float[Tensor, "c h w"]]


def fitting_set(look: Look, what: str, target: str) -> Dataset:
    """Return the dataset that the head is fitted on; refuse one without the target, and a block."""
    if look.dataset is None:
        raise ConfigError(f"{what} needs a dataset to fit a head on, such as scenes:{target}")
    if look.block != -1:
        raise ConfigError(f"{what} reads the blocks that its task pins; leave out the block")
    if look.dataset.card.target != target:
        raise NotApplicableError(
            f"{what} needs a dataset with a {target} for every pixel; {look.dataset.card.name} has target "
            f"{look.dataset.card.target!r}"
        )
    return look.dataset.limited(look.limit)


def fitted(
    backbone: Backbone, task: Task, dataset: Dataset, look: Look, fit: Callable[[Labelled], LinearHead]
) -> tuple[Predictor, str]:
    """Return what maps an image to the outputs of a head, fitted on what a task requests, and a note on that.

    Images are seen at the geometry that the head was fitted at.
    """
    request, *_ = task.requests(dataset)
    source = FeatureSource(backbone, look.context)
    source.prepare([request])
    (train,) = labelled(Inputs(source, dataset, (request,), look.context))
    head, geometry, live = fit(train), request.geometry, Live(backbone, look.context)
    assert isinstance(geometry, Geometry)  # stored grids are of whole images

    def predict(image: Image.Image) -> Float[Tensor, "c h w"]:
        parts = [part.float() for part in live.read(pixels_of(image, geometry), request.readouts).values()]
        grid = next(part.shape[1:3] for part in parts if part.ndim == 4)
        spread = [part if part.ndim == 4 else part[:, None, None].expand(-1, *grid, -1) for part in parts]
        with torch.no_grad():
            return head(torch.cat(spread, dim=3))[0]

    return predict, f"Fitted on {len(train.ids)} images of {dataset.card.name}, {ITERATIONS} iterations."
