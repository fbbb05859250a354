import colorsys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssleval.errors import ConfigError
from ssleval.heads.dense.augment import Augmentation, coloured, distorted, linear, rescaled

PLAIN = Augmentation(32, (1.0, 1.0), 16, 1.0, 0.0, 0.0, "nearest")
"""A crop of 16 pixels and nothing else."""


def coordinates(height: int = 32, width: int = 48) -> tuple[Image.Image, np.ndarray]:
    """An image whose pixels say where they are, and a mask of the columns."""
    y, x = np.mgrid[:height, :width].astype(np.uint8)
    return Image.fromarray(np.stack([y, x, y * 0], axis=2)), x


def draws(augmentation: Augmentation, count: int = 300, **drawn: np.ndarray) -> list[np.ndarray]:
    image, mask = coordinates()
    generator = np.random.default_rng(0)
    return [augmentation(image, drawn.get("mask", mask), generator)[0] for _ in range(count)]


@pytest.mark.parametrize(
    ("size", "short", "expected"),
    [((480, 360), 256, (341, 256)), ((488, 360), 100, (136, 100)), ((30, 61), 15, (15, 31))],
)
def test_sides_are_rounded_as_mmcv_does(size: tuple[int, int], short: int, expected: tuple[int, int]) -> None:
    # int(side * factor + 0.5); rounding down would give 135 and 30 in the last two.
    assert rescaled(Image.new("RGB", size), short, "bilinear").size == expected


def test_crops_lie_anywhere_and_keep_their_mask() -> None:
    image, mask = coordinates()
    generator = np.random.default_rng(0)
    corners: set[tuple[int, int]] = set()
    for _ in range(250):
        pixels, seen = PLAIN(image, mask, generator)
        top, left = pixels[0, 0, :2].tolist()
        expected = np.array(image.crop((left, top, left + 16, top + 16)))
        np.testing.assert_array_equal(pixels, expected)
        np.testing.assert_array_equal(seen, pixels[..., 1])
        corners.add((top, left))
    tops, lefts = zip(*corners, strict=True)
    assert (min(tops), max(tops), min(lefts), max(lefts)) == (0, 16, 0, 32)


def test_the_mask_is_scaled_and_mirrored_with_its_image() -> None:
    image, mask = coordinates()
    seen = replace(PLAIN, ratios=(0.5, 2.0), flip=0.5, crop=200)
    generator = np.random.default_rng(0)
    shorts: list[int] = []
    mirrored: list[bool] = []
    for _ in range(200):
        pixels, classes = seen(image, mask, generator)
        np.testing.assert_array_equal(classes, pixels[..., 1])
        shorts.append(classes.shape[0])
        mirrored.append(bool(classes[0, 0] > classes[0, -1]))
    assert 16 <= min(shorts) < 18
    assert 61 < max(shorts) < 64
    assert np.mean(shorts) == pytest.approx(1.25 * 32 - 0.5, abs=3)
    assert np.mean(mirrored) == pytest.approx(0.5, abs=0.1)


def test_a_crop_of_one_class_is_drawn_anew_ten_times() -> None:
    """Of 33 places, only those with 5 to 11 of 16 columns of the second class pass; the last draw always."""
    image, columns = coordinates()
    mask = (columns >= 40).astype(np.uint8)
    generator = np.random.default_rng(0)
    strict = replace(PLAIN, cat_max_ratio=0.75)
    shares = [strict(image, mask, generator)[1].mean() for _ in range(400)]
    bad = 1 - sum(0.25 < min(1, max(0, left + 16 - 40) / 16) < 0.75 for left in range(33)) / 33
    kept = [not 0.25 < share < 0.75 for share in shares]
    assert np.mean(kept) == pytest.approx(bad**11, abs=0.07)
    assert np.mean(kept) < bad / 2


def test_ignored_pixels_do_not_make_a_class() -> None:
    image, columns = coordinates()
    mask = np.where(columns >= 40, 255, 0).astype(np.uint8)
    strict = replace(PLAIN, cat_max_ratio=0.75)
    # One class and void: all ten tries fail, and the eleventh crop stays.
    for seed in range(5):
        found = strict(image, mask, np.random.default_rng(seed))[0]
        same = np.random.default_rng(seed)
        same.uniform(1.0, 1.0)
        tries = [(int(same.integers(0, 17)), int(same.integers(0, 33))) for _ in range(11)]
        assert tuple(found[0, 0, :2].tolist()) == tries[-1]


def test_an_image_smaller_than_the_crop_stays_whole() -> None:
    image, mask = coordinates()
    pixels, seen = replace(PLAIN, crop=40)(image, mask, np.random.default_rng(0))
    assert pixels.shape == (32, 40, 3)
    assert seen.shape == (32, 40)


def test_brightness_and_contrast_are_linear_and_round_down() -> None:
    pixels = np.array([[[0, 100, 255]]], np.uint8)
    assert linear(pixels, factor=1.5).ravel().tolist() == [0, 150, 255]
    assert linear(pixels, shift=-31.5).ravel().tolist() == [0, 68, 223]


def test_hue_and_saturation_are_those_of_colorsys() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 12, 3)).astype(np.uint8)
    found = coloured(pixels, 0.7, 10 / 180)
    expected: list[tuple[float, float, float]] = []
    for pixel in pixels.reshape(-1, 3):
        hue, saturation, value = colorsys.rgb_to_hsv(*(pixel / 255).tolist())
        expected.append(colorsys.hsv_to_rgb((hue + 10 / 180) % 1, saturation * 0.7, value))
    error = np.abs(found.reshape(-1, 3) - np.array(expected) * 255)
    # Hue has 256 steps, as it has 180 in OpenCV; one is up to 6 levels.
    assert error.max() < 12
    assert error.mean() < 2.5
    assert np.abs(found.astype(float) - pixels).mean() > 20


def test_distortions_are_as_likely_and_as_strong_as_said() -> None:
    generator = np.random.default_rng(0)
    grey = np.full((1, 1, 3), 128, np.uint8)
    red = np.array([[[200, 40, 90]]], np.uint8)
    greys = np.array([distorted(grey, 0.5, generator)[0, 0] for _ in range(500)])
    same = [bool((distorted(red, 0.5, generator) == red).all()) for _ in range(500)]
    assert (greys == greys[:, :1]).all()
    # Nothing reaches grey but brightness and contrast: (128 +- 32) * (0.5 to 1.5).
    assert 48 <= greys.min() < 80
    assert 205 < greys.max() <= 240
    assert (greys == 128).mean() == pytest.approx(1 / 4, abs=0.06)
    assert np.mean(same) == pytest.approx(1 / 16, abs=0.035)
    assert (distorted(red, 0.0, generator) == red).all()


@pytest.mark.parametrize(
    "change",
    [
        {"size": 40},
        {"ratios": (0.6, 0.9)},
        {"crop": 15},
        {"flip": 1.0},
        {"distortion": 1.0},
    ],
    ids=str,
)
def test_every_setting_changes_the_view(change: dict[str, object]) -> None:
    (one,), (other,) = draws(PLAIN, 1), draws(replace(PLAIN, **change), 1)  # pyright: ignore[reportArgumentType]
    assert one.shape != other.shape or (one != other).any()


def test_the_interpolation_is_that_of_the_image() -> None:
    half = replace(PLAIN, ratios=(0.5, 0.5))
    (one,), (other,) = draws(half, 1), draws(replace(half, interpolation="bilinear"), 1)
    assert (one != other).any()


@pytest.mark.parametrize(
    "change",
    [{"ratios": (2.0, 1.0)}, {"ratios": (1.0,)}, {"crop": 0}, {"flip": 1.5}, {"cat_max_ratio": 0.0}],
    ids=str,
)
def test_what_cannot_be_drawn_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="augmentation"):
        replace(PLAIN, **change)  # pyright: ignore[reportArgumentType]


class Dictated(np.random.Generator):
    """A generator whose draws are given, or the largest; it remembers the bounds."""

    def __init__(self, draws: Sequence[float] = ()) -> None:
        super().__init__(np.random.PCG64())
        self.draws, self.bounds = list(draws), list[tuple[float, float]]()

    def random(self, *_: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.draws.pop(0)

    def uniform(self, low: Any = 0.0, high: Any = 1.0, *_: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.bounds.append((low, high))
        return high

    def integers(self, low: Any, high: Any = 0, *_: Any, **__: Any) -> Any:
        self.bounds.append((low, high))
        return low


PIXELS = np.random.default_rng(0).integers(0, 256, (6, 6, 3)).astype(np.uint8)
YES, NO = 0.0, 0.5


@pytest.mark.parametrize(
    ("draws", "bounds", "expected"),
    [
        # Brightness, contrast early, saturation, hue.
        (
            [YES, YES, YES, YES, YES],
            [(-32, 32), (0.5, 1.5), (0.5, 1.5), (-18, 18)],
            lambda: coloured(linear(linear(PIXELS, shift=32.0), factor=1.5), 1.5, -0.1),
        ),
        # Saturation, contrast late.
        (
            [NO, NO, YES, NO, YES],
            [(0.5, 1.5), (0.5, 1.5)],
            lambda: linear(coloured(PIXELS, 1.5, 0.0), factor=1.5),
        ),
        ([NO, YES, NO, NO, YES], [(-18, 18)], lambda: coloured(PIXELS, 1.0, -0.1)),
        ([NO, NO, NO, NO, NO], [], lambda: PIXELS),
    ],
    ids=["all", "late", "hue", "none"],
)
def test_distortions_follow_mmseg(
    draws: list[float], bounds: list[tuple[float, float]], expected: Any
) -> None:
    """PhotoMetricDistortion: delta 32, contrast and saturation 0.5 to 1.5, hue 18 of 180 steps."""
    dictated = Dictated(draws)
    np.testing.assert_array_equal(distorted(PIXELS, 0.5, dictated), expected())
    assert dictated.bounds == bounds
    assert not dictated.draws


@pytest.mark.parametrize(
    ("mask", "ratio", "tries"),
    [
        ([[0, 0], [0, 1]], 0.75, 11),
        ([[0, 0], [0, 1]], 0.76, 1),
        ([[0, 0], [255, 1]], 0.75, 1),
        ([[0, 0], [0, 0]], 0.75, 11),
        ([[0, 0], [0, 0]], 1.0, 1),
        ([[255, 255], [255, 255]], 0.75, 11),
        ([[254, 254], [253, 0]], 0.75, 1),
    ],
    ids=str,
)
def test_a_crop_is_drawn_anew_while_one_class_has_that_part(
    mask: list[list[int]], ratio: float, tries: int
) -> None:
    dictated = Dictated([0.9, *[0.9] * 5])
    seen = Augmentation(2, (1.0, 1.0), 2, ratio, 0.0, 0.0, "nearest")
    seen(Image.new("RGB", (2, 2)), np.array(mask, np.uint8), dictated)
    assert dictated.bounds == [(1, 1)] + [(0, 1)] * (2 * tries)


def test_no_side_vanishes() -> None:
    assert rescaled(Image.new("RGB", (4, 9)), 1, "bilinear").size == (1, 2)
    tiny = Augmentation(1, (0.5, 0.5), 4, 1.0, 0.0, 0.0, "nearest")
    assert tiny(Image.new("RGB", (4, 9)), np.zeros((9, 4), np.uint8), np.random.default_rng(0))[1].shape == (
        2,
        1,
    )
