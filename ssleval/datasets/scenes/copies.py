"""Edited copies, whose originals are to be found among distractors, in the style of Copydays.

The database holds 200 originals and 800 distractors. Every original has six copies, one for each edit.
"""

import numpy as np

from ssleval.datasets.scenes.categories import CATEGORIES
from ssleval.datasets.scenes.compose import compose
from ssleval.datasets.scenes.draw import Draw
from ssleval.datasets.scenes.edits import EDITS
from ssleval.datasets.scenes.render import render

ORIGINALS = 200
"""The first images of the database."""


def original(draw: Draw, index: int) -> dict[str, np.ndarray]:
    """Return image ``index`` of the database."""
    return {"image": render(compose(draw, index % len(CATEGORIES))).image}


def copy_item(draw: Draw, index: int) -> dict[str, np.ndarray]:
    """Return an edited copy, the index of its original and that of its edit."""
    source, edit = divmod(index, len(EDITS))
    image = original(Draw("scenes@1", "copies_database", source), source)["image"]
    edited = list(EDITS.values())[edit](draw, image)
    return {"image": edited, "original": np.array(source, np.int64), "edit": np.array(edit, np.int64)}
