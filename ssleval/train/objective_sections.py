"""The settings of objectives without a teacher, one section each. Defaults are those of their papers.

Sources: Chen et al. 2020, arXiv:2002.05709 (SimCLR), and the arguments of its published code.
"""

from dataclasses import dataclass
from typing import Annotated, TypeAlias

from msgspec import Meta

from ssleval.core.settings import Positive, Width
from ssleval.train.sections import OtherWidth

Layers: TypeAlias = Annotated[int, Meta(ge=1, le=100)]


@dataclass(frozen=True, slots=True)
class SimclrConfig:
    """The contrastive loss and its projector (SimCLR sec. 2.1 and google-research/simclr)."""

    temperature: Positive = 0.1
    """Of the cosines between projections (README.md, ImageNet; 0.5 for CIFAR-10)."""
    layers: Layers = 2
    """Linear maps of the projector (sec. 4.2; three in the code of SimCLR v2)."""
    hidden: OtherWidth = 0
    """Channels between them; 0: as many as the features (``projection_head``)."""
    projection: Width = 128
    batch_norm: bool = True
    """Batch-normalise after every linear map, the last one too (``projection_head``)."""
