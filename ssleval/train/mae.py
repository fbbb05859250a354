"""MAE: the encoder sees a quarter of the patches, and a small decoder predicts the pixels of the others.

Shapes: ``b`` images, ``n`` patches, ``p`` numbers of a patch, ``w`` channels of the encoder.
"""

import math
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ssleval.backbones.stems import PatchEmbed
from ssleval.backbones.vit import Vit, VitConfig, resize_positions, sincos_positions
from ssleval.train.config import TrainConfig
from ssleval.train.masking import visible_patches
from ssleval.train.objective import Objective
from ssleval.train.spread import effective_rank
from ssleval.train.views import Views


class Mae(Objective):
    """The decoder, and the mean squared error of the pixels of hidden patches.

    Source:
        He et al. 2022, arXiv:2111.06377, and facebookresearch/mae models_mae.py.
    """

    positions: Tensor

    def __init__(self, width: int, config: TrainConfig) -> None:
        settings, model = config.mae, config.model
        shape = VitConfig(settings.decoder_dim, settings.decoder_depth, settings.decoder_heads)
        decoder = Vit(shape)
        super().__init__(nn.Linear(width, settings.decoder_dim))
        self.mask_token = nn.Parameter(torch.empty(1, 1, settings.decoder_dim))
        self.blocks, self.norm = decoder.blocks, decoder.norm
        self.pixels = nn.Linear(settings.decoder_dim, 3 * model.patch_size**2)
        positions = sincos_positions(settings.decoder_dim, config.views.global_size // model.patch_size)
        self.register_buffer("positions", positions, persistent=False)
        self.patch_size, self.normalised = model.patch_size, settings.normalised
        self.mask_ratio, self.in_fp32 = settings.mask_ratio, config.run.residual == "fp32"

    def begin(self, backbone: nn.Module) -> None:
        """Initialise encoder and decoder as published: linear maps by Glorot's rule, tokens normal."""
        for part in (backbone, self):
            for module in part.modules():
                if isinstance(module, nn.Linear):
                    nn.init.xavier_uniform_(module.weight)
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.mask_token, std=0.02)
        stem = cast("Vit", backbone).patch_embed
        if isinstance(stem, PatchEmbed):
            nn.init.xavier_uniform_(stem.proj.weight.view(len(stem.proj.weight), -1))

    def forward(
        self, backbone: nn.Module, views: Views, masks: Bool[Tensor, "b n"] | None
    ) -> tuple[Float[Tensor, "b n p"], Float[Tensor, "1 b w"]]:
        """Return the predicted pixels of every patch, and the class tokens."""
        assert masks is not None
        vit, images = cast("Vit", backbone), views.globals[0]
        count = masks.shape[1]
        # Stable: hidden patches come last, and each kind keeps its order.
        order = masks.int().argsort(dim=1, stable=True)
        kept = visible_patches(count, self.mask_ratio)
        if vit.config.stem == "residual":
            # Its convolutions reach over the edges of patches.
            images = images * ~_as_pixels(masks, self.patch_size)
        tokens = vit(images, visible=order[:, :kept])
        prefix = vit.config.num_prefix
        seen = self.projector(tokens)
        hidden = self.mask_token.to(seen.dtype).expand(len(seen), count - kept, -1)
        patches = torch.cat((seen[:, prefix:], hidden), dim=1)
        places = order.argsort(dim=1).unsqueeze(-1).expand(-1, -1, patches.shape[-1])
        decoded = torch.cat((seen[:, :1], patches.gather(1, places)), dim=1)
        side = math.isqrt(count)
        # As in the encoder, blocks add up in this type.
        if self.in_fp32:
            decoded = decoded.to(torch.promote_types(decoded.dtype, torch.float32))
        decoded = decoded + resize_positions(self.positions, side, side, "size").to(decoded.dtype)
        for block in self.blocks:
            decoded = block(decoded)
        return self.pixels(self.norm(decoded)[:, 1:]), tokens[:, 0].unsqueeze(0)

    def losses(self, outputs: Tensor, views: Views, masks: Tensor | None) -> dict[str, Tensor]:
        """Return ``mae``, the mean over hidden patches, of which every image has equally many."""
        assert masks is not None
        return {"mae": pixel_loss(outputs, views.globals[0], masks, normalised=self.normalised)}

    @torch.no_grad()
    def indicators(self, outputs: Tensor, classes: Float[Tensor, "g b w"]) -> dict[str, Tensor]:
        """Return how class tokens are spread."""
        del outputs
        return {"feature_rank": effective_rank(classes.flatten(0, 1))}


def pixel_loss(
    predicted: Float[Tensor, "b n p"],
    images: Float[Tensor, "b 3 s s"],
    masks: Bool[Tensor, "b n"],
    *,
    normalised: bool,
) -> Float[Tensor, ""]:
    """Return the mean squared error of the hidden patches; ``normalised`` targets have mean 0, variance 1."""
    side, channels = math.isqrt(masks.shape[1]), 3
    size = images.shape[-1] // side
    grid = images.unflatten(3, (side, size)).unflatten(2, (side, size))
    # Within a patch, colours are the last axis.
    goal = grid.permute(0, 2, 4, 3, 5, 1).reshape(*masks.shape, channels * size**2)[masks]
    if normalised:
        goal = (goal - goal.mean(dim=-1, keepdim=True)) / (goal.var(dim=-1, keepdim=True) + 1e-6).sqrt()
    return (predicted[masks] - goal).square().mean()


def _as_pixels(masks: Bool[Tensor, "b n"], size: int) -> Bool[Tensor, "b 1 s s"]:
    side = math.isqrt(masks.shape[1])
    planes = masks.view(-1, 1, side, side)
    return planes.repeat_interleave(size, dim=2).repeat_interleave(size, dim=3)
