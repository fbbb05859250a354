"""Weights that say what they are: safetensors whose header holds the card and the architecture.

What the trainer writes is an ordinary model: ``ssleval run --model OUT/teacher.safetensors`` needs no
other file and no name of an architecture.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors

from ssleval.core import BackboneCard
from ssleval.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

SUFFIX = ".safetensors"
_FORMAT = "ssleval-weights-1"


def write_weights(
    path: Path, tensors: Mapping[str, "Tensor"], card: BackboneCard, config: Mapping[str, Any]
) -> None:
    """Write ``tensors`` with their card and the settings of their architecture; whole or not at all."""
    from safetensors.torch import save_file

    header = {"format": _FORMAT, "card": json.dumps(asdict(card)), "config": json.dumps(dict(config))}
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(plain, unfinished, header)
    unfinished.replace(path)


def read_card(path: Path) -> BackboneCard:
    """Return the card in the header, named as the file.

    Raises:
        WeightsError: no such file, or one that does not say what it is.
    """
    stated = _header(path, "card")
    known = {one.name for one in fields(BackboneCard)}
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in stated.items()
        if name in known
    }
    values |= {"name": str(path), "weights": {"file": path.name}}
    try:
        return BackboneCard(**values)
    except TypeError as error:
        raise WeightsError(f"{path}: its header holds no whole card ({error})") from error


def describes_itself(path: Path) -> bool:
    """Return whether a file is a model of its own, not weights for an architecture that is to be named."""
    if path.suffix != SUFFIX or not path.is_file():
        return False
    try:
        with safetensors.safe_open(path, "np") as file:
            return (file.metadata() or {}).get("format") == _FORMAT
    except (safetensors.SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: it is damaged or no safetensors ({error})") from error


def read_config(path: Path) -> dict[str, Any]:
    """Return the settings of the architecture in the header.

    Raises:
        WeightsError: no such file, or one that does not say what it is.
    """
    return _header(path, "config")


def _header(path: Path, part: str) -> dict[str, Any]:
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such file; a model file is one that ssleval train wrote")
    try:
        with safetensors.safe_open(path, "np") as file:
            header = file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: it is damaged or no safetensors ({error})") from error
    if header.get("format") != _FORMAT:
        raise WeightsError(
            f"{path}: it does not say which architecture it holds; name one with --model and give the file "
            "with --checkpoint"
        )
    try:
        return json.loads(header[part])
    except (KeyError, ValueError) as error:
        raise WeightsError(f"{path}: its header is damaged ({error!r})") from error
