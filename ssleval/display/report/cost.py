"""What a model costs, and which models no other beats in both accuracy and cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ssleval.results import Result
from ssleval.results.ranking import Board, Entry


@dataclass(frozen=True, slots=True)
class Cost:
    """One kind of cost, for the entries of one board in their order."""

    name: str
    less_is_better: bool
    values: tuple[float | None, ...]
    """None where it was not recorded."""
    front: tuple[int, ...]
    """Entries that none beats in both, cheapest first."""
    missing: str
    """Why an entry may have no value."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON has them."""
        return {
            "name": self.name,
            "less": self.less_is_better,
            "values": self.values,
            "front": self.front,
            "missing": self.missing,
        }


_NO_SPEED = "features came from the store, or from another machine"
_NO_PARAMETERS = "the model's card does not say"
_NO_FLOPS = (
    "the result is older than this record, its images have no one size, the task runs the model itself, "
    "or the model multiplies nothing"
)


def costs(board: Board) -> list[Cost]:
    """Return the speed of the entries on each kind of machine, their parameters and their FLOPs.

    A speed is recorded only by the run that extracted the features, decoding included; speeds on
    different hardware or at different precision are never on one axis. A kind of cost that no entry has
    is there all the same, without values.
    """
    found = [one.result for one in board.entries]
    return [
        *_speeds(board, found),
        _cost(board, "Parameters (millions)", _NO_PARAMETERS, [parameters(one) for one in found]),
        _cost(board, "GFLOPs an image", _NO_FLOPS, [gflops(one) for one in found]),
    ]


def _speeds(board: Board, found: Sequence[Result]) -> list[Cost]:
    name = "Images per second"
    axes = {
        f"{name} ({machine})": [speed(one) if _machine(one) == machine else None for one in found]
        for machine in sorted({_machine(one) for one in found if speed(one) is not None})
    }
    axes = axes or {name: [None] * len(found)}
    return [_cost(board, axis, _NO_SPEED, timed, less_is_better=False) for axis, timed in axes.items()]


def pareto_front(spent: Sequence[float], gained: Sequence[float]) -> list[int]:
    """Return the points than which none spends less and gains as much, or gains more for as little.

    Equal points are both on it. In order of spending.
    """
    order = sorted(range(len(spent)), key=lambda place: (spent[place], -gained[place]))
    front: list[int] = []
    for place in order:
        last = front[-1] if front else None
        if (
            last is None
            or gained[place] > gained[last]
            or (spent[place], gained[place]) == (spent[last], gained[last])
        ):
            front.append(place)
    return front


def parameters(result: Result) -> float | None:
    """Return millions of parameters; None where the card does not say."""
    return _positive(result.backbone.get("parameters"))


def speed(result: Result) -> float | None:
    """Return images per second of the extraction; None where the features were in the store already."""
    return _positive(result.timings.get("images_per_second"))


def gflops(result: Result) -> float | None:
    """Return thousand millions of operations of one image's forward pass; None where not recorded."""
    flops = _positive(result.cost.get("flops_per_image"))
    return None if flops is None else flops / 1e9


def _positive(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and value > 0 else None


def _machine(result: Result) -> str:
    parts = [result.hardware.get("gpu") or result.hardware.get("cpu"), result.hardware.get("cores")]
    name = ", ".join([str(parts[0] or "unknown"), f"{parts[1] or '?'} cores"])
    return f"{name}, {result.settings.get('precision', 'fp32')}"


def _cost(
    board: Board, name: str, missing: str, values: Sequence[float | None], *, less_is_better: bool = True
) -> Cost:
    known = [(place, value) for place, value in enumerate(values) if value is not None]
    sign = 1 if less_is_better else -1
    gained = [_gain(board, board.entries[place]) for place, _ in known]
    front = pareto_front([sign * value for _, value in known], gained)
    return Cost(name, less_is_better, tuple(values), tuple(known[place][0] for place in front), missing)


def _gain(board: Board, entry: Entry) -> float:
    score = entry.result.metrics[board.headline]
    return score.value if score.higher_is_better else -score.value
