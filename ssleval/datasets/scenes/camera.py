"""A pinhole camera, and the images it takes of points."""

from dataclasses import dataclass

import numpy as np

from ssleval.datasets.scenes.vectors import Matrix, Point, Vector, apply, cross, subtract, unit


@dataclass(frozen=True, slots=True)
class Camera:
    """World: metres, z up. Camera: x right, y down, z forward, as in OpenCV."""

    position: Point
    turn: Matrix
    """World to camera: rows are the camera's right, down and forward."""
    focal: float
    """In units of the image's side: a pixel is at ``focal * side * x / z + side / 2``."""

    def rays(self, side: int) -> Vector:
        """Return directions ``[3 side side]`` through pixel centres, each of depth 1 along forward.

        The distance along a ray, in units of its direction, is therefore the depth of the point.
        """
        steps = ((np.arange(side, dtype=np.float64) + 0.5) / side - 0.5) / self.focal
        right, down, forward = self.turn
        across, along = steps * right[:, None, None], steps[:, None] * down[:, None, None]
        return (across + along + forward[:, None, None]).astype(np.float32)

    def project(self, point: Point) -> tuple[float, float, float]:
        """Return column and row in units of the image's side, and depth in metres."""
        x, y, z = apply(self.turn, subtract(point, self.position))
        return self.focal * x / z + 0.5, self.focal * y / z + 0.5, z

    def lift(self, column: float, row: float, depth: float) -> Point:
        """Return the point that `project` takes there."""
        right, down, forward = self.turn
        x, y = (column - 0.5) / self.focal * depth, (row - 0.5) / self.focal * depth
        a, b, c = (np.array(self.position, np.float64) + right * x + down * y + forward * depth).tolist()
        return (a, b, c)


def look_at(position: Point, target: Point, focal: float, roll: tuple[float, float] = (1.0, 0.0)) -> Camera:
    """Return the camera at ``position`` with ``target`` in the middle of its image.

    ``roll`` is cosine and sine of a turn about the view axis.
    """
    forward = unit(subtract(target, position))
    level = unit(cross(forward, (0.0, 0.0, 1.0)))
    right, down = np.array(level, np.float64), np.array(cross(forward, level), np.float64)
    c, s = roll
    return Camera(
        position, np.array([c * right + s * down, c * down - s * right, forward], np.float64), focal
    )
