"""What heads for every pixel are fitted on and scored on: patch grids with the targets of their images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ssleval.core.task import Inputs
from ssleval.heads.dense.grid import Grids, Targets, grids_of, targets_of


@dataclass(frozen=True, slots=True)
class Labelled:
    """Images of one split; grids and targets are read when they are asked for."""

    ids: Sequence[str]
    grids: Grids
    targets: Targets

    @property
    def examples(self) -> tuple[Grids, Targets, int]:
        """What heads are fitted on: grids, targets and how many images there are."""
        return self.grids, self.targets, len(self.ids)


def labelled(inputs: Inputs) -> Iterator[Labelled]:
    """Yield the patch grids and the targets of every request of a task, in order.

    Raises:
        ContractError: the dataset opened without the targets its card promises.
    """
    for request, table in zip(inputs.requests, inputs.tables(), strict=True):
        grids = grids_of(table, request.readouts, inputs.context.device)
        yield Labelled(table.ids, grids, targets_of(request.dataset, request.split, table.rows))
