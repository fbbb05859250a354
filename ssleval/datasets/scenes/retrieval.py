"""Instances to be found again, in the style of the revisited Oxford buildings.

There are a hundred instances, each with one query. The gallery shows every instance four times from about the
query's side (easy), three times from another side with other things around it (hard), and once from so far
away that it cannot be recognised (junk). The other images of the gallery are distractors: other instances of
the same categories.
"""

from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Int64

from ssleval.datasets.scenes.categories import CATEGORIES
from ssleval.datasets.scenes.compose import compose, make_thing, scene_of, view, with_company
from ssleval.datasets.scenes.draw import Draw
from ssleval.datasets.scenes.render import render
from ssleval.datasets.scenes.vectors import turned

INSTANCES = 100
Role: TypeAlias = Literal["easy", "hard", "junk", "distractor"]
ROLES: tuple[Role, ...] = ("easy", "hard", "junk", "distractor")
_SIGHTINGS: tuple[Role, ...] = ("easy", "easy", "easy", "easy", "hard", "hard", "hard", "junk")
_TURNS: dict[Role, tuple[float, float]] = {"easy": (0.05, 0.3), "hard": (0.8, 2.2), "junk": (0.0, 2.2)}
"""Tangent of half the angle between view and query: easy 6 to 33 degrees, hard 77 to 131."""
_COMPANY: dict[Role, int] = {"easy": 1, "hard": 3, "junk": 3}
_FAR: dict[Role, float] = {"easy": 1.0, "hard": 1.15, "junk": 6.0}


def query_item(draw: Draw, index: int) -> dict[str, np.ndarray]:
    """Return the query of instance ``index``, without other things."""
    return {"image": _sighting(draw, index, 0.0, 0, 1.0), "instance": np.array(index, np.int64)}


def gallery_item(draw: Draw, index: int) -> dict[str, np.ndarray]:
    """Return one image of the gallery, its instance (-1 for none) and its role."""
    instance, sighting = divmod(index, len(_SIGHTINGS))
    if instance >= INSTANCES:
        image, instance, role = render(compose(draw, index % len(CATEGORIES))).image, -1, "distractor"
    else:
        role = _SIGHTINGS[sighting]
        low, high = _TURNS[role]
        tangent = draw.uniform(low, high) * draw.choice((-1, 1))
        image = _sighting(draw, instance, tangent, draw.below(_COMPANY[role] + 1), _FAR[role])
    number, kind = np.array(instance, np.int64), np.array(ROLES.index(role), np.int64)
    return {"image": image, "instance": number, "role": kind}


def exhibit_rows(split: str, length: int) -> Int64[np.ndarray, " n"]:
    """Return the rows of a gallery of ``length`` images that are queries of a split of `scenes:exhibits`.

    ``val`` has the first easy and the first hard view of each instance and every fifth distractor; ``test``
    has the other views and distractors. Junk is in neither.
    """
    rows = np.arange(length)
    instance, sighting = np.divmod(rows, len(_SIGHTINGS))
    alone = instance >= INSTANCES
    firsts = (_SIGHTINGS.index("easy"), _SIGHTINGS.index("hard"))
    chosen = np.where(alone, rows % 5 == 0, np.isin(sighting, firsts))
    junk = ~alone & (sighting == _SIGHTINGS.index("junk"))
    return rows[chosen if split == "val" else ~(chosen | junk)]


def _sighting(draw: Draw, instance: int, tangent: float, company: int, far: float) -> np.ndarray:
    own = Draw("scenes@1", "instance", instance)  # the same in all images of the instance
    thing = make_thing(own, instance % len(CATEGORIES))
    around = turned(own.child("side").turn(), tangent)
    camera = view(draw.child("camera"), thing.centre, thing.radius, around, far)
    things = with_company(draw.child("company"), thing, camera, company)
    return render(scene_of(draw, things, camera)).image
