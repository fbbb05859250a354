"""Two views of one instance and their corresponding points, in the style of SPair.

Images 2k and 2k + 1 are a pair. Row j of their key points is one point of the subject's surface that both
views show. Points come from geometry: a pixel of the first view with its depth, projected by the second
camera.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Float32

from ssleval.datasets.scenes.camera import Camera
from ssleval.datasets.scenes.categories import CATEGORIES
from ssleval.datasets.scenes.compose import Scene, make_thing, scene_of, view, with_company
from ssleval.datasets.scenes.draw import Draw
from ssleval.datasets.scenes.render import SIDE, Frame, render
from ssleval.datasets.scenes.vectors import Point, turned

POINTS = 12
"""Largest number of key points of a pair; rows without one are nan."""
_FEWEST = 4
"""Fewest points of a pair; with fewer, the second camera is drawn again, nearer to the first."""
_APART = 5
"""Least pixels between key points of the first view, along one of the axes."""
_AGREE = 0.03
"""Metres; a point whose depth differs by more from that of its pixel is hidden."""


def pair_item(draw: Draw, index: int) -> dict[str, np.ndarray]:  # noqa: ARG001
    """Return one of the two views, its key points (column, row) and the subject's mask."""
    pair, side = divmod(index, 2)
    scenes, frames, points = _matched(Draw("scenes@1", "pair", pair), pair)
    label = np.array(scenes[side].things[0].category, np.int64)
    frame = frames[side]
    return {"image": frame.image, "points": points[side], "instances": frame.instances, "label": label}


def _matched(draw: Draw, pair: int) -> tuple[list[Scene], list[Frame], list[np.ndarray]]:
    thing = make_thing(draw.child("thing"), pair % len(CATEGORIES))
    around = draw.child("side").turn()
    camera = view(draw.child("camera", 0), thing.centre, thing.radius, around)
    things = with_company(draw.child("company"), thing, camera, draw.below(3))
    first = scene_of(draw, things, camera)
    light = scene_of(draw.child("second"), things, camera).light
    seen = render(first)
    for attempt in range(20):
        wide = 0.55 * (1 - attempt / 20)
        other = draw.child("turn", attempt)
        tangent = other.uniform(0.25, 1) * wide * other.choice((-1, 1))
        moved = view(draw.child("camera", 1), thing.centre, thing.radius, turned(around, tangent))
        second = replace(first, camera=moved, light=light)
        again = render(second)
        points = _matches(draw.child("points", attempt), first.camera, seen, moved, again)
        if np.isfinite(points[0][:, 0]).sum() >= _FEWEST:
            return [first, second], [seen, again], points
    raise AssertionError(f"pair {pair} of scenes@1 shows the subject in one view only")


def _matches(draw: Draw, camera: Camera, seen: Frame, moved: Camera, again: Frame) -> list[np.ndarray]:
    rows, columns = np.nonzero((seen.instances == 1) & (seen.depth > 0))
    points = [np.full((POINTS, 2), np.nan, np.float32) for _ in range(2)]
    count = 0
    for candidate in draw.shuffled(len(rows)):
        row, column = int(rows[candidate]), int(columns[candidate])
        x, y = column + 0.5, row + 0.5
        near = np.abs(points[0][:count] - np.array([x, y], np.float32)) < _APART
        if near.all(1).any():
            continue
        world = camera.lift(x / SIDE, y / SIDE, int(seen.depth[row, column]) / 1000)
        match = _match(world, moved, again)
        if match is not None:
            points[0][count], points[1][count] = (x, y), match
            count += 1
        if count == POINTS:
            break
    return points


def _match(world: Point, moved: Camera, again: Frame) -> Float32[np.ndarray, "2"] | None:
    x, y, z = moved.project(world)
    if not (0 <= x < 1 and 0 <= y < 1):
        return None
    there = (int(y * SIDE), int(x * SIDE))
    if again.instances[there] != 1 or abs(int(again.depth[there]) / 1000 - z) > _AGREE:
        return None
    # Rounded to a hundredth of a pixel, so that machines agree.
    return np.array([round(x * SIDE, 2), round(y * SIDE, 2)], np.float32)
