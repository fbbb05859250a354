"""What a check says."""

from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias

Status: TypeAlias = Literal["pass", "warn", "fail", "skip"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check."""

    check: str
    status: Status
    evidence: str
    """One line: what was seen."""
    advice: str = ""
    """What to do about it; empty where there is nothing to do."""

    def to_dict(self) -> dict[str, str]:
        """Return the fields."""
        return asdict(self)

    def __str__(self) -> str:
        """Return the finding as people read it: a line, and one with the advice where there is some."""
        advice = f"\n      -> {self.advice}" if self.advice else ""
        return f"{self.status:<5} {self.check:<14} {self.evidence}{advice}"
