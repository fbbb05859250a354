"""What one image costs a model: the floating-point operations of its forward pass."""

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ssleval.core.backbone import Backbone


def forward_flops(backbone: Backbone, side: int, device: str) -> int:
    """Return the operations of one forward pass of one square image of ``side`` pixels.

    Those of matrix products, convolutions and attention, two for a multiplication with its addition;
    activations, norms and softmax, which take few, do not count. Weights and device change nothing.
    """
    image = torch.zeros(1, 3, side, side, device=device)
    fast = torch.backends.mha.get_fastpath_enabled()
    # Fused kernels are one operation of which the counter may know nothing: taken apart, all is counted.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            backbone(image)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return int(counter.get_total_flops())
