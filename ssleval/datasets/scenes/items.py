"""The arrays that one item of every split holds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from ssleval.datasets.scenes.categories import CATEGORIES
from ssleval.datasets.scenes.clips import ACTION_CLIPS, ACTION_FRAMES, action_frame, clip_frame
from ssleval.datasets.scenes.compose import Scene, compose
from ssleval.datasets.scenes.draw import Draw
from ssleval.datasets.scenes.edits import copy_item, original
from ssleval.datasets.scenes.pairs import pair_item
from ssleval.datasets.scenes.palette import MATERIALS
from ssleval.datasets.scenes.render import Frame, render
from ssleval.datasets.scenes.retrieval import gallery_item, query_item

Item: TypeAlias = dict[str, np.ndarray]
FEWEST = 8
"""Fewest pixels of a thing that counts as visible."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """A split: the number of its items, and the function that makes one."""

    length: int
    make: Callable[[Draw, int], Item]


def item(split: str, index: int) -> Item:
    """Return the arrays of one item: equal calls, equal bytes."""
    recipe = SPLITS[split]
    return recipe.make(Draw("scenes@1", split, index), index)


def _labelled(draw: Draw, index: int) -> Item:
    category = index % len(CATEGORIES)
    scene = compose(draw, category)
    frame, camera = render(scene), scene.camera
    return {
        **frame._asdict(),
        "label": np.array(category, np.int64),
        "attributes": _attributes(scene, frame),
        "camera": np.array([*camera.position, *camera.turn.flat, camera.focal], np.float64),
    }


def _unlabelled(draw: Draw, index: int) -> Item:  # noqa: ARG001
    return {"image": render(compose(draw, draw.below(len(CATEGORIES)))).image}


def _attributes(scene: Scene, frame: Frame) -> np.ndarray:
    subject = scene.things[0]
    pixels = np.bincount(frame.instances.reshape(-1), minlength=2)
    count = int((pixels[1:] >= FEWEST).sum())
    material = MATERIALS.index(subject.surface.material)
    return np.array([material, subject.surface.color, subject.size, max(count, 1) - 1], np.int64)


SPLITS: Mapping[str, Recipe] = {
    "train": Recipe(4000, _labelled),
    "test": Recipe(1000, _labelled),
    "unlabelled": Recipe(16000, _unlabelled),
    "retrieval_queries": Recipe(100, query_item),
    "retrieval_gallery": Recipe(2000, gallery_item),
    "copies_queries": Recipe(1200, copy_item),
    "copies_database": Recipe(1000, original),
    "video": Recipe(320, clip_frame),
    "actions": Recipe(ACTION_CLIPS * ACTION_FRAMES, action_frame),
    "pairs": Recipe(800, pair_item),
}
"""Every split by name. `scenes@1` means these names, lengths and bytes."""
