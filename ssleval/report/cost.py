"""What a model costs, and which models no other beats in both accuracy and cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ssleval.leaderboard import Board, Entry
from ssleval.results import Result

__all__ = ["Cost", "costs", "pareto_front"]


@dataclass(frozen=True, slots=True)
class Cost:
    """One kind of cost, for the entries of one board in their order."""

    name: str
    less_is_better: bool
    values: tuple[float | None, ...]
    """None where it was not recorded."""
    front: tuple[int, ...]
    """Entries that none beats in both, cheapest first."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON has them."""
        return {"name": self.name, "less": self.less_is_better, "values": self.values, "front": self.front}


def costs(board: Board) -> list[Cost]:
    """Return the parameters of every entry, and for each kind of machine the speed of those timed on it.

    A speed is recorded only by the run that extracted the features, decoding included; speeds on
    different hardware or at different precision are never on one axis.
    """
    machines = sorted({_machine(one.result) for one in board.entries if speed(one.result) is not None})
    found = [_cost(board, "Parameters (millions)", [parameters(one.result) for one in board.entries])]
    for machine in machines:
        timed = [speed(one.result) if _machine(one.result) == machine else None for one in board.entries]
        found.append(_cost(board, f"Images per second ({machine})", timed, less_is_better=False))
    return [one for one in found if any(value is not None for value in one.values)]


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


def _positive(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and value > 0 else None


def _machine(result: Result) -> str:
    parts = [result.hardware.get("gpu") or result.hardware.get("cpu"), result.hardware.get("cores")]
    name = ", ".join([str(parts[0] or "unknown"), f"{parts[1] or '?'} cores"])
    return f"{name}, {result.settings.get('precision', 'fp32')}"


def _cost(board: Board, name: str, values: Sequence[float | None], *, less_is_better: bool = True) -> Cost:
    known = [(place, value) for place, value in enumerate(values) if value is not None]
    sign = 1 if less_is_better else -1
    gained = [_gain(board, board.entries[place]) for place, _ in known]
    front = pareto_front([sign * value for _, value in known], gained)
    return Cost(name, less_is_better, tuple(values), tuple(known[place][0] for place in front))


def _gain(board: Board, entry: Entry) -> float:
    score = entry.result.metrics[board.headline]
    return score.value if score.higher_is_better else -score.value
