"""Matrices of cameras in text files."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from ssleval.datasets.files.places import say
from ssleval.datasets.published import read_lines
from ssleval.errors import DataError

SEVEN_SCENES = np.array([[585.0, 0.0, 320.0], [0.0, 585.0, 240.0], [0.0, 0.0, 1.0]])
"""Of its depth camera, as its page states; frames have 640 x 480 pixels."""


def sequence_intrinsics(source: str, root: Path, names: Sequence[str]) -> Float64[np.ndarray, "3 3"]:
    """Return the matrix in ``root/camera-intrinsics.txt``, for all frames; that of 7-Scenes for its frames.

    The latter is said, in the name of the dataset ``source``.
    """
    path = root / "camera-intrinsics.txt"
    if path.is_file() or not all(re.fullmatch(r"frame-\d{6}", name) for name in names):
        return read_matrix(path, 3)
    say(f"{source}:{root}: no {path.name}; those of 7-Scenes are taken, 585 pixels around 320, 240")
    return SEVEN_SCENES


def read_matrix(path: Path, side: int) -> Float64[np.ndarray, "s s"]:
    """Return the invertible matrix of ``side`` rows in a text file; a DataError for anything else."""
    try:
        matrix = np.array([line.split() for line in read_lines(path)], dtype=np.float64)
    except ValueError as error:
        raise DataError(f"{path}: expected {side} x {side} numbers ({error})") from error
    if matrix.shape != (side, side) or not np.isfinite(matrix).all() or not np.linalg.det(matrix):
        raise DataError(f"{path}: expected {side} x {side} finite numbers, invertible; remove this frame")
    return matrix
