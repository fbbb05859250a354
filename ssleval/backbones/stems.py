"""How a vision transformer gets its patches: one linear map, or a small residual network in front of it."""

import itertools

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class PatchEmbed(nn.Module):
    """A linear map of every patch, as in all published models of this family."""

    def __init__(self, width: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b n d"]:
        """Return patches, row-major."""
        return self.proj(images).flatten(2).transpose(1, 2)


class ResidualStem(nn.Module):
    """The hybrid of Dosovitskiy et al. 2020, arXiv:2010.11929, sec. 3.1: residual blocks make the patches.

    Blocks are those of ResNet-D (He et al. 2018, arXiv:1812.01187, fig. 2c) with two 3 x 3 convolutions:
    each halves the resolution and doubles the channels, and a last one brings them to ``width``.
    """

    def __init__(self, width: int, patch_size: int) -> None:
        super().__init__()
        halvings = patch_size.bit_length() - 3
        widths = [max(8, width // 6) << step for step in range(halvings + 1)]
        layers: list[nn.Module] = [
            nn.PixelUnshuffle(2),
            nn.Conv2d(12, widths[0], 3, 2, 1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
            *(_Residual(narrow, wide, 2) for narrow, wide in itertools.pairwise(widths)),
            _Residual(widths[-1], width, 1),
        ]
        self.layers = nn.Sequential(*layers).to(memory_format=torch.channels_last)

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b n d"]:
        """Return patches, row-major."""
        # Channels last is how convolutions of few channels are fastest, on every device.
        images = images.contiguous(memory_format=torch.channels_last)
        return self.layers(images).flatten(2).transpose(1, 2)


class _Residual(nn.Module):
    def __init__(self, narrow: int, wide: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(narrow, wide, 3, stride, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU(),
            nn.Conv2d(wide, wide, 3, 1, 1, bias=False),
            nn.BatchNorm2d(wide),
        )
        self.shortcut = nn.Sequential(
            nn.AvgPool2d(stride), nn.Conv2d(narrow, wide, 1, bias=False), nn.BatchNorm2d(wide)
        )

    def forward(self, maps: Float[Tensor, "b c H W"]) -> Float[Tensor, "b d h w"]:
        return functional.relu(self.body(maps) + self.shortcut(maps))
