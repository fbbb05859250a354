"""How much is handled at a time where one pass after another goes over the same numbers."""

import torch

_ON_CPU = 1 << 18
"""Numbers: one megabyte, which stays in a cache from pass to pass."""
_ON_DEVICE = 1 << 26
"""A quarter of a gigabyte: what small passes cost there is starting them."""


def rows_at_once(numbers: int, device: torch.device) -> int:
    """Return how many rows of ``numbers`` each are handled at a time on a device, one at least."""
    return max(1, (_ON_CPU if device.type == "cpu" else _ON_DEVICE) // numbers)
