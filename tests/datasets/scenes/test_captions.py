import numpy as np

from ssleval.datasets.scenes.captions import TEMPLATES, captions, class_prompts
from ssleval.datasets.scenes.categories import CATEGORIES


def test_prompts_name_every_class_apart() -> None:
    prompts = [class_prompts(category) for category in range(len(CATEGORIES))]

    assert len(prompts[0]) == len(TEMPLATES)
    assert len({prompt for group in prompts for prompt in group}) == len(TEMPLATES) * len(CATEGORIES)


def test_captions_say_what_the_attributes_say() -> None:
    long, short = captions(CATEGORIES.index("mug"), np.array([2, 0, 1, 3]))

    assert long == "a medium metal red mug with a handle among three other things."
    assert short == "a photo of a metal red mug with a handle."


def test_every_attribute_changes_the_caption() -> None:
    base = np.array([0, 0, 0, 0])
    texts = {captions(3, base)[0], captions(4, base)[0]}
    for column in range(4):
        texts.add(captions(3, base + np.eye(4, dtype=np.int64)[column])[0])

    assert len(texts) == 6
