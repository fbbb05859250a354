"""Small linear algebra in a fixed order of operations.

Only ``+ - * /`` and square roots are used, which IEEE 754 rounds exactly. A library's matrix product may add
in another order on another machine, and a pixel could differ.
"""

from math import sqrt
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Float32

Array: TypeAlias = Float32[np.ndarray, "..."]
"""Numbers of many rays or points."""
Vector: TypeAlias = Float32[np.ndarray, "3 ..."]
"""Points or directions in single precision; the coordinate comes first, so that each has a memory block."""
Number: TypeAlias = float | int
"""A plain number: checks at run time do not take an int for a float."""
Point: TypeAlias = tuple[Number, Number, Number]
"""One point or direction, in double precision."""
Matrix: TypeAlias = Float[np.ndarray, "3 3"]


def dot(a: Vector, b: Vector) -> Array:
    """Return the scalar product; one of the two may be a single direction ``[3]``."""
    return np.asarray(a[0] * b[0] + a[1] * b[1] + a[2] * b[2])


def single(point: Point) -> Float32[np.ndarray, "3"]:
    """Return a point in single precision."""
    return np.array(point, np.float32)


def offset_from(centre: Point, points: Vector) -> Vector:
    """Return ``points - centre``."""
    return points - single(centre).reshape(3, *[1] * (points.ndim - 1))


def cross(a: Point, b: Point) -> Point:
    """Return the vector product."""
    return (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])


def subtract(a: Point, b: Point) -> Point:
    """Return a - b."""
    return (a[0] - b[0], a[1] - b[1], a[2] - b[2])


def times(a: Point, factor: Number) -> Point:
    """Return a times a number."""
    return (a[0] * factor, a[1] * factor, a[2] * factor)


def length(a: Point) -> float:
    """Return the length of a vector."""
    return sqrt(a[0] * a[0] + a[1] * a[1] + a[2] * a[2])


def unit(a: Point) -> Point:
    """Return the vector of length 1 along ``a``."""
    size = length(a)
    return (a[0] / size, a[1] / size, a[2] / size)


def transform(matrix: Matrix, v: Vector) -> Vector:
    """Return ``matrix @ v`` in single precision."""
    a, b, c = matrix.T.astype(np.float32).reshape(3, 3, *[1] * (v.ndim - 1))
    return a * v[0] + b * v[1] + c * v[2]


def apply(matrix: Matrix, point: Point) -> Point:
    """Return ``matrix @ point`` in double precision."""
    x, y, z = (sum(float(row[i]) * point[i] for i in range(3)) for row in matrix)
    return (x, y, z)


def multiply(a: Matrix, b: Matrix) -> Matrix:
    """Return ``a @ b``."""
    return a[:, 0:1] * b[0:1] + a[:, 1:2] * b[1:2] + a[:, 2:3] * b[2:3]


def identity() -> Matrix:
    """Return the identity."""
    return scaled((1.0, 1.0, 1.0))


def scaled(size: Point) -> Matrix:
    """Return the diagonal matrix of ``size``."""
    return np.diag(np.array(size, np.float64))


def about(axis: str, turn: tuple[float, float]) -> Matrix:
    """Return the rotation about ``x``, ``y`` or ``z`` by the angle of this cosine and sine."""
    c, s = turn
    first, second = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = identity()
    matrix[[first, second], [first, second]] = c
    matrix[first, second], matrix[second, first] = -s, s
    return matrix


def half_turn(tangent: float) -> tuple[float, float]:
    """Return cosine and sine of the angle whose half has this tangent (1 is a right angle)."""
    below = 1 + tangent * tangent
    return (1 - tangent * tangent) / below, 2 * tangent / below


def turned(direction: tuple[float, float], tangent: float) -> tuple[float, float]:
    """Return the direction turned by the angle whose half has this tangent."""
    (a, b), (c, s) = direction, half_turn(tangent)
    return a * c - b * s, b * c + a * s
