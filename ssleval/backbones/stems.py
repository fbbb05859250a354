"""Patch embeddings of a vision transformer: a linear map, or a small residual network."""

import itertools

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class PatchEmbed(nn.Module):
    """A linear map of each patch, as in all published models of this family."""

    def __init__(self, width: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b n d"]:
        """Return patches, row-major."""
        return self.proj(images).flatten(2).transpose(1, 2)


class ResidualStem(nn.Module):
    """Patch embedding by residual blocks: the hybrid of Dosovitskiy et al. 2020, arXiv:2010.11929, sec. 3.1.

    The blocks are those of ResNet-D (He et al. 2018, arXiv:1812.01187, fig. 2c) with two 3 x 3 convolutions.
    Each halves the resolution and doubles the channels; the last one maps them to ``width`` channels.
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
        # Convolutions of few channels are fastest in this memory format, on all devices.
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
