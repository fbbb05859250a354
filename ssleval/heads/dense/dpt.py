"""A convolutional head on the tokens of four blocks, which fuses them from the last to the first."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from ssleval.errors import ConfigError

FINER = 8
"""How much finer than the patches its outputs are."""
MOST_PATCHES = 4096
"""Of an image: a layer of 512 channels then takes half a gigabyte an image."""


class DPT(nn.Module):
    """The head of probe3d, without its last doubling: outputs are 8 times as fine as the patches.

    The tokens of each block pass a 1x1 convolution and are doubled; from the last block to the first, the map
    so far passes two residual units of two 3x3 convolutions, with the tokens of the block added between them
    (of the last block: one unit). The fused map is enlarged by 4 and passes two more 3x3 convolutions.

    Source:
        El Banani et al. 2024, arXiv:2404.08636: ``DPT`` in evals/models/probes.py, after Ranftl et al. 2021.
    """

    def __init__(self, channels: int, outputs: int, hidden: int, *, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.inputs = nn.ModuleList(nn.Conv2d(channels // 4, hidden, 1) for _ in range(4))
            self.before = nn.ModuleList(_Residual(hidden) for _ in range(3))
            self.after = nn.ModuleList(_Residual(hidden) for _ in range(4))
            self.last = _pair(hidden, outputs)

    def forward(self, grids: Float[Tensor, "b h w d"]) -> Float[Tensor, "b c y x"]:
        """Return outputs for grids with the channels of four blocks after one another.

        Raises:
            ConfigError: there are more than 4,096 patches.
        """
        height, width = grids.shape[1:3]
        if height * width > MOST_PATCHES:
            raise ConfigError(
                f"head=dpt: {height}x{width} patches, it takes at most {MOST_PATCHES:,}; set a smaller size"
            )
        blocks = grids.permute(0, 3, 1, 2).chunk(4, dim=1)
        maps = [_enlarged(layer(block), 2) for layer, block in zip(self.inputs, blocks, strict=True)]
        fused = self.after[3](maps[3])
        for index in (2, 1, 0):
            fused = self.after[index](self.before[index](maps[index]) + fused)
        return self.last(_enlarged(fused, FINER // 2))


class _Residual(nn.Module):
    """Two convolutions, each rectified, whose result is added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*_pair(channels, channels), nn.ReLU())

    def forward(self, maps: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c y x"]:
        return self.layers(maps) + maps


def _pair(channels: int, outputs: int) -> nn.Sequential:
    first, second = (nn.Conv2d(channels, count, 3, padding=1) for count in (channels, outputs))
    return nn.Sequential(first, nn.ReLU(), second)


def _enlarged(maps: Float[Tensor, "b c y x"], factor: int) -> Float[Tensor, "b c Y X"]:
    return functional.interpolate(maps, scale_factor=factor, mode="bilinear", align_corners=True)
