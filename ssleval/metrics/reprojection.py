"""Geometry of two views of one scene: points that both show, and errors of matches."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from ssleval.core.targets import Views


@dataclass(frozen=True, slots=True)
class Seen:
    """Points of a regular grid on the first image that the second image shows too."""

    points: Float[np.ndarray, "k 2"]
    """Column and row in the first image; pixel centres are at halves."""
    places: Float[np.ndarray, "k 2"]
    """Column and row of the same points in the second image."""
    surface: Float[np.ndarray, "k 3"]
    """The same points in the frame of the second camera, in metres."""


def seen_by_both(views: Views, step: int, tolerance: float) -> Seen:
    """Return the points of the first image, ``step`` pixels apart, that the second image shows.

    It shows a point that falls inside it and whose depth agrees with the depth map to ``tolerance`` metres;
    otherwise something occludes the point.
    """
    points, depth = known_points(views.depths[0], step)
    surface = lifted(points, depth, views.intrinsics[0]) @ views.motion[:3, :3].T + views.motion[:3, 3]
    before = surface[:, 2] > 0
    points, surface = points[before], surface[before]
    places = projected(surface, views.intrinsics[1])
    there = depth_at(views.depths[1], places)
    shown = (there > 0) & (np.abs(there - surface[:, 2]) <= tolerance)
    return Seen(points[shown], places[shown], surface[shown])


def known_points(
    depth: Float[np.ndarray, "H W"], step: int, *, corner: bool = False
) -> tuple[Float[np.ndarray, "k 2"], Float[np.ndarray, " k"]]:
    """Return the pixel centres of known depth on a grid ``step`` pixels apart, and their depth.

    The grid begins half a step inside; at the first pixel, and of whole steps, if ``corner``.
    """
    (height, width), start = depth.shape, 0 if corner else step // 2
    if corner:
        height, width = height // step * step, width // step * step
    rows, columns = np.mgrid[start:height:step, start:width:step].reshape(2, -1)
    points = np.stack([columns, rows], axis=1) + 0.5
    depths = depth_at(depth, points)
    return points[depths > 0], depths[depths > 0]


def errors_of_pairs(
    pairs: tuple[Float[np.ndarray, "k 2"], Float[np.ndarray, "k 2"]], views: Views
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Return how far points of known depth in both images are apart: in pixels of the second, in metres.

    Both are taken in the frame of the second camera; pixels are infinite behind it.

    Source:
        evaluate_navi_correspondence.py of probe3d.
    """
    here, there = (
        lifted(points, depth_at(depth, points), camera)
        for points, depth, camera in zip(pairs, views.depths, views.intrinsics, strict=True)
    )
    moved = here @ views.motion[:3, :3].T + views.motion[:3, 3]
    pixels, before = np.full(len(moved), np.inf), moved[:, 2] > 0
    places = projected(moved[before], views.intrinsics[1])
    pixels[before] = np.linalg.norm(places - pairs[1][before], axis=1)
    return pixels, np.linalg.norm(moved - there, axis=1)


def errors(
    matched: Float[np.ndarray, "k 2"], seen: Seen, views: Views
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Return the errors of matches in the second image: in pixels, and in metres on the surface.

    Metres are infinite if the second image has no depth at the match.

    Source:
        El Banani et al. 2024, arXiv:2404.08636, sec. 4.2.
    """
    pixels = np.linalg.norm(matched - seen.places, axis=1)
    depth = depth_at(views.depths[1], matched)
    metres = np.linalg.norm(lifted(matched, depth, views.intrinsics[1]) - seen.surface, axis=1)
    return pixels, np.where(depth > 0, metres, np.inf)


def turned(motion: Float[np.ndarray, "4 4"]) -> float:
    """Return the angle of a motion's rotation in degrees."""
    return float(np.degrees(np.arccos(np.clip((np.trace(motion[:3, :3]) - 1) / 2, -1, 1))))


def lifted(
    points: Float[np.ndarray, "k 2"], depth: Float[np.ndarray, " k"], intrinsics: Float[np.ndarray, "3 3"]
) -> Float[np.ndarray, "k 3"]:
    """Return points of an image in the frame of its camera, in the unit of ``depth``."""
    homogeneous = np.concatenate([points, np.ones((len(points), 1))], axis=1)
    return homogeneous @ np.linalg.inv(intrinsics).T * depth[:, None]


def projected(
    surface: Float[np.ndarray, "k 3"], intrinsics: Float[np.ndarray, "3 3"]
) -> Float[np.ndarray, "k 2"]:
    """Return the column and row of points in front of a camera."""
    homogeneous = surface @ intrinsics.T
    return homogeneous[:, :2] / homogeneous[:, 2:]


def depth_at(depth: Float[np.ndarray, "H W"], points: Float[np.ndarray, "k 2"]) -> Float[np.ndarray, " k"]:
    """Return the depth of the pixel that each point lies in; 0 outside the image."""
    columns, rows = np.floor(points.T)
    height, width = depth.shape
    inside: Bool[np.ndarray, " k"] = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    depths = np.zeros(len(points))
    depths[inside] = depth[rows[inside].astype(int), columns[inside].astype(int)]
    return depths
