"""The cost of models, and the Pareto front of accuracy and cost. Imports no torch."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from ssleval.results.overall import Overall
from ssleval.results.ranking import Board
from ssleval.results.record import Result


@dataclass(frozen=True, slots=True)
class Cost:
    """One kind of cost, for the entries of one board, or for the models of several, in their order."""

    name: str
    values: tuple[float | None, ...]
    """None if not recorded."""
    front: tuple[int, ...]
    """Entries that no other entry beats in both accuracy and cost, cheapest first."""
    missing: str
    """Why an entry may have no value."""


_GFLOPS = "GFLOPs an image"
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
        _cost(board, _GFLOPS, _NO_FLOPS, gflops),
    ]


def overall_costs(found: Overall) -> list[Cost]:
    """Return the costs that some model is known by, with the fronts of mean rank over all boards and cost.

    FLOPs are those of images of one size, the one that most models have them for. The speed on a kind of
    machine is the median over the boards that the model's features were extracted for there.
    """
    if not found.standings:
        return []
    rows = [
        [
            found.cells[name, place].result
            for place in range(len(found.boards))
            if (name, place) in found.cells
        ]
        for name in found.models
    ]
    gained = [-place.value for place in found.standings[0].places["mean_rank"]]
    speeds = [
        _medians([(_machine(one), one.timings.get("images_per_second")) for one in row]) for row in rows
    ]
    axes: list[tuple[str, Sequence[float | None], bool]] = [
        (f"Images per second ({machine})", [known.get(machine) for known in speeds], False)
        for machine in sorted({name for known in speeds for name in known})
    ]
    cards = [_medians([("", one.backbone.get("parameters")) for one in row]).get("") for row in rows]
    axes.append(("Parameters (millions)", cards, True))
    flops = [
        _medians([(str(one.cost.get("image_side", "")), one.cost.get("flops_per_image")) for one in row])
        for row in rows
    ]
    if sides := Counter(side for known in flops for side in known):
        side = max(sides, key=lambda side: (sides[side], -float(side or "inf")))
        gflops = [_positive(known.get(side), 1e9) for known in flops]
        axes.append((f"GFLOPs an image of {float(side):g} pixels" if side else _GFLOPS, gflops, True))
    return [
        _fronted(name, "", values, gained, less_is_better=less)
        for name, values, less in axes
        if any(value is not None for value in values)
    ]


def _medians(pairs: Sequence[tuple[str, Any]]) -> Mapping[str, float]:
    known: dict[str, list[float]] = {}
    for name, value in pairs:
        if (positive := _positive(value)) is not None:
            known.setdefault(name, []).append(positive)
    return {name: median(values) for name, values in known.items()}


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
    scores = [entry.result.metrics[board.headline] for entry in board.entries]
    gained = [score.value if score.higher_is_better else -score.value for score in scores]
    return _fronted(name, missing, values, gained, less_is_better=less_is_better)


def _fronted(
    name: str, missing: str, values: Sequence[float | None], gained: Sequence[float], *, less_is_better: bool
) -> Cost:
    known = [(place, value) for place, value in enumerate(values) if value is not None]
    spent = [value if less_is_better else -value for _, value in known]
    front = pareto_front(spent, [gained[place] for place, _ in known])
    return Cost(name, tuple(values), tuple(known[place][0] for place in front), missing)
