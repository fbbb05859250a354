"""Floating-point operations of a forward pass."""

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from ssleval.core.backbone import Backbone


def forward_flops(backbone: Backbone, side: int, device: str) -> int:
    """Return the FLOPs of one forward pass of one square image of ``side`` pixels.

    Matrix products, convolutions and attention count, a multiply-add as two operations. Activations, norms
    and softmax, which take few, do not. The result depends on neither weights nor device.
    """
    # Brings triton and 70 MB, which a run that reads stored results does without.
    from torch.utils.flop_counter import FlopCounterMode

    image = torch.zeros(1, 3, side, side, device=device)
    fast = torch.backends.mha.get_fastpath_enabled()
    # The counter may not know fused kernels, so they are replaced by their parts.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            backbone(image)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return int(counter.get_total_flops())
