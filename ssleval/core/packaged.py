"""Data files of the package: the model zoo, the suites, published figures and one checkpoint."""

from pathlib import Path


def packaged(name: str) -> Path:
    """Return the path of a packaged file or folder."""
    package = Path(__file__).parents[1]
    # A wheel has them in ssleval/data, a source checkout at its top level.
    inside = package / "data" / name
    return inside if inside.exists() else package.parent / name


def packaged_weights(name: str) -> Path:
    """Return the path of a checkpoint of the package."""
    return Path(__file__).parents[1] / "backbones" / "weights" / name
