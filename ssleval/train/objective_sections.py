"""The settings of objectives without a teacher, one section each. Defaults are those of their papers.

Sources: Chen et al. 2020, arXiv:2002.05709 (SimCLR); Bardes et al. 2022, arXiv:2105.04906 (VICReg);
Balestriero & LeCun 2025, arXiv:2511.08544 (LeJEPA); He et al. 2022, arXiv:2111.06377 (MAE); and the arguments
of their published code.
"""

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from ssleval.core.settings import Depth, NonNegative, OpenFraction, Positive, Width
from ssleval.train.sections import Layers, OtherWidth


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


@dataclass(frozen=True, slots=True)
class VicregConfig:
    """The three terms of VICReg and its expander (sec. 4 and `main_vicreg.py`)."""

    invariance: NonNegative = 25.0
    variance: NonNegative = 25.0
    covariance: NonNegative = 1.0
    deviation: Positive = 1.0
    """Standard deviation that every channel is to have at least."""
    layers: Layers = 3
    """Linear maps of the expander."""
    hidden: Width = 8192
    projection: Width = 8192
    batch_norm: bool = True
    """Batch-normalise hidden layers."""


@dataclass(frozen=True, slots=True)
class LejepaConfig:
    """The weight of SIGReg, its numerical integral, and the projector (LeJEPA sec. 4 to 6)."""

    weight: OpenFraction = 0.05
    """Of SIGReg; that of the prediction is the rest of 1 (MINIMAL.md: 0.02)."""
    directions: Width = 1024
    """Random directions a step (README.md; MINIMAL.md: 256)."""
    knots: Annotated[int, Meta(ge=2, le=10_000)] = 17
    """Points of the integral (README.md)."""
    limit: Positive = 3.0
    """Largest of these points (MINIMAL.md)."""
    layers: Layers = 3
    """Linear maps of the projector (MINIMAL.md)."""
    hidden: Width = 2048
    projection: Width = 128
    """MINIMAL.md's ``proj_dim``, of which its command makes 16."""
    batch_norm: bool = True
    """Batch-normalise hidden layers."""


@dataclass(frozen=True, slots=True)
class MaeConfig:
    """What is hidden, and the decoder that predicts it (MAE sec. 3 and facebookresearch/mae)."""

    mask_ratio: OpenFraction = 0.75
    """Fraction of patches that the encoder does not see (sec. 4.1)."""
    decoder_dim: Width = 512
    """Channels of the decoder (table 1b)."""
    decoder_depth: Depth = 8
    """Its blocks (table 1a)."""
    decoder_heads: Depth = 16
    """Of its attention (models_mae.py)."""
    normalised: bool = True
    """Whether targets are the pixels less their patch's mean, by its deviation (table 1d)."""
    fixed_positions: bool = True
    """Sine-cosine positions in the encoder, as the decoder always has, or learned ones."""
