import pickle
from dataclasses import replace

import numpy as np
from PIL import Image

from ssleval.core import Dataset, DatasetCard, Geometry, Split
from ssleval.core.geometry import apply
from ssleval.features.corruptions import corrupt
from ssleval.features.corruptions.dataset import CLEAN, corrupted, first_items

GEOMETRY = Geometry(20, "short", 16)
VARIANTS = (CLEAN, ("fog", 2), ("fog", 4))


class Noise:
    def __call__(self, index: int) -> Image.Image:
        pixels = np.random.default_rng(index).integers(0, 255, (24, 30, 3))
        return Image.fromarray(pixels.astype(np.uint8))


def _open(name: str) -> Split:
    return Split([f"i{i}" for i in range(12)], Noise(), np.arange(12) % 3, f"noise-{name}")


DATASET = Dataset(DatasetCard("noise", class_names=("a", "b", "c"), lengths={"train": 12, "test": 12}), _open)


def test_every_variant_of_every_item_is_there_in_order() -> None:
    dataset = corrupted(DATASET, GEOMETRY, VARIANTS, 5)
    split = dataset.split("corrupted")
    rows = first_items(12, 5)
    names = [f"i{row}" for row in rows]
    assert list(split.ids) == [f"{kind}-{severity}/{name}" for kind, severity in VARIANTS for name in names]
    assert np.array_equal(np.asarray(split.targets), np.tile(rows % 3, 3))
    assert dataset.card.lengths == {"corrupted": 15}


def test_images_are_cropped_first_and_corrupted_then() -> None:
    split = corrupted(DATASET, GEOMETRY, VARIANTS, 0).split("corrupted")
    pixels = apply(GEOMETRY, Noise()(7))
    assert np.array_equal(np.asarray(split.image(7)), pixels)
    assert np.array_equal(np.asarray(split.image(12 + 7)), corrupt(pixels, "fog", 2, "i7"))
    assert np.array_equal(np.asarray(split.image(24 + 7)), corrupt(pixels, "fog", 4, "i7"))
    # Nothing that a geometry of that size does afterwards moves a pixel.
    assert np.array_equal(apply(Geometry(None, "short", 16), split.image(19)), np.asarray(split.image(19)))


def test_workers_can_open_it() -> None:
    split = corrupted(DATASET, GEOMETRY, VARIANTS, 5).split("corrupted")
    other = pickle.loads(pickle.dumps(split.image))
    assert np.array_equal(np.asarray(other(6)), np.asarray(split.image(6)))


def test_whatever_decides_a_pixel_is_in_the_fingerprint() -> None:
    settings = [
        (GEOMETRY, VARIANTS, 5),
        (replace(GEOMETRY, resize=22), VARIANTS, 5),
        (GEOMETRY, VARIANTS[:2], 5),
        (GEOMETRY, VARIANTS, 6),
    ]
    found = [corrupted(DATASET, *setting).split("corrupted").fingerprint for setting in settings]
    assert len(set(found)) == 4
    assert corrupted(DATASET, *settings[0]).split("corrupted").fingerprint == found[0]


def test_a_draw_is_fixed_and_within_the_larger_one() -> None:
    assert first_items(12, 0).tolist() == list(range(12)) == first_items(12, 12).tolist()
    small, large = first_items(1000, 20), first_items(1000, 50)
    assert set(small) < set(large)
    assert small.tolist() == sorted(small)
    assert small.max() > 500
