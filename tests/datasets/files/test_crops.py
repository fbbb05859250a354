"""Crops around objects; tests/datasets/sets/test_navi.py compares their pixels with those of probe3d."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssleval.datasets.files.crops import Crops, Shot, _around


@pytest.mark.parametrize("rows", [(200, 300), (10, 110), (400, 500)], ids=["middle", "top", "bottom"])
def test_a_crop_near_the_edge_goes_to_the_far_side(rows: tuple[int, int]) -> None:
    known = np.zeros((512, 512), bool)
    known[slice(*rows), 200:400] = True
    # 99 rows and 199 columns apart: a square of 199, 50 above; else 100 above, as far as there is room.
    top = {200: 150, 10: 0, 400: 300}[rows[0]]
    for turned, place in ((known, (top, 200, 199)), (known.T, (200, top, 199))):
        assert _around(turned, Path("x")) == place


def test_depth_in_files_of_google_is_read_in_metres(tmp_path: Path) -> None:
    """Decoded as in data_util.py: depth in millimetres is 1 / (stored / (65535 * 10)), and 0 is unknown."""
    stored = np.array([[0, 1, 655], [1311, 6554, 65535]], np.uint16).repeat(4, 0).repeat(3, 1)
    Image.fromarray(stored).save(tmp_path / "d.png")
    crops = Crops.of(tmp_path, [Shot("", "i.jpg", "d.png", (8, 9), 5.0, np.eye(4))])
    depth = np.unique(crops(0))
    decoded = [0, *sorted(1 / (np.float64(one) / (65535 * 10)) for one in (1, 655, 1311, 6554, 65535))]
    np.testing.assert_allclose(depth * 1000, decoded, rtol=1e-6)


def test_normals_of_a_plane_are_exact_and_end_four_pixels_inside(tmp_path: Path) -> None:
    # Averaged over 2 pixels to each side, and differenced over 2 more.
    Image.fromarray(np.full((512, 512), 1000, np.uint16)).save(tmp_path / "d.png")
    shot = Shot("", "i.jpg", "d.png", (512, 512), 500.0, np.eye(4))
    normals = Crops.of(tmp_path, [shot]).normals(0)
    expected = np.zeros((511, 511, 3), np.float32)
    expected[4:-4, 4:-4] = (0, 0, -1)
    np.testing.assert_allclose(normals, expected, atol=1e-6)
