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


_PARAMETERS, _GFLOPS = "Parameters (millions)", "GFLOPs an image"
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
    rows = [[entry.result] for entry in board.entries]
    scores = [entry.result.metrics[board.headline] for entry in board.entries]
    gained = [score.value if score.higher_is_better else -score.value for score in scores]
    gflops = [_positive(row[0].cost.get("flops_per_image"), 1e9) for row in rows]
    speeds = _speeds(rows) or {"Images per second": [None] * len(rows)}
    return [
        *(_cost(name, values, gained, _NO_SPEED, less_is_better=False) for name, values in speeds.items()),
        _cost(_PARAMETERS, _parameters(rows), gained, "the model's card does not say"),
        _cost(_GFLOPS, gflops, gained, _NO_FLOPS),
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
    known = [_cost(name, own, gained, less_is_better=False) for name, own in _speeds(rows).items()]
    known.append(_cost(_PARAMETERS, _parameters(rows), gained))
    flops = [
        _medians([(str(one.cost.get("image_side", "")), one.cost.get("flops_per_image")) for one in row])
        for row in rows
    ]
    if sides := Counter(side for of in flops for side in of):
        side = max(sides, key=lambda side: (sides[side], -float(side or "inf")))
        gflops = [_positive(of.get(side), 1e9) for of in flops]
        known.append(_cost(f"GFLOPs an image of {float(side):g} pixels" if side else _GFLOPS, gflops, gained))
    return [cost for cost in known if any(value is not None for value in cost.values)]


def _speeds(rows: Sequence[Sequence[Result]]) -> dict[str, list[float | None]]:
    """Return the median speed of every row on each kind of machine."""
    known = [_medians([(_machine(one), one.timings.get("images_per_second")) for one in row]) for row in rows]
    machines = sorted({machine for speeds in known for machine in speeds})
    return {f"Images per second ({name})": [speeds.get(name) for speeds in known] for name in machines}


def _parameters(rows: Sequence[Sequence[Result]]) -> list[float | None]:
    return [_medians([("", one.backbone.get("parameters")) for one in row]).get("") for row in rows]


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


def _positive(value: Any, unit: float = 1.0) -> float | None:
    return value / unit if isinstance(value, int | float) and value > 0 else None


def _machine(result: Result) -> str:
    processor = result.hardware.get("gpu") or result.hardware.get("cpu") or "unknown"
    cores, precision = result.hardware.get("cores") or "?", result.settings.get("precision", "fp32")
    return f"{processor}, {cores} cores, {precision}"


def _cost(
    name: str,
    values: Sequence[float | None],
    gained: Sequence[float],
    missing: str = "",
    *,
    less_is_better: bool = True,
) -> Cost:
    known = [(place, value) for place, value in enumerate(values) if value is not None]
    spent = [value if less_is_better else -value for _, value in known]
    front = pareto_front(spent, [gained[place] for place, _ in known])
    return Cost(name, tuple(values), tuple(known[place][0] for place in front), missing)
