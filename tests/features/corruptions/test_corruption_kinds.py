"""Every corruption against an independent computation of what it is published to do."""

import colorsys
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import convolve, gaussian_filter

from ssleval.core.corruptions import CORRUPTIONS as PUBLISHED
from ssleval.errors import ConfigError, UnknownNameError
from ssleval.features.corruptions import CORRUPTIONS, SEVERITIES, blur, corrupt, digital, noise, weather

DRAWN = {"contrast", "brightness", "defocus_blur", "zoom_blur", "pixelate", "jpeg_compression"}
"""Corruptions that draw nothing at random."""


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def picture(side: int = 32) -> np.ndarray:
    smooth = gaussian_filter(rng(1).random((side, side, 3)), (2, 2, 0))
    return (255 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)


def grey(level: float, side: int = 64) -> np.ndarray:
    return np.full((side, side, 3), level)


def test_they_are_the_fifteen_of_imagenet_c_but_for_frost() -> None:
    ours = [name.removeprefix("procedural_") for name in CORRUPTIONS]
    assert tuple(ours) == PUBLISHED
    assert "frost" not in CORRUPTIONS


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_picture_depends_on_item_and_severity_and_nothing_else(name: str) -> None:
    pixels = picture()
    found = [corrupt(pixels, name, severity, "a") for severity in SEVERITIES]
    assert all(one.shape == pixels.shape and one.dtype == np.uint8 for one in found)
    assert len({one.tobytes() for one in found} | {pixels.tobytes()}) == 6
    assert np.array_equal(found[2], corrupt(pixels, name, 3, "a"))
    assert np.array_equal(found[2], corrupt(pixels, name, 3, "b")) == (name in DRAWN)


@pytest.mark.parametrize(
    "name", sorted(set(CORRUPTIONS) - {"elastic_transform", "fog", "snow", "procedural_frost"})
)
def test_severity_five_changes_more_than_one(name: str) -> None:
    pixels = picture(64)
    low, high = (
        np.abs(corrupt(pixels, name, severity, "a").astype(float) - pixels).mean() for severity in (1, 5)
    )
    assert 0 < low < high


def test_unknown_names_and_severities_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean fog"):
        corrupt(picture(), "fogg", 1, "a")
    with pytest.raises(ConfigError, match="severity 6; expected 1 to 5"):
        corrupt(picture(), "fog", 6, "a")


@pytest.mark.parametrize(("severity", "deviation"), [(1, 0.08), (5, 0.38)])
def test_gaussian_noise_has_its_deviation(severity: int, deviation: float) -> None:
    added = noise.gaussian_noise(grey(0.5), severity, rng()) - 0.5
    assert added.std() == pytest.approx(deviation, rel=0.03)
    assert added.mean() == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize(("severity", "photons"), [(1, 60), (5, 3)])
def test_shot_noise_has_the_variance_of_counting(severity: int, photons: int) -> None:
    found = noise.shot_noise(grey(0.4), severity, rng())
    assert found.mean() == pytest.approx(0.4, rel=0.03)
    assert found.var() == pytest.approx(0.4 / photons, rel=0.05)


@pytest.mark.parametrize(("severity", "fraction"), [(1, 0.03), (5, 0.27)])
def test_impulse_noise_sets_values_to_the_ends(severity: int, fraction: float) -> None:
    found = noise.impulse_noise(grey(0.4), severity, rng())
    assert set(np.unique(found)) == {0, 0.4, 1}
    assert (found == 0).mean() == pytest.approx(fraction / 2, rel=0.15)
    assert (found == 1).mean() == pytest.approx(fraction / 2, rel=0.15)


def test_defocus_is_the_mean_over_a_disk() -> None:
    pixels = picture() / 255
    axis = np.arange(-3, 4)
    disk = (axis**2 + axis[:, None] ** 2 <= 9).astype(float)
    expected = convolve(pixels, (disk / disk.sum())[:, :, None], mode="mirror")
    assert np.allclose(blur.defocus_blur(pixels, 1, rng()), expected, atol=1e-6)
    point = np.zeros((41, 41, 3))
    point[20, 20] = 1
    spread = blur.defocus_blur(point, 5, rng())[:, :, 0]
    assert spread.sum() == pytest.approx(1)
    # Half of the 21 columns through the middle lie within the radius of 10, softened by two pixels.
    assert 21 <= (spread[20] > 1e-6).sum() <= 25


def test_glass_swaps_pixels_within_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    def unchanged(pixels: np.ndarray, sigma: object, mode: str) -> np.ndarray:
        return pixels

    monkeypatch.setattr("scipy.ndimage.gaussian_filter", unchanged)
    pixels = np.arange(24 * 24 * 3, dtype=float).reshape(24, 24, 3)
    found = blur.glass_blur(pixels, 1, rng())
    assert sorted(found[:, :, 0].reshape(-1)) == sorted(pixels[:, :, 0].reshape(-1))
    assert 0.5 < (found != pixels).mean() < 1


def test_movement_along_a_row_is_half_a_normal_kernel() -> None:
    pixels = picture() / 255
    weights = np.exp(-(np.arange(7) ** 2) / (2 * 2.0**2))
    weights /= weights.sum()
    padded = np.pad(pixels, ((0, 0), (0, 6), (0, 0)), mode="edge")
    expected = sum(weights[step] * padded[:, step : step + 32] for step in range(7))
    assert np.allclose(blur.moved(pixels, 3, 2.0, 0.0), expected)
    assert np.allclose(blur.moved(grey(0.3, 12), 3, 2.0, 30.0), 0.3)
    assert not np.allclose(blur.moved(pixels, 3, 2.0, 40.0), blur.moved(pixels, 3, 2.0, -40.0))


def test_zooming_is_bilinear_and_keeps_the_middle() -> None:
    pixels = rng().random((16, 16, 3))
    middle = torch.from_numpy(pixels[4:12, 4:12]).permute(2, 0, 1)[None].float()
    expected = torch.nn.functional.interpolate(middle, scale_factor=2.0, mode="bilinear")[0].permute(1, 2, 0)
    inner = (slice(1, 15), slice(1, 15))  # at the rim PIL sees the pixels around the middle
    assert np.allclose(blur.zoomed(pixels, 2.0)[inner], expected.numpy()[inner], atol=1e-6)
    factors = np.arange(1, 1.11, 0.01)
    total = pixels + np.sum([blur.zoomed(pixels, float(factor)) for factor in factors], axis=0)
    assert np.allclose(blur.zoom_blur(pixels, 1, rng()), total / (len(factors) + 1))


def test_brightness_raises_value_alone() -> None:
    pixels = rng().random((6, 6, 3))
    pixels[0, 0] = 0
    found = weather.brightness(pixels, 2, rng())
    for before, after in zip(pixels.reshape(-1, 3), found.reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*before)
        assert after == pytest.approx(colorsys.hsv_to_rgb(hue, saturation, min(value + 0.2, 1)))


@pytest.mark.parametrize(("severity", "decay"), [(1, 2.0), (5, 1.4)])
def test_fog_adds_a_cloud_and_keeps_the_brightest_value(severity: int, decay: float) -> None:
    pixels = picture(24) / 255
    amount = {1: 1.5, 5: 3.0}[severity]
    cloud = weather.plasma(24, decay, rng())
    assert cloud.shape == (32, 32)
    assert (cloud.min(), cloud.max()) == (0, 1)
    found = weather.fog(pixels, severity, rng())
    expected = (pixels + amount * cloud[:24, :24, None]) * pixels.max() / (pixels.max() + amount)
    assert np.allclose(found, expected)


def test_clouds_are_rougher_where_amplitudes_decay_slower() -> None:
    smooth, rough = (np.abs(np.diff(weather.plasma(64, decay, rng()), axis=0)).mean() for decay in (2.5, 1.4))
    assert smooth < rough / 2


def test_snow_pales_and_adds_flakes() -> None:
    pixels = grey(0.2)
    found = weather.snow(pixels, 1, rng())
    paled = 0.8 * 0.2 + 0.2 * (1.5 * 0.2 + 0.5)
    assert found.min() == pytest.approx(paled)
    assert found.max() > paled + 0.2
    flakes = found - paled
    assert np.allclose(flakes, flakes[::-1, ::-1])


def test_frost_brightens_in_the_published_proportions() -> None:
    black, white = (weather.procedural_frost(grey(level), 5, rng()) for level in (0.0, 1.0))
    assert np.allclose(white - black, 0.6)
    assert 0 < black.min() < black.max() < 0.75
    assert black[:, :, 0].mean() < black[:, :, 2].mean()


def test_contrast_draws_towards_the_mean_of_each_channel() -> None:
    pixels = picture() / 255
    found = digital.contrast(pixels, 4, rng())
    assert np.allclose(found.mean((0, 1)), pixels.mean((0, 1)))
    assert np.allclose(found.std((0, 1)), 0.1 * pixels.std((0, 1)))


def test_the_cosine_domain_filters_as_a_normal_kernel_with_reflected_edges() -> None:
    field = rng().random((40, 30))
    for sigma in (2.44, 9.0):
        expected = gaussian_filter(field, sigma, mode="reflect", truncate=8)
        assert np.allclose(digital._smooth(field, sigma), expected, atol=1e-4)


def test_affine_maps_move_the_picture() -> None:
    pixels = picture() / 255
    assert np.allclose(digital._affine(pixels, np.zeros((3, 2))), pixels)
    moved = digital._affine(pixels, np.array([[2.0, 1.0]] * 3))
    assert np.allclose(moved[2:, 1:], pixels[:-2, :-1])


@pytest.mark.parametrize(
    ("severity", "pixels_moved", "sigma", "jitter"), [(2, 488.0, 19.52, 48.8), (5, 29.28, 2.44, 4.88)]
)
def test_elastic_strengths_are_the_published_ones(
    monkeypatch: pytest.MonkeyPatch, severity: int, pixels_moved: float, sigma: float, jitter: float
) -> None:
    seen: list[float] = []

    def affine(pixels: np.ndarray, shifts: np.ndarray) -> np.ndarray:
        seen.append(float(np.abs(shifts).max()))
        return pixels

    def smooth(field: np.ndarray, sigma: float) -> np.ndarray:
        seen.append(sigma)
        return np.full_like(field, 1 / 244)

    monkeypatch.setattr(digital, "_affine", affine)
    monkeypatch.setattr(digital, "_smooth", smooth)
    ramp = np.arange(60.0)[:, None, None] * np.ones((60, 60, 3))
    moved = digital.elastic_transform(ramp, severity, rng())
    assert (moved - ramp)[:50] == pytest.approx(pixels_moved / 244)
    assert jitter / 2 < seen[0] <= jitter
    assert seen[1:] == pytest.approx([sigma, sigma])


@pytest.mark.parametrize(("severity", "side"), [(1, 12), (5, 5)])
def test_pixelation_has_so_many_pixels(severity: int, side: int) -> None:
    pixels = rng().random((20, 20, 3))
    found = digital.pixelate(pixels, severity, rng())
    assert len(np.unique(found.reshape(-1, 3), axis=0)) >= side
    image = Image.fromarray((pixels * 255).round().astype(np.uint8))
    small = image.resize((side, side), Image.Resampling.BOX).resize((20, 20), Image.Resampling.BOX)
    assert np.array_equal(found * 255, np.asarray(small))


def test_jpeg_is_pil_s_at_the_published_quality() -> None:
    pixels = picture()
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=7)
    expected = np.asarray(Image.open(file))
    assert np.array_equal(corrupt(pixels, "jpeg_compression", 5, "a"), expected)
