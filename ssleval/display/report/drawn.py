"""Pictures of what models see, drawn beforehand by `ssleval show`: found by name, made smaller, embedded."""

import base64
import io
from collections.abc import Collection
from pathlib import Path

from PIL import Image

from ssleval.errors import DataError

SIDE = 1000
"""Most pixels of a picture's longer side."""

SUFFIXES = (".png", ".jpg", ".jpeg")


def drawn_pictures(folder: Path, models: Collection[str]) -> dict[str, dict[str, str]]:
    """Return pictures as ``data:`` addresses by folder of the model, then by what they show.

    They are the files ``folder/MODEL/WHAT.png`` or ``.jpg`` of ``models``, spelt as in results.

    Raises:
        DataError: there is none, or a file that is no picture.
    """
    found: dict[str, dict[str, str]] = {}
    for path in sorted(folder.glob("*/*")):
        if path.suffix.lower() in SUFFIXES and path.parent.name in models:
            found.setdefault(path.parent.name, {})[path.stem] = _address(path)
    if not found:
        raise DataError(
            f"{folder}: no picture MODEL/WHAT.png of a model with results, say {min(models, default='-')}; "
            "`ssleval show MODEL --what pca --out FILE` draws one"
        )
    return found


def _address(path: Path) -> str:
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except (OSError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is no picture that can be read ({error})") from error
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "jpeg", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
