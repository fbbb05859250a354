"""How a GPU computes products of float32 numbers."""

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch.backends import cudnn


@contextmanager
def rounded_products(device: torch.device, *, tf32: bool) -> Generator[None]:
    """Within the context, let a GPU round the factors of float32 products to 10 bits, or do not.

    Evaluations stay outside: they are exact. Other devices are left alone. The convolution algorithm is not
    chosen by time (`cudnn.benchmark`), other than in the published script: runs would not repeat to the bit.
    """
    if device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        with cudnn.flags(enabled=cudnn.enabled, benchmark=False, deterministic=False, allow_tf32=tf32):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
