"""The cost of models, and the Pareto front of accuracy and cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ssleval.results import Result
from ssleval.results.ranking import Board


@dataclass(frozen=True, slots=True)
class Cost:
    """One kind of cost, for the entries of one board in their order."""

    name: str
    values: tuple[float | None, ...]
    """None if not recorded."""
    front: tuple[int, ...]
    """Entries that no other entry beats in both accuracy and cost, cheapest first."""
    missing: str
    """Why an entry may have no value."""


_NO_SPEED = "features came from the store, or from another machine"
_NO_FLOPS = (
    "the result is older than this record, its images have no one size, the task runs the model itself, "
    "or the model multiplies nothing"
)


def costs(board: Board) -> list[Cost]:
    """Return the speed of the entries on each kind of machine, their parameters and their FLOPs.

    Speed is recorded only by the run that extracted the features, and includes decoding. Speeds on different
    hardware or at different precision are separate costs. A cost without any value is included too.
    """
    results = [entry.result for entry in board.entries]
    parameters = [_positive(result.backbone.get("parameters")) for result in results]
    gflops = [_positive(result.cost.get("flops_per_image"), 1e9) for result in results]
    return [
        *_speeds(board, results),
        _cost(board, "Parameters (millions)", "the model's card does not say", parameters),
        _cost(board, "GFLOPs an image", _NO_FLOPS, gflops),
    ]


def pareto_front(spent: Sequence[float], gained: Sequence[float]) -> list[int]:
    """Return the points that no other point dominates, in order of spending; equal points are all kept."""
    order = sorted(range(len(spent)), key=lambda place: (spent[place], -gained[place]))
    front = order[:1]
    for place in order[1:]:
        equal = (spent[place], gained[place]) == (spent[front[-1]], gained[front[-1]])
        if equal or gained[place] > gained[front[-1]]:
            front.append(place)
    return front


def _speeds(board: Board, results: Sequence[Result]) -> list[Cost]:
    name = "Images per second"
    speeds = [_positive(result.timings.get("images_per_second")) for result in results]
    timed = list(zip(speeds, map(_machine, results), strict=True))
    axes = {
        f"{name} ({axis})": [speed if machine == axis else None for speed, machine in timed]
        for axis in sorted({machine for speed, machine in timed if speed})
    }
    columns = (axes or {name: speeds}).items()
    return [_cost(board, axis, _NO_SPEED, values, less_is_better=False) for axis, values in columns]


def _positive(value: Any, unit: float = 1.0) -> float | None:
    return value / unit if isinstance(value, int | float) and value > 0 else None


def _machine(result: Result) -> str:
    processor = result.hardware.get("gpu") or result.hardware.get("cpu") or "unknown"
    cores, precision = result.hardware.get("cores") or "?", result.settings.get("precision", "fp32")
    return f"{processor}, {cores} cores, {precision}"


def _cost(
    board: Board, name: str, missing: str, values: Sequence[float | None], *, less_is_better: bool = True
) -> Cost:
    known = [(place, value) for place, value in enumerate(values) if value is not None]
    scores = [board.entries[place].result.metrics[board.headline] for place, _ in known]
    gained = [score.value if score.higher_is_better else -score.value for score in scores]
    front = pareto_front([value if less_is_better else -value for _, value in known], gained)
    return Cost(name, tuple(values), tuple(known[place][0] for place in front), missing)
