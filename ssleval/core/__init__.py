"""The vocabulary of ssleval. Read `vocabulary.py`, then `backbone.py`, then `task.py`."""

from ssleval.core.vocabulary import (
    COMPUTING_FIELDS,
    IGNORED,
    BackboneCard,
    Context,
    Dataset,
    DatasetCard,
    DatasetLoader,
    DatasetOptions,
    FeatureRequest,
    FeatureTable,
    Geometry,
    Interpolation,
    Metric,
    Precision,
    RandomView,
    Readout,
    Sample,
    Samples,
    Split,
    Statistic,
    datasets,
    digest,
    statistics,
)

__all__ = [
    "COMPUTING_FIELDS", "IGNORED", "BackboneCard", "Context", "Dataset", "DatasetCard", "DatasetLoader",
    "DatasetOptions", "FeatureRequest", "FeatureTable", "Geometry", "Interpolation", "Metric", "Precision",
    "RandomView", "Readout", "Sample", "Samples", "Split", "Statistic", "datasets", "digest", "statistics",
]  # fmt: skip
