"""The pixels that corruptions read and return."""

from typing import TypeAlias

import numpy as np
from jaxtyping import Float

Pixels: TypeAlias = Float[np.ndarray, "H W 3"]
"""RGB in [0, 1]; a corrupted image may leave that range."""
