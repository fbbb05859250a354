"""Texts for models with a text tower: class prompts, and captions of what a picture shows."""

import numpy as np

from ssleval.datasets.scenes.categories import CATEGORIES
from ssleval.datasets.scenes.palette import COLORS, MATERIALS, SIZES

TEMPLATES: tuple[str, ...] = (
    "a photo of {}.",
    "a rendering of {}.",
    "a 3d model of {}.",
    "a computer graphics image of {}.",
    "a simple scene with {}.",
    "{} on a patterned floor.",
)
"""Prompts of a class; ``{}`` is its noun phrase."""
_NOUNS = {category: f"a {category}" for category in CATEGORIES} | {
    "block": "a rectangular block",
    "mug": "a mug with a handle",
    "car": "a toy car",
    "tree": "a fir tree",
    "house": "a small house",
    "lamp": "a table lamp",
    "stairs": "a flight of stairs",
    "arch": "an arch",
    "jack": "a toy jack with six arms",
}
_COMPANY = ("", " beside another thing", " among two other things", " among three other things")


def class_prompts(category: int) -> tuple[str, ...]:
    """Return every prompt of one class."""
    return tuple(template.format(_NOUNS[CATEGORIES[category]]) for template in TEMPLATES)


def captions(label: int, attributes: np.ndarray) -> tuple[str, str]:
    """Return a long and a short caption of a picture of these ``attributes``."""
    material, color, size, count = (int(value) for value in attributes)
    noun = _NOUNS[CATEGORIES[label]].split(" ", 1)[1]
    words = f"{MATERIALS[material]} {list(COLORS)[color]} {noun}"
    return f"a {list(SIZES)[size]} {words}{_COMPANY[count]}.", f"a photo of a {words}."
