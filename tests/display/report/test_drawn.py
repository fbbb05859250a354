import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssleval.display.report.drawn import SIDE, drawn_pictures
from ssleval.errors import DataError


def opened(address: str) -> Image.Image:
    kind, _, text = address.partition(",")
    assert kind == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_pictures_are_found_by_model_and_made_smaller_where_they_are_large(tmp_path: Path) -> None:
    for model, what, size in (
        ("a", "pca.png", (3000, 1500)),
        ("a", "attention.JPG", (60, 30)),
        ("b", "pca.png", (9, 9)),
    ):
        (tmp_path / model).mkdir(exist_ok=True)
        Image.new("RGB", size, (200, 30, 30)).save(tmp_path / model / what)
    (tmp_path / "a" / "notes.txt").write_text("no picture", encoding="utf-8")
    found = drawn_pictures(tmp_path, {"a", "c"})
    assert {model: list(pictures) for model, pictures in found.items()} == {"a": ["attention", "pca"]}
    assert opened(found["a"]["pca"]).size == (SIDE, SIDE // 2)
    assert opened(found["a"]["attention"]).size == (60, 30)
    np.testing.assert_allclose(np.asarray(opened(found["a"]["pca"])).mean((0, 1)), (200, 30, 30), atol=3)


def test_a_folder_without_a_picture_of_these_models_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="say dino_vits16; `ssleval show MODEL"):
        drawn_pictures(tmp_path, {"dino_vits16"})


def test_a_file_that_is_no_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "pca.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"pca\.png: cannot be decoded"):
        drawn_pictures(tmp_path, {"a"})
