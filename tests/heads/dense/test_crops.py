from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d, cross_entropy

from ssleval.core import Split
from ssleval.core.batches import batches
from ssleval.errors import ContractError
from ssleval.heads.dense.augment import Augmentation
from ssleval.heads.dense.crops import Crops, fit_on_crops
from ssleval.heads.dense.grid import Fit, LinearHead
from ssleval.heads.dense.segmentation import pixel_loss

COLOUR = (0.25, 0.5, 0.75)
PLAIN = Augmentation(16, (0.5, 1.0), 16, 0.75, 0.5, 0.5, "bilinear")


def split() -> Split:
    """Eight images, red where the class is 1 and blue where it is 0; the first row is void."""
    masks = [np.random.default_rng(row).integers(0, 2, (4, 6)).astype(np.uint8) for row in range(8)]
    large = [mask.repeat(4, 0).repeat(4, 1) for mask in masks]
    images = [Image.fromarray(np.array([[20, 30, 200], [220, 40, 30]], np.uint8)[mask]) for mask in large]
    for mask in large:
        mask[0] = 255
    return Split([str(row) for row in range(8)], lambda row: images[row], None, "f", lambda row: large[row])


def crops(seed: int = 0, iterations: int = 30) -> Crops:
    return Crops(split(), np.stack(list(batches(8, 4, iterations, seed))), PLAIN, COLOUR, seed)


def test_what_a_small_crop_leaves_is_the_mean_colour_and_ignored() -> None:
    small = replace(crops(), augmentation=replace(PLAIN, ratios=(0.5, 0.5)))
    images, masks = small[0]
    assert images.shape == (4, 3, 16, 16)
    assert (masks[:, 8:] == 255).all()
    assert (masks[:, 1:8, :12] < 2).all()
    for channel, value in enumerate(COLOUR):
        assert (images[:, channel, 8:] == value).all()
        assert (images[:, channel, :, 12:] == value).all()


def test_a_batch_is_the_same_whenever_it_is_asked_for() -> None:
    one, other = crops(), crops()
    for index in (5, 0, 5):
        torch.testing.assert_close(one[index], other[index], rtol=0, atol=0)
    assert (one[0][0] != one[1][0]).any()
    assert (one[0][0] != replace(crops(), seed=1)[0][0]).any()


def patches(pixels: Tensor) -> Tensor:
    return avg_pool2d(pixels, 4).permute(0, 2, 3, 1)


def test_a_head_learns_from_crops() -> None:
    how = Fit(30, 4, 0.05, 0.0, 0, warmup=3)
    head = LinearHead(3, 2, normalise=True, seed=0)
    head = fit_on_crops(((patches(images), masks) for images, masks in crops()), how, head, "cpu")
    colours = torch.tensor([[20, 30, 200], [220, 40, 30]]).view(2, 1, 1, 3) / 255
    assert head(colours).argmax(1).flatten().tolist() == [0, 1]
    assert not head.training


def test_the_loss_is_a_mean_over_all_pixels() -> None:
    logits = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    held = torch.randint(0, 3, (2, 4, 5), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    held[0, :2] = 255
    each = cross_entropy(logits, held.long(), ignore_index=255, reduction="none")
    assert (each == 0).sum() == 10
    torch.testing.assert_close(pixel_loss(logits, held), each.mean())


def test_what_cannot_be_cropped_is_refused() -> None:
    with pytest.raises(ContractError, match="without the masks"):
        replace(crops(), split=replace(split(), target=None))[0]
