"""What heads for every pixel are fitted on and scored on: patch grids with the targets of their images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import nn

from ssleval.core.task import Inputs
from ssleval.heads.dense.depth import Bins, depth_map
from ssleval.heads.dense.grid import Examples, Grids, Targets, grids_of, outputs_of, targets_of


@dataclass(frozen=True, slots=True)
class Labelled:
    """Images of one split; grids and targets are read when they are asked for."""

    ids: Sequence[str]
    grids: Grids
    targets: Targets

    @property
    def examples(self) -> Examples:
        """What heads are fitted on: grids, targets and how many images there are."""
        return self.grids, self.targets, len(self.ids)


def labelled(inputs: Inputs) -> Iterator[Labelled]:
    """Yield the patch grids and the targets of every request of a task, in order."""
    for request, table in zip(inputs.requests, inputs.tables(), strict=True):
        grids = grids_of(table, request.readouts, inputs.context.device)
        yield Labelled(table.ids, grids, targets_of(request.dataset, request.split, table.rows))


def depth_maps(head: nn.Module, views: Sequence[Labelled], bins: Bins) -> Iterator[Float[np.ndarray, "H W"]]:
    """Yield metres for every image at the size of its target.

    The first of ``views`` are the images, the others mirrored: their maps are turned back, and all averaged.
    """
    outputs = (outputs_of(head, view.grids, len(view.ids)) for view in views)
    for row, logits in enumerate(zip(*outputs, strict=True)):
        height, width = views[0].targets(row).shape
        plain, *mirrored = (depth_map(view, bins, (height, width)).cpu().numpy() for view in logits)
        yield np.mean([plain, *(metres[:, ::-1] for metres in mirrored)], axis=0)
