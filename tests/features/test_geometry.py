from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import v2

from ssleval.core import Geometry, RandomView, digest
from ssleval.core import geometry as pinned
from ssleval.core.geometry import FILTERS, apply
from ssleval.errors import ConfigError, ContractError, DataError
from ssleval.features.geometry import Box, drawn_box, random_view

SIZES = [
    (32, 32),
    (33, 47),
    (47, 33),
    (500, 375),
    (375, 500),
    (224, 224),
    (223, 301),
    (256, 640),
    (7, 19),
    (640, 97),
]
MODES = {name: transforms.InterpolationMode(name) for name in FILTERS}


def noise(size: tuple[int, int]) -> Image.Image:
    width, height = size
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("resize", "crop"), [(256, 224), (224, 224), (248, 224), (64, 96), (65, 96), (33, 32), (40, 33)]
)
def test_short_and_crop_equal_torchvision(size: tuple[int, int], resize: int, crop: int):
    image = noise(size)
    steps = [transforms.Resize(resize, MODES["bicubic"]), transforms.CenterCrop(crop)]
    expected = transforms.Compose(steps)(image)
    np.testing.assert_array_equal(apply(Geometry(resize, "short", crop), image), np.array(expected))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("crop", [1, 18, 19, 33, 96, 700])
def test_crop_alone_equals_torchvision(size: tuple[int, int], crop: int):
    expected = transforms.CenterCrop(crop)(noise(size))
    np.testing.assert_array_equal(apply(Geometry(None, crop=crop), noise(size)), np.array(expected))


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("size", SIZES[:4])
def test_square_and_filters_equal_torchvision(size: tuple[int, int], name: str):
    expected = transforms.Resize((48, 48), MODES[name])(noise(size))
    got = apply(Geometry(48, "square", interpolation=name), noise(size))  # pyright: ignore[reportArgumentType]
    np.testing.assert_array_equal(got, np.array(expected))


@pytest.mark.parametrize("size", SIZES)
def test_long_equals_torchvision(size: tuple[int, int]):
    expected = v2.Resize(None, MODES["bicubic"], max_size=99)(noise(size))
    got = apply(Geometry(99, "long"), noise(size))
    assert max(got.shape) == 99
    np.testing.assert_array_equal(got, np.array(expected))


@pytest.mark.parametrize("size", [(side, 64) for side in range(64, 73)])
def test_a_crop_begins_rounded_down_as_in_transformers(size: tuple[int, int]):
    from transformers.image_transforms import center_crop

    image = noise(size)
    expected = center_crop(np.asarray(image), (33, 33))
    down = apply(Geometry(None, crop=33, crop_start="down"), image)
    assert np.array_equal(down, expected)
    same = np.array_equal(apply(Geometry(None, crop=33), image), expected)
    assert same == all((side - 33) % 4 != 3 for side in size)


def test_keys_of_other_geometries_are_as_before_there_were_two_ways_to_crop():
    assert Geometry(256, crop=224).recorded() == {
        "resize": 256, "mode": "short", "crop": 224, "interpolation": "bicubic", "flip": False, "multiple": 1,
    }  # fmt: skip
    assert Geometry(256, crop=224, crop_start="down").recorded()["crop_start"] == "down"


def test_every_short_side_of_many_sizes_equals_torchvision():
    generator = np.random.default_rng(0)
    for width, height, resize in generator.integers(8, 90, (150, 3)).tolist():
        expected = transforms.Resize(resize, MODES["bilinear"])(noise((width, height)))
        got = apply(Geometry(resize, interpolation="bilinear"), noise((width, height)))
        np.testing.assert_array_equal(got, np.array(expected))


def test_nothing_asked_leaves_the_image():
    np.testing.assert_array_equal(apply(Geometry(None), noise((5, 6))), np.array(noise((5, 6))))


def test_a_line_keeps_a_pixel():
    assert apply(Geometry(10, "long"), noise((500, 3))).shape == (1, 10, 3)
    assert apply(Geometry(10, "long"), noise((3, 500))).shape == (10, 1, 3)


@pytest.mark.parametrize(
    ("size", "step", "expected"),
    [
        ((640, 480), 16, (224, 160)),
        ((480, 640), 14, (168, 224)),
        ((500, 3), 16, (224, 16)),
        ((90, 90), 32, (224,) * 2),
    ],
)
def test_sides_go_to_the_nearest_multiple(size: tuple[int, int], step: int, expected: tuple[int, int]):
    geometry = Geometry(224, "long", multiple="patch").on_grid(step)
    got = apply(geometry, noise(size))
    assert (got.shape[1], got.shape[0]) == expected
    resized = noise(size).resize(expected, FILTERS["bicubic"])
    np.testing.assert_array_equal(got, np.array(resized))
    assert geometry != Geometry(224, "long").on_grid(step)


def test_an_image_as_it_is_goes_to_the_nearest_multiple():
    assert apply(Geometry(None, multiple=16), noise((90, 50))).shape == (48, 96, 3)


@pytest.mark.parametrize("fixed", [{"mode": "square"}, {"crop": 32}])
def test_a_pinned_size_is_not_rounded(fixed: dict[str, object]):
    with pytest.raises(ConfigError, match="only sides that vary"):
        Geometry(33, multiple="patch", **fixed)  # pyright: ignore[reportArgumentType]


def test_a_mirrored_image_is_mirrored_last():
    plain = apply(Geometry(20, "short", 13), noise((33, 47)))
    np.testing.assert_array_equal(
        apply(Geometry(20, "short", 13, flip=True), noise((33, 47))), plain[:, ::-1]
    )


def test_other_modes_are_refused():
    with pytest.raises(ContractError, match="mode 'L', expected RGB"):
        apply(Geometry(8), noise((9, 9)).convert("L"))


VIEW = RandomView(0, 32)


def test_a_random_view_is_torchvisions_crop_and_flip():
    image = noise((90, 60))
    for index in range(8):
        view = RandomView(index, 32, "bilinear")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(digest(["a.jpg", index, 0])[:15], 16))
            steps = [transforms.RandomResizedCrop(32, interpolation=MODES["bilinear"])]
            expected = transforms.Compose([*steps, transforms.RandomHorizontalFlip()])(image)
        np.testing.assert_array_equal(random_view(view, image, "a.jpg"), np.array(expected))


def test_a_crop_that_leaves_the_image_is_drawn_again_or_cut_to_it():
    """A square of the image's area has 100 pixels a side, of which 10 rows fit."""
    whole = RandomView(0, 32, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    boxes = [drawn_box(replace(whole, drawn="tensorflow", index=index), 1000, 10, "a") for index in range(50)]
    assert {box[:1] + box[2:4] for box in boxes} == {(0, 10, 100)}
    assert len({box.left for box in boxes}) > 30
    assert all(0 <= box.left <= 900 for box in boxes)
    again = drawn_box(whole, 1000, 10, "a")
    assert (again.height, again.width) == (10, 10)


def test_crops_that_are_cut_have_the_area_and_the_shape_asked_for():
    view = RandomView(0, 32, drawn="tensorflow", scale=(0.1, 0.2), ratio=(0.5, 2.0))
    boxes = [drawn_box(replace(view, index=index), 800, 800, "a") for index in range(300)]
    areas = np.array([box.height * box.width / 800**2 for box in boxes])
    ratios = np.array([box.width / box.height for box in boxes])
    assert 0.098 < areas.min() < 0.11
    assert 0.19 < areas.max() < 0.202
    assert abs(np.log(ratios).mean()) < 0.1
    assert 0.49 < ratios.min() < 0.55
    assert 1.8 < ratios.max() < 2.04


def test_threads_draw_what_one_draws():
    def drawn(_: int) -> list[Box]:
        return [drawn_box(RandomView(index, 32), 90, 60, "a.jpg") for index in range(60)]

    alone = drawn(0)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(drawn, range(4))) == [alone] * 4


def test_a_random_view_disturbs_no_generator():
    state = torch.get_rng_state()
    random_view(VIEW, noise((40, 40)), "a.jpg")
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "change",
    [
        {"index": 1},
        {"seed": 1},
        {"interpolation": "bilinear"},
        {"scale": (0.9, 1.0)},
        {"ratio": (1.0, 1.0)},
        {"flip": 1.0},
    ],
    ids=str,
)
def test_every_field_of_a_random_view_changes_it(change: dict[str, object]):
    image = noise((90, 60))

    def seen(view: RandomView) -> bytes:
        return b"".join(random_view(view, image, f"{item}.jpg").tobytes() for item in range(4))

    assert seen(VIEW) == seen(VIEW)
    assert seen(VIEW) != seen(replace(VIEW, **change))  # pyright: ignore[reportArgumentType]


def test_a_random_view_is_of_the_item_and_of_the_size_asked_for():
    image = noise((90, 60))
    assert random_view(VIEW, image, "a.jpg").tobytes() != random_view(VIEW, image, "b.jpg").tobytes()
    assert random_view(replace(VIEW, size=48), image, "a.jpg").shape == (48, 48, 3)
    with pytest.raises(ContractError, match="'L'"):
        random_view(VIEW, image.convert("L"), "a.jpg")


def test_an_image_that_would_become_huge_is_refused_before_it_does():
    image = Image.new("RGB", (1, 60_000))
    with pytest.raises(DataError, match="1 x 60000 pixels would become 256 x 15,360,000"):
        apply(Geometry(256, "short", 224), image)
    assert apply(Geometry(256, "long"), image).shape == (256, 1, 3)
    assert apply(Geometry(32, "square"), image).shape == (32, 32, 3)


def test_as_many_pixels_as_pil_decodes_are_the_most(monkeypatch: pytest.MonkeyPatch):
    # Twice Image.MAX_IMAGE_PIXELS is an error of PIL, and that is a quarter of a GB of RGB.
    assert pinned.MOST_PIXELS == 2 * (1024**3 // 4 // 3)
    monkeypatch.setattr(pinned, "MOST_PIXELS", 10 * 15)
    for size in ((40, 60), (60, 40)):
        assert apply(Geometry(10), noise(size)).size == 3 * 150
        with pytest.raises(DataError, match="would become"):
            apply(Geometry(11), noise(size))
