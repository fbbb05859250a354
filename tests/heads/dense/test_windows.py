import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, pad, softmax

from ssleval.features.live import padded
from ssleval.heads.dense.windows import classes_of_views, slid, starts

COLOUR, STD = (0.485, 0.456, 0.406), torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
IMAGE = torch.rand(1, 3, 20, 33, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("length", "crop", "stride", "expected"),
    [(1024, 512, 341, [0, 341, 512]), (512, 512, 341, [0]), (683, 512, 341, [0, 171]), (5, 8, 3, [0])],
)
def test_windows_lie_where_mmseg_lays_them(length: int, crop: int, stride: int, expected: list[int]) -> None:
    assert starts(length, crop, stride) == expected


def test_padding_is_zero_once_the_model_has_normalised() -> None:
    mean = torch.tensor(COLOUR).view(1, 3, 1, 1)
    found = (padded(IMAGE, 14, COLOUR, centred=True) - mean) / STD
    # 20 to 28 rows: 4 and 4; 33 to 42 columns: 4 and 5.
    torch.testing.assert_close(found, pad((IMAGE - mean) / STD, (4, 5, 4, 4)))
    assert padded(IMAGE, 1, COLOUR, centred=True) is IMAGE


def test_what_every_window_agrees_on_is_what_comes_out() -> None:
    torch.testing.assert_close(slid(lambda pixels: pixels, IMAGE, 8, 5), IMAGE)
    # A coarser grid of logits is upsampled to the window, not to the image.
    halves = slid(lambda pixels: pixels[..., ::2, ::2], IMAGE[..., :8], 40, 5)
    expected = interpolate(IMAGE[..., ::2, :8:2], (20, 8), mode="bilinear", align_corners=False)
    torch.testing.assert_close(halves, expected)


def test_windows_that_overlap_are_averaged() -> None:
    seen: list[int] = []

    def numbered(pixels: Tensor) -> Tensor:
        seen.append(len(seen))
        return torch.full((1, 1, *pixels.shape[2:]), float(seen[-1]))

    found = slid(numbered, IMAGE[..., :4, :10], 6, 4)
    assert seen == [0, 1]
    assert found[0, 0].tolist() == [[0, 0, 0, 0, 0.5, 0.5, 1, 1, 1, 1]] * 4


def test_views_are_averaged_after_the_softmax() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 18, 3)).astype(np.uint8))
    weight = torch.randn(3, 3, generator=torch.Generator().manual_seed(1)) * 6

    def logits_of(pixels: Tensor) -> Tensor:
        # Not symmetric: a mirrored view of the same model is another one.
        ramp = torch.linspace(0, 4, pixels.shape[3])
        return torch.einsum("kc,bchw->bkhw", weight, pixels - 0.5) + ramp * torch.tensor([0, 1, -1]).view(
            3, 1, 1
        )

    def classes(shorts: list[int], mirrored: bool, crop: int = 999, stride: int = 999) -> np.ndarray:
        settings = {"crop": crop, "stride": stride, "interpolation": "bilinear", "device": "cpu"}
        return classes_of_views(logits_of, image, (24, 36), shorts=shorts, mirrored=mirrored, **settings)  # pyright: ignore[reportArgumentType]

    total = torch.zeros(1, 3, 24, 36)
    for short in (12, 9):
        small = image.resize((short * 18 // 12 + (short == 9), short), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1)[None] / 255
        for mirrored in (False, True):
            logits = logits_of(pixels.flip(3) if mirrored else pixels)
            found = softmax(interpolate(logits, (24, 36), mode="bilinear", align_corners=False), 1)
            total += found.flip(3) if mirrored else found
    np.testing.assert_array_equal(classes([12, 9], True), total[0].argmax(0).numpy())
    variants = [
        classes([12], True),
        classes([12, 9], False),
        classes([12], False),
        classes([12], False, 6, 4),
    ]
    for variant in variants:
        assert (variant != classes([12, 9], True)).any()
