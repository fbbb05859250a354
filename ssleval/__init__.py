"""Compare frozen vision backbones on a common footing."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssleval.backbones.wrapped import wrap
    from ssleval.backbones.zoo import load
    from ssleval.results import Result
    from ssleval.results.frame import read_results
    from ssleval.run.extracting import extract_features
    from ssleval.run.measure import evaluate

__all__ = ["Result", "__version__", "evaluate", "extract_features", "load", "read_results", "wrap"]

try:
    __version__ = version("ssleval")
except PackageNotFoundError:  # a source checkout that was never installed
    __version__ = "0+unknown"

_HOMES = {
    "Result": "ssleval.results",
    "evaluate": "ssleval.run.measure",
    "extract_features": "ssleval.run.extracting",
    "load": "ssleval.backbones.zoo",
    "read_results": "ssleval.results.frame",
    "wrap": "ssleval.backbones.wrapped",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for only then: ``import ssleval`` alone loads no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'ssleval' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
