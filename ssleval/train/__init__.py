"""Self-distillation with an EMA teacher over random crops: DINO, iBOT and the ingredients of DINOv2.

Objectives without a teacher, such as SimCLR, are files of their own; see `objective`.
Read `config`, then `loop`. docs/training.md lists the differences from the published code.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssleval.train.config import TrainConfig, read_config
    from ssleval.train.loop import Trained, train

__all__ = ["TrainConfig", "Trained", "read_config", "train"]


def __getattr__(name: str) -> Any:
    """Import on first use: reading a training log then loads no torch."""
    if name not in __all__:
        raise AttributeError(f"module 'ssleval.train' has no attribute {name!r}")
    module = "config" if name in {"TrainConfig", "read_config"} else "loop"
    return getattr(import_module(f"ssleval.train.{module}"), name)
