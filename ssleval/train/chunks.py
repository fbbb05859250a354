"""Chunk sizes for code that makes several passes over the same numbers."""

import torch

_ON_CPU = 1 << 18
"""Float32 numbers in 1 MB, which stays in the cache between passes."""
_ON_DEVICE = 1 << 26
"""256 MB: on an accelerator, launching kernels dominates small chunks."""


def rows_per_chunk(row_size: int, device: torch.device) -> int:
    """Return how many rows of ``row_size`` numbers to process at a time; at least one."""
    return max(1, (_ON_CPU if device.type == "cpu" else _ON_DEVICE) // row_size)
