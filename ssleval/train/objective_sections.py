"""The settings of objectives without a teacher, one section each. Defaults are those of their papers.

Sources: Chen et al. 2020, arXiv:2002.05709 (SimCLR); He et al. 2022, arXiv:2111.06377 (MAE); and the
arguments of their published code.
"""

from dataclasses import dataclass
from typing import Annotated, TypeAlias

from msgspec import Meta

from ssleval.core.settings import Depth, OpenFraction, Positive, Width
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
