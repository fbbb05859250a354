import numpy as np
import pytest
from scipy.fft import dctn

from ssleval.datasets.scenes.draw import Draw
from ssleval.datasets.scenes.edits import EDITS, _along_both, _cosines, _sampled
from ssleval.datasets.scenes.items import item

IMAGE = item("copies_database", 0)["image"]


@pytest.mark.parametrize("name", EDITS)
def test_edits_change_the_picture_and_leave_it_alike(name: str) -> None:
    draw = Draw("edit", name)

    edited = EDITS[name](draw, IMAGE)

    assert edited.shape == IMAGE.shape
    assert edited.dtype == np.uint8
    assert (edited != IMAGE).mean() > 0.05
    assert (EDITS[name](Draw("edit", name), IMAGE) == edited).all()
    assert (EDITS[name](Draw("edit", name, 1), IMAGE) != edited).any()
    assert abs(edited.mean() - IMAGE.mean()) < 60


def test_waves_are_the_orthonormal_cosine_transform() -> None:
    blocks = np.random.default_rng(0).normal(size=(8, 8, 5))

    expected = np.asarray(dctn(blocks, axes=(0, 1), norm="ortho"))  # pyright: ignore[reportCallIssue]

    np.testing.assert_allclose(_along_both(_cosines(), blocks), expected, atol=1e-7)


def test_sampling_at_pixels_returns_them_and_between_them_blends() -> None:
    rows, columns = np.array([[3.0, 10.0]]), np.array([[7.0, 20.5]])

    values = _sampled(IMAGE, rows, columns)[0]

    np.testing.assert_array_equal(values[0], IMAGE[3, 7])
    np.testing.assert_allclose(values[1], (IMAGE[10, 20].astype(float) + IMAGE[10, 21]) / 2)


def test_blur_keeps_a_flat_picture_flat() -> None:
    flat = np.full_like(IMAGE, 77)

    assert (EDITS["blur"](Draw("flat"), flat) == 77).all()
    assert (EDITS["jpeg"](Draw("flat"), flat).std()) == 0
