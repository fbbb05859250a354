import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssleval.core import Dataset as Data
from ssleval.core import DatasetCard, DatasetOptions, Geometry
from ssleval.core.geometry import apply
from ssleval.datasets.catalog import open_dataset
from ssleval.datasets.files.identical import identical_files
from ssleval.datasets.files.images import file_split
from ssleval.datasets.files.upright import upright
from ssleval.errors import ConfigError, DataError
from ssleval.features.fast import fast_view

TURNED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, -1), 7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}  # fmt: skip
"""What the value of the tag means (EXIF 2.3, sec. 4.6.4 A): where row 0 and column 0 of the file lie."""
AS_IT_IS = Geometry(None)


def folder(root: Path, orientation: int | bytes, kind: str = "jpg") -> Path:
    exif = Image.Exif()
    if isinstance(orientation, int):
        exif[0x0112] = orientation
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 3), np.uint8).repeat(16, 0).repeat(16, 1)
    for split in ("train", "test"):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            told = orientation if isinstance(orientation, bytes) else exif
            Image.fromarray(pixels).save(root / split / name / f"0.{kind}", exif=told)
    return root


@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
@pytest.mark.parametrize("orientation", TURNED)
def test_images_are_turned_as_the_tag_says_by_both_decoders(
    orientation: int, kind: str, tmp_path: Path
) -> None:
    name = f"folder:{folder(tmp_path, orientation, kind)}"
    plain, turned = (open_dataset(name, DatasetOptions(exif=exif)).split("test") for exif in (False, True))
    expected = TURNED[orientation](np.asarray(plain.image(0)))
    np.testing.assert_array_equal(np.asarray(turned.image(0)), expected)
    assert np.asarray(plain.image(0)).shape == (32, 48, 3), "published protocols ignore the tag"
    fast = fast_view(Geometry(None, pixels="fast"), turned, 0)
    assert np.abs(fast.astype(int) - expected).max() <= 2
    few = pickle.loads(pickle.dumps(turned.subset(np.array([1]))))
    np.testing.assert_array_equal(apply(AS_IT_IS, few.image(0)), expected)
    assert np.abs(fast_view(Geometry(None, pixels="fast"), few, 0).astype(int) - expected).max() <= 2


def test_what_is_turned_is_another_dataset_and_says_so(tmp_path: Path) -> None:
    name = f"folder:{folder(tmp_path, 6)}"
    plain, turned = (open_dataset(name, DatasetOptions(exif=exif)) for exif in (False, True))
    assert (plain.card.exif, turned.card.exif) == (False, True)
    for split in ("train", "test"):
        assert plain.split(split).fingerprint != turned.split(split).fingerprint
        assert [*plain.split(split).ids] == [*turned.split(split).ids]


def test_broken_exif_is_refused_where_it_is_asked_for(tmp_path: Path) -> None:
    name = f"folder:{folder(tmp_path, b'Exif' + bytes(2) + b'XX*' + bytes(9))}"
    assert open_dataset(name, DatasetOptions()).split("test").image(0).size == (48, 32)
    split = open_dataset(name, DatasetOptions(exif=True)).split("test")
    with pytest.raises(DataError, match=r"a/0\.jpg: its EXIF cannot be read"):
        split.image(0)
    with pytest.raises(DataError, match="its EXIF cannot be read"):
        fast_view(Geometry(None, pixels="fast"), split, 0)


def test_masks_would_not_fit_and_are_refused() -> None:
    card = DatasetCard("masks:x", "mask", ("a", "b"), lengths={"train": 1})
    with pytest.raises(ConfigError, match=r"its targets \(mask\) would not fit"):
        upright(Data(card, lambda _: file_split(Path(), [])))


@pytest.mark.parametrize("limit", [None, 30])
def test_images_that_are_no_files_have_none_upright_either(tmp_path: Path, limit: int | None) -> None:
    split = open_dataset("digits", DatasetOptions(exif=True)).limited(limit).split("test")
    assert split.encoded is None
    assert split.file is None
    assert identical_files(split, split, tmp_path) == []
