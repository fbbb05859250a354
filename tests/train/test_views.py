"""Crops and colours against PIL and torchvision, image by image."""

from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps
from torchvision.transforms import functional as reference

from ssleval.train import chunks, views
from ssleval.train.colors import blurred, distort, draw_colors, hue_shifted
from ssleval.train.crops import Boxes, draw_boxes, packed, resized_crops
from ssleval.train.sections import ViewsConfig
from ssleval.train.views import MEAN, STD, make_views


def picture(height: int = 40, width: int = 52, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    small = Image.fromarray(random.integers(0, 256, (8, 9, 3), dtype=np.uint8))
    return np.array(small.resize((width, height), Image.Resampling.BICUBIC))


def box(top: int, left: int, height: int, width: int, *, flipped: bool) -> Boxes:
    return Boxes(
        np.array([top]), np.array([left]), np.array([height]), np.array([width]), np.array([flipped])
    )


@pytest.mark.parametrize("size", [12, 33])
@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("place", [(0, 0, 40, 52), (7, 11, 20, 31), (30, 40, 10, 9)])
def test_crops_are_those_of_pil(place: tuple[int, int, int, int], flipped: bool, size: int) -> None:
    image = picture()
    top, left, height, width = place
    expected = Image.fromarray(image).crop((left, top, left + width, top + height))
    expected = expected.resize((size, size), Image.Resampling.BICUBIC)
    expected = ImageOps.mirror(expected) if flipped else expected
    boxes = torch.from_numpy(packed([box(*place, flipped=flipped)]))
    found = resized_crops(torch.from_numpy(image)[None], boxes, size)[0, 0]
    # PIL rounds to 8 bits twice.
    np.testing.assert_allclose(found.permute(1, 2, 0).numpy() * 255, np.array(expected), atol=1.6)


def test_boxes_fit_and_cover_the_scales_asked_for() -> None:
    sizes = np.array([[40, 52], [52, 40]] * 500)
    boxes = draw_boxes(np.random.default_rng(0), sizes, ViewsConfig(local_scale=(0.25, 0.5)), 2)
    assert (boxes.top >= 0).all()
    assert (boxes.left >= 0).all()
    assert (boxes.top + boxes.height <= sizes[:, 0]).all()
    assert (boxes.left + boxes.width <= sizes[:, 1]).all()
    area = boxes.height * boxes.width / sizes.prod(axis=1)
    assert 0.22 < area.min() < 0.28
    assert 0.47 < area.max() < 0.53
    assert area.mean() == pytest.approx(0.375, abs=0.02)
    aspect = boxes.width / boxes.height
    assert 0.7 < aspect.min() < 0.8
    assert 1.25 < aspect.max() < 1.4
    assert 0.4 < boxes.flipped.mean() < 0.6


@pytest.mark.parametrize("ratio", [(0.1, 0.1), (10.0, 10.0)])
def test_a_box_has_at_least_a_pixel(ratio: tuple[float, float]) -> None:
    boxes = draw_boxes(
        np.random.default_rng(0), np.array([[4, 4], [1, 9], [9, 1]]), ViewsConfig(ratio=ratio), 2
    )
    assert min(boxes.height.min(), boxes.width.min()) >= 1


def test_an_image_too_long_for_any_box_gives_its_middle() -> None:
    views = ViewsConfig(global_scale=(1.0, 1.0), flip=0.0)
    boxes = draw_boxes(np.random.default_rng(0), np.array([[10, 400]]), views, 0)
    assert (boxes.height[0], boxes.width[0], boxes.left[0]) == (10, 13, (400 - 13) // 2)


ADJUST = (
    reference.adjust_brightness, reference.adjust_contrast, reference.adjust_saturation, reference.adjust_hue,
)  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_colours_are_those_of_torchvision(seed: int) -> None:
    chosen = ViewsConfig(jitter=0.8, grayscale=0.3, blur=(0.0,) * 3, solarize=(0.0, 0.5, 0.0))
    colors = draw_colors(np.random.default_rng(seed), 6, chosen, 1)
    images = [picture(16, 16, seed=10 * seed + index) for index in range(6)]
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255
    found = distort(stacked.clone(), colors)
    for index, image in enumerate(images):
        expected = torch.from_numpy(image).permute(2, 0, 1) / 255
        if colors.jittered[index]:
            for kind in colors.order[index]:
                expected = ADJUST[kind](expected, float(colors.factors[index, kind]))
        if colors.gray[index]:
            expected = reference.rgb_to_grayscale(expected, 3)
        if colors.solarized[index]:
            expected = reference.solarize(expected, 127.5 / 255)
        # torchvision's grey has 0.2989 for 0.299.
        torch.testing.assert_close(found[index], expected, atol=2e-3, rtol=0)


def test_a_whole_turn_of_hue_changes_nothing() -> None:
    crops = torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    turned = hue_shifted(crops, torch.ones(2, 1, 1, 1))
    torch.testing.assert_close(turned, crops, atol=1e-5, rtol=0)
    assert (hue_shifted(crops, torch.full((2, 1, 1, 1), 0.3)) - crops).abs().max() > 0.1


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.0])
def test_blur_is_pils(sigma: float) -> None:
    image = picture(24, 24)
    crops = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    found = blurred(crops, np.array([sigma]))[0].permute(1, 2, 0).numpy() * 255
    expected = np.array(Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma)))
    # PIL rounds to 8 bits six times.
    np.testing.assert_allclose(found, expected, atol=3)
    assert np.abs(found - expected).mean() < 1
    assert np.abs(image - found).max() > 3


def test_each_crop_has_blur_and_solarisation_of_its_own_kind() -> None:
    drawn = [draw_colors(np.random.default_rng(0), 2000, ViewsConfig(), kind) for kind in range(3)]
    assert [float((one.sigma > 0).mean()) for one in drawn] == pytest.approx([1.0, 0.1, 0.5], abs=0.04)
    assert [float(one.solarized.mean()) for one in drawn] == pytest.approx([0.0, 0.2, 0.0], abs=0.04)
    assert float(drawn[0].jittered.mean()) == pytest.approx(0.8, abs=0.04)
    assert float(drawn[0].gray.mean()) == pytest.approx(0.2, abs=0.04)
    assert float(drawn[0].sigma.max()) == pytest.approx(2.0, abs=0.05)


VIEWS = ViewsConfig(global_size=16, local_size=8, local_crops=3)


def test_views_depend_on_seed_step_and_place_alone() -> None:
    images = [picture(20 + index % 2, 24, seed=index) for index in range(6)]
    whole = make_views(images, VIEWS, seed=1, step=5, first=0, total=6, device="cpu")
    assert whole.globals.shape == (2, 6, 3, 16, 16)
    assert whole.locals.shape == (3, 6, 3, 8, 8)
    half = make_views(images[3:], VIEWS, seed=1, step=5, first=3, total=6, device="cpu")
    torch.testing.assert_close(half.globals, whole.globals[:, 3:], atol=1e-5, rtol=0)
    torch.testing.assert_close(half.locals, whole.locals[:, 3:], atol=1e-5, rtol=0)
    for seed, step in ((2, 5), (1, 6)):
        other = make_views(images, VIEWS, seed=seed, step=step, first=0, total=6, device="cpu")
        assert (other.globals - whole.globals).abs().max() > 0.5


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [(views, "_GROUPED_ON_CPU", 16), (chunks, "_ON_CPU", 1), (chunks, "_ON_CPU", 1 << 26)],
)
def test_views_are_those_of_images_and_crops_one_by_one(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, value: int
) -> None:
    images = [picture(20 + index % 3, 24 + 7 * (index % 2), seed=index) for index in range(6)]
    before = make_views(images, VIEWS, seed=1, step=5, first=0, total=6, device="cpu")
    monkeypatch.setattr(module, name, value)
    after = make_views(images, VIEWS, seed=1, step=5, first=0, total=6, device="cpu")
    torch.testing.assert_close(after.globals, before.globals, atol=1e-5, rtol=0)
    torch.testing.assert_close(after.locals, before.locals, atol=1e-5, rtol=0)


def test_views_are_normalised_and_may_lack_local_crops() -> None:
    images = [np.full((20, 20, 3), 255, np.uint8)]
    plain = replace(VIEWS, jitter=0.0, local_crops=0, solarize=(0.0,) * 3)
    made = make_views(images, plain, seed=0, step=0, first=0, total=1, device="cpu")
    expected = (1 - torch.tensor(MEAN)) / torch.tensor(STD)
    torch.testing.assert_close(made.globals[0, 0, :, 3, 3], expected, atol=1e-4, rtol=0)
    assert len(made.locals) == 0
