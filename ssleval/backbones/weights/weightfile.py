"""Files of weights that describe themselves: safetensors whose header holds the card and the architecture.

The trainer writes such files, so that ``ssleval run --model OUT/teacher.safetensors`` needs nothing else.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors

from ssleval.core import BackboneCard
from ssleval.core.files import write_atomically
from ssleval.core.settings import build
from ssleval.core.text import some
from ssleval.errors import ConfigError, WeightsError

if TYPE_CHECKING:
    from torch import Tensor

SUFFIX = ".safetensors"
UNREADABLE = (safetensors.SafetensorError, OSError)
"""What the readers of safetensors raise on damaged files and on files of other formats."""
_NARROW = ("F8", "F6", "F4")
"""How safetensors' names of floating-point types of 8 bits and less begin."""
_FORMAT = "ssleval-weights-1"


def write_weights(
    path: Path, tensors: Mapping[str, "Tensor"], card: BackboneCard, config: Mapping[str, Any]
) -> None:
    """Write ``tensors`` with their card and the settings of their architecture, atomically."""
    from safetensors.torch import save_file

    header = {"format": _FORMAT, "card": json.dumps(asdict(card)), "config": json.dumps(dict(config))}
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, lambda draft: save_file(plain, draft, header))


def read_card(path: Path) -> BackboneCard:
    """Return the card in the header, named by the path; refuse a file that does not describe itself."""
    known = {field.name for field in fields(BackboneCard)}
    stated = {name: value for name, value in _header(path, "card").items() if name in known}
    try:
        return build(BackboneCard, stated | {"name": str(path), "weights": {"file": path.name}}, str(path))
    except (TypeError, ConfigError) as error:
        raise WeightsError(f"{path}: its header does not hold a complete card ({error})") from error


def describes_itself(path: Path) -> bool:
    """Return whether a file states its architecture, or holds weights for one that the user must name."""
    return path.suffix == SUFFIX and path.is_file() and _metadata(path).get("format") == _FORMAT


def read_config(path: Path) -> dict[str, Any]:
    """Return the settings of the architecture in the header; refuse as `read_card` does."""
    return _header(path, "config")


def refuse_unscaled(folder: Path, name: str) -> None:
    """Refuse a folder of the model ``name`` with tensors of 8 bits and less, whose scale libraries drop."""
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            with safetensors.safe_open(path, "np") as file:
                kinds = {key: file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118
        except UNREADABLE as error:
            raise WeightsError(f"{path}: it is damaged or no safetensors ({error})") from error
        narrow = sorted(key for key, kind in kinds.items() if kind.startswith(_NARROW))
        if narrow:
            raise WeightsError(
                f"{name}: {some(narrow)} of {path.name} is stored as {kinds[narrow[0]]}, whose scale is "
                "unknown here; save it as bfloat16 or float32"
            )


def _metadata(path: Path) -> dict[str, str]:
    try:
        with safetensors.safe_open(path, "np") as file:
            return file.metadata() or {}
    except UNREADABLE as error:
        raise WeightsError(f"{path}: it is damaged or no safetensors ({error})") from error


def _header(path: Path, part: str) -> dict[str, Any]:
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such file; a model file is one that ssleval train wrote")
    header = _metadata(path)
    if header.get("format") != _FORMAT:
        raise WeightsError(
            f"{path}: it does not say which architecture it holds; name one with --model and give the file "
            "with --checkpoint"
        )
    try:
        return json.loads(header[part])
    except (KeyError, ValueError) as error:
        raise WeightsError(f"{path}: its header is damaged ({error!r})") from error
