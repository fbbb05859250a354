"""The outcome of a check."""

from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias

Status: TypeAlias = Literal["pass", "warn", "fail", "skip"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check."""

    status: Status
    evidence: str
    """One line: what was measured."""
    advice: str = ""
    """What to do about it; empty where nothing is wrong."""
    check: str = ""
    """The name of the check, which the runner of the checks fills in."""

    def to_dict(self) -> dict[str, str]:
        """Return the fields, the check first."""
        return {"check": self.check, **asdict(self)}

    def lines(self) -> list[str]:
        """Return the finding as text: a line, and one with the advice if there is any."""
        advice = [f"      -> {self.advice}"] if self.advice else []
        return [f"{self.status:<5} {self.check:<14} {self.evidence}", *advice]
