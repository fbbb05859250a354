"""Evaluation in anybody's training loop. The door of this room.

`Evaluator` is called as ``evaluator(step, module)``; `for_lightning` and `for_transformers` make callbacks.
"""

from ssleval.live.callbacks import for_lightning, for_transformers
from ssleval.live.evaluator import Evaluator

__all__ = ["Evaluator", "for_lightning", "for_transformers"]
