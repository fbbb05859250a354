"""Data files that travel with the package: the model zoo, the suites, published figures, one checkpoint."""

from pathlib import Path


def packaged(name: str) -> Path:
    """Return the path of a packaged file or folder.

    A wheel carries them in ``ssleval/data``; a source checkout has them at its top level.
    """
    package = Path(__file__).parents[1]
    inside = package / "data" / name
    return inside if inside.exists() else package.parent / name


def packaged_weights(name: str) -> Path:
    """Return the path of a checkpoint that is part of the package."""
    return Path(__file__).parents[1] / "backbones" / "weights" / name
