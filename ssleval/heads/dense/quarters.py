"""Fields of a task that fits a linear or a convolutional head on blocks of the model, and these heads."""

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from msgspec import Meta
from torch import nn

from ssleval.core import Readout
from ssleval.errors import ConfigError
from ssleval.heads.dense.dpt import DPT
from ssleval.heads.dense.grid import LinearHead


@dataclass(frozen=True, kw_only=True)
class QuarterFields:
    """Which blocks are read, before the model's final norm, and by which head."""

    head: Literal["linear", "dpt"] = "linear"
    """One linear layer, or probe3d's convolutional head (`heads.dense.dpt`), which reads four blocks."""
    hidden: Annotated[int, Meta(ge=1, le=1024)] = 512
    """Channels of ``head=dpt``."""
    inputs: Literal["lin1", "lin4"] = "lin1"
    """The last block, or the last of every quarter, before the model's final norm."""
    class_token: bool = True
    """Whether the class token stands beside every patch token, as in DINOv2."""

    def refuse_idle(self, task: str, **defaults: object) -> None:
        """Refuse settings of the task ``task`` that its head does not read, or one block for `dpt`.

        ``defaults`` are fields of the task without effect on `dpt`, with what they are by default.
        """
        idle = defaults if self.head == "dpt" else {"hidden": QuarterFields.hidden}
        for name, default in idle.items():
            if (value := getattr(self, name)) != default:
                raise ConfigError(f"{task}: {name}={value} has no effect with head={self.head}; leave it out")
        if self.head == "dpt" and self.inputs != "lin4":
            raise ConfigError(f"{task}: head=dpt reads four blocks; add --set {task}.inputs=lin4")

    def recorded(self) -> dict[str, Any]:
        """Return the fields, without those of the convolutional head where the head is linear."""
        idle = ("head", "hidden") if self.head == "linear" else ()
        return {name: value for name, value in asdict(self).items() if name not in idle}

    @property
    def readouts(self) -> tuple[Readout, ...]:
        """Patch tokens, and class tokens, block by block."""
        kinds = ("patches", "cls") if self.class_token else ("patches",)
        quarters = (0,) if self.inputs == "lin1" else (1, 2, 3, 4)
        return tuple(Readout(kind, -1, False, quarter) for quarter in quarters for kind in kinds)

    def unfitted(self, channels: int, outputs: int, *, normalise: bool, seed: int) -> nn.Module:
        """Return the head; ``normalise`` says whether a linear one stands behind a batch normalisation."""
        if self.head == "dpt":
            return DPT(channels, outputs, self.hidden, seed=seed)
        return LinearHead(channels, outputs, normalise=normalise, seed=seed)
