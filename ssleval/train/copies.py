"""Copies from the processor to the device that trains."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def copied(
    integers: Sequence[np.ndarray], floats: Sequence[np.ndarray], device: torch.device
) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """Return arrays on a device, as int64 and as float32.

    All are copied together, and to an accelerator from pinned memory, so that the processor need not wait.
    """
    lengths = [len(array) for array in (*integers, *floats)]
    # float32 holds the integers up to 2^24 exactly.
    joined = torch.from_numpy(np.concatenate([*integers, *floats], dtype=np.float32, casting="same_kind"))
    there = to_device(joined, device)
    count = sum(lengths[: len(integers)])
    split = (
        *there[:count].long().split(lengths[: len(integers)]),
        *there[count:].split(lengths[len(integers) :]),
    )
    return split[: len(integers)], split[len(integers) :]


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on ``device``; to a GPU from pinned memory, so that the processor need not wait."""
    return (values.pin_memory() if device.type == "cuda" else values).to(device, non_blocking=True)
