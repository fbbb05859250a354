"""Sixteen clips of twenty frames: two or three things slide and turn, the camera circles them.

And two hundred clips of eight frames, each with a class: one thing slides to the left or to the right.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from ssleval.datasets.scenes.categories import CATEGORIES, body
from ssleval.datasets.scenes.compose import pose, scene_of, view
from ssleval.datasets.scenes.draw import Draw
from ssleval.datasets.scenes.palette import surface
from ssleval.datasets.scenes.render import render
from ssleval.datasets.scenes.things import Part, Surface, Thing, place
from ssleval.datasets.scenes.vectors import Matrix, about, half_turn, multiply, turned

CLIPS, FRAMES = 16, 20
ACTIONS = tuple(f"{name} to the {side}" for name in CATEGORIES[:3] for side in ("left", "right"))
"""Classes of the clips with one thing: the category tells a third of them, the motion which of the two."""
ACTION_CLIPS, ACTION_FRAMES = 240, 8
_WAY = 0.09
"""Metres that the thing slides from frame to frame."""
_ORBIT = 0.012
"""Tangent of half the camera's largest step per frame: 1.4 degrees, to either side."""
_STAGE = 1.6
"""Radius in metres of a disk that holds every thing of a clip."""


@dataclass(frozen=True, slots=True)
class _Actor:
    category: int
    parts: tuple[Part, ...]
    surface: Surface
    turn: Matrix
    scale: float
    start: tuple[float, float]
    """Metres."""
    speed: tuple[float, float]
    """Metres per frame."""
    spin: float
    """Tangent of half the rotation about the vertical per frame."""

    def at(self, frame: int) -> Thing:
        """Return the thing at ``frame``."""
        turn = multiply(about("z", half_turn(self.spin * frame)), self.turn)
        where = (self.start[0] + self.speed[0] * frame, self.start[1] + self.speed[1] * frame)
        return place(self.parts, self.category, self.surface, turn, self.scale, where)


def clip_frame(draw: Draw, index: int) -> dict[str, np.ndarray]:  # noqa: ARG001
    """Return frame ``index % FRAMES`` of clip ``index // FRAMES``, with the mask of its instances."""
    clip, frame = divmod(index, FRAMES)
    own = Draw("scenes@1", "clip", clip)  # one stream per clip: frames differ in time alone
    actors = _cast(own, clip)
    things = tuple(actor.at(frame) for actor in actors)
    around = turned(own.child("side").turn(), own.uniform(-_ORBIT, _ORBIT) * (frame - FRAMES // 2))
    camera = view(own.child("camera"), (0.0, 0.0, 0.5), _STAGE, around)
    shown = render(scene_of(own, things, camera))
    return {"image": shown.image, "instances": shown.instances}


def action_frame(draw: Draw, index: int) -> dict[str, np.ndarray]:  # noqa: ARG001
    """Return frame ``index % ACTION_FRAMES`` of clip ``index // ACTION_FRAMES``, with the clip's class."""
    clip, frame = divmod(index, ACTION_FRAMES)
    own, label = Draw("scenes@1", "action", clip), clip % len(ACTIONS)
    category, side = divmod(label, 2)
    c, s = own.child("side").turn()
    camera = view(own.child("camera"), (0.0, 0.0, 0.4), _STAGE / 2, (c, s))
    # The camera looks along (-c, -s), so that (-s, c) is to its right.
    along = (2 * side - 1) * _WAY * (frame - (ACTION_FRAMES - 1) / 2) + own.uniform(-0.3, 0.3)
    parts, paint = body(category, own.child("body")), surface(own.child("surface"))
    thing = place(parts, category, paint, pose(own), own.uniform(0.5, 0.75), (-s * along, c * along))
    shown = render(scene_of(own, (thing,), camera))
    return {"image": shown.image, "label": np.array(label, np.int64)}


def action_rows(split: str, clips: int) -> Int[np.ndarray, " m"]:
    """Return which of all clips with a class are in a split: the first three fifths, or the others."""
    fitted = clips * 3 // 5
    return np.arange(fitted) if split == "train" else np.arange(fitted, clips)


def _cast(draw: Draw, clip: int) -> list[_Actor]:
    count = 2 + clip % 2
    first = draw.child("cast").turn()
    # Things start on a circle and move along it in the same sense, so that they do not collide.
    thirds = [turned(first, tangent) for tangent in (0.0, 1.732, -1.732)]
    sense = draw.child("sense").choice((-1.0, 1.0))
    return [_actor(draw.child("actor", k), thirds[k], sense) for k in range(count)]


def _actor(draw: Draw, direction: tuple[float, float], sense: float) -> _Actor:
    category, scale = draw.below(len(CATEGORIES)), draw.uniform(0.5, 0.75)
    far, pace = draw.uniform(0.75, 0.9), draw.uniform(0.015, 0.04) * sense
    c, s = direction
    back = pace * FRAMES / 2
    parts, paint = body(category, draw.child("body")), surface(draw.child("surface"))
    start, speed = (far * c + back * s, far * s - back * c), (-pace * s, pace * c)
    return _Actor(category, parts, paint, pose(draw), scale, start, speed, draw.uniform(-0.03, 0.03))
