"""Pictures of models that `ssleval show` drew: found by name, scaled down and embedded."""

import base64
import io
from collections.abc import Collection
from pathlib import Path
from typing import Any

from PIL import Image

from ssleval.datasets.files.images import decode
from ssleval.errors import DataError

SIDE = 1000
"""Largest length of a picture's longer side, in pixels."""

SUFFIXES = (".png", ".jpg", ".jpeg")


def drawn_pictures(folder: Path, models: Collection[str]) -> dict[str, dict[str, str]]:
    """Return the pictures ``folder/MODEL/WHAT.png`` (or ``.jpg``) as ``data:`` URLs, by MODEL, then WHAT.

    ``models`` are the names of the models' folders of results; other folders are ignored.
    """
    pictures: dict[str, dict[str, str]] = {}
    for path in sorted(folder.glob("*/*")):
        if path.suffix.lower() in SUFFIXES and path.parent.name in models:
            pictures.setdefault(path.parent.name, {})[path.stem] = _scaled(path)
    if not pictures:
        raise DataError(
            f"{folder}: no picture MODEL/WHAT.png of a model with results, say {min(models, default='-')}; "
            "`ssleval show MODEL --what pca --out FILE` draws one"
        )
    return pictures


def data_url(image: Image.Image, kind: str, **options: Any) -> str:
    """Return an image as a ``data:`` URL; ``kind`` is jpeg or png, and ``options`` are Pillow's."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def _scaled(path: Path) -> str:
    image = decode(path, str(path))
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return data_url(image, "jpeg", quality=85)
