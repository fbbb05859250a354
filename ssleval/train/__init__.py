"""Self-distillation with a mean teacher over random crops: DINO, iBOT and the ingredients of DINOv2.

Read `config`, then `loop`. What differs from the published code is in docs/training.md.
"""

from ssleval.train.config import TrainConfig, read_config
from ssleval.train.loop import Trained, train

__all__ = ["TrainConfig", "Trained", "read_config", "train"]
