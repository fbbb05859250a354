"""Spectrum: what a feature matrix tells without any label, about collapse and conditioning.

On one vector per image of the scored split: RankMe's effective rank (singular values of the features as
they are), alpha-ReQ's decay exponent of the covariance eigenvalues (ranks 11 to 50, rank j weighted 1/j),
uniformity (t = 2, on unit vectors), the share of variance in the first 10 components, and the fraction of
dimensions that never change. Intervals are those of the delta method: every image contributes the number
plus its first-order influence on it. LiDAR, which needs augmented views, is not computed.

Source: Garrido et al. 2023, arXiv:2210.02885; Agrawal et al. 2022; Wang and Isola 2020, arXiv:2005.10242.
"""

from dataclasses import dataclass
from typing import Literal

from ssleval.core import Context, Dataset, FeatureRequest, Geometry, Interpolation, Metric, Readout, Samples
from ssleval.errors import ConfigError
from ssleval.metrics.spectrum import (
    alpha_req,
    dead_dimensions,
    effective_rank,
    eigenspectrum,
    uniformity,
    variance_explained,
)
from ssleval.metrics.stats import mean_of
from ssleval.task import Source, Task, tasks

__all__ = ["Spectrum"]


@tasks.register("spectrum")
@dataclass(frozen=True)
class Spectrum(Task):
    """Label-free numbers of the features of the scored split."""

    first: int = 11
    """First rank of the alpha-ReQ fit; the largest eigenvalues do not follow the power law."""
    last: int = 50
    components: int = 10
    """Of which the share of variance is given."""
    t: float = 2.0
    """Sharpness of the potential of uniformity."""
    pairs_among: int = 10_000
    """Uniformity is over all pairs of this many images, drawn by the seed."""
    readout: Literal["pooled", "cls", "mean", "gem"] = "pooled"
    """The model's own descriptor, or the last block's class token or pooled patches."""
    preprocessing: Literal["protocol", "card"] = "protocol"
    """Geometry of the next three fields, or the one the model was published with."""
    resize: int = 256
    crop: int = 224
    interpolation: Interpolation = "bicubic"

    def __post_init__(self) -> None:
        """Refuse settings that no data could honour."""
        if not 1 <= self.first < self.last or self.components < 1:
            raise ConfigError(
                f"spectrum: ranks {self.first}..{self.last}, {self.components} components; "
                "expected 1 <= first < last and components >= 1"
            )
        if not self.t > 0 or self.pairs_among < 2:
            raise ConfigError(
                f"spectrum: t={self.t}, pairs_among={self.pairs_among}; expected t > 0 and >= 2"
            )

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Effective rank first; for the others lower is not better or worse by itself."""
        return (
            Metric("effective_rank", mean_of("effective_rank"), unit="dimensions"),
            Metric("alpha_req", mean_of("alpha_req"), higher_is_better=False, unit="exponent"),
            Metric("uniformity", mean_of("uniformity"), higher_is_better=False, unit="log potential"),
            Metric(f"explained@{self.components}", mean_of("explained"), higher_is_better=False),
            Metric("dead_dimensions", mean_of("dead_dimensions"), higher_is_better=False),
        )

    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        """Return the scored split, one vector per image; any dataset will do."""
        protocol = Geometry(self.resize, "short", self.crop, self.interpolation)
        geometry = protocol if self.preprocessing == "protocol" else None
        return (FeatureRequest(dataset, dataset.card.test_split, geometry, (Readout(self.readout),)),)

    def evaluate(self, source: Source, dataset: Dataset, context: Context) -> Samples:
        """Decompose the features; one row of contributions per image."""
        (request,) = self.requests(dataset)
        table = source.load(request)
        features = table[Readout(self.readout)]
        covariance = eigenspectrum(features, centred=True)
        return Samples(
            table.ids,
            {
                "effective_rank": effective_rank(eigenspectrum(features, centred=False)),
                "alpha_req": alpha_req(covariance, self.first, self.last),
                "uniformity": uniformity(features, t=self.t, limit=self.pairs_among, seed=context.seed),
                "explained": variance_explained(covariance, self.components),
                "dead_dimensions": dead_dimensions(features),
            },
        )
