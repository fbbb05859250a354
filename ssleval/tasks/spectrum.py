"""Spectrum: what a feature matrix tells without any label, about collapse and conditioning.

On one vector per image of the scored split: RankMe's effective rank (singular values of the features as
they are), alpha-ReQ's decay exponent of the covariance eigenvalues (ranks 11 to 50, rank j weighted 1/j),
uniformity (t = 2, over all pairs of 10,000 unit vectors), the share of variance in the first 10 components,
and the fraction of dimensions that never change; with ``views`` >= 2, LiDAR on that many random crops and
flips of each image. Intervals are those of the delta method: every image contributes the number plus its
first-order influence on it.

Source: Garrido et al. 2023, arXiv:2210.02885; Agrawal et al. 2022; Wang and Isola 2020, arXiv:2005.10242;
Thilak et al. 2024, arXiv:2312.04000.
"""

from dataclasses import dataclass

from ssleval.core import Dataset, FeatureRequest, Metric, Samples
from ssleval.core.image_level import VectorPerImage, random_views, same_rows
from ssleval.core.settings import Count, Natural, Positive, Several
from ssleval.core.task import Inputs, Task, tasks
from ssleval.errors import ConfigError
from ssleval.metrics import spectrum
from ssleval.metrics.lidar import lidar
from ssleval.metrics.stats import mean_of


@tasks.register("spectrum")
@dataclass(frozen=True)
class Spectrum(VectorPerImage, Task):
    """Label-free numbers of the features of the scored split."""

    first: Count = 11
    """First rank of the alpha-ReQ fit; the largest eigenvalues do not follow the power law."""
    last: Several = 50
    """Last rank of that fit, or the last one there is."""
    components: Count = 10
    """Of which the share of variance is given."""
    t: Positive = 2.0
    """Sharpness of the potential of uniformity."""
    pairs_among: Several = 10_000
    """Uniformity is over all pairs of this many images, drawn by the seed."""
    views: Natural = 0
    """Augmented views of every image that LiDAR is computed on, stored like other features; 0: no LiDAR."""
    views_seed: int = 0
    """Which views are drawn."""
    delta: Positive = 1e-4
    """Of LiDAR: added to the variance between views, along every axis."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.first >= self.last:
            raise ConfigError(f"spectrum: ranks {self.first}..{self.last}; expected first < last")
        if self.views == 1:
            raise ConfigError("spectrum: views=1; LiDAR needs 2 or more, or 0 for none")

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Effective rank first; for the others lower is not better or worse by itself."""
        return (
            Metric("effective_rank", mean_of("effective_rank"), unit="dimensions"),
            Metric("alpha_req", mean_of("alpha_req"), higher_is_better=False, unit="exponent"),
            Metric("uniformity", mean_of("uniformity"), higher_is_better=False, unit="log potential"),
            Metric(f"explained@{self.components}", mean_of("explained"), higher_is_better=False),
            Metric("dead_dimensions", mean_of("dead_dimensions"), higher_is_better=False),
            *([Metric("lidar", mean_of("lidar"), unit="dimensions")] if self.views else []),
        )

    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        """Return the scored split, one vector per image, then its views; any dataset will do."""
        plain = FeatureRequest(dataset, dataset.card.test_split, self.geometry, (self.vector,))
        return plain, *random_views(plain, self.views, self.crop, self.views_seed)

    def evaluate(self, inputs: Inputs) -> Samples:
        """Decompose the features; one row of contributions per image."""
        table, *views = inputs.tables()
        same_rows([table, *views])
        features, seed = table[self.vector], inputs.context.seed
        covariance = spectrum.eigenspectrum(features, centred=True)
        columns = {
            "effective_rank": spectrum.effective_rank(spectrum.eigenspectrum(features, centred=False)),
            "alpha_req": spectrum.alpha_req(covariance, self.first, self.last),
            "uniformity": spectrum.uniformity(features, t=self.t, limit=self.pairs_among, seed=seed),
            "explained": spectrum.variance_explained(covariance, self.components),
            "dead_dimensions": spectrum.dead_dimensions(features),
        }
        if views:
            columns["lidar"] = lidar([view[self.vector] for view in views], delta=self.delta)
        return Samples(table.ids, columns)
