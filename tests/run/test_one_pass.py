"""One forward pass per image and model, whatever the number of tasks."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ssleval.core import BackboneCard, Context
from ssleval.core.backbone import Backbone, Features, Loader, Tokens, WeightsFrom, backbones
from ssleval.errors import SslevalError
from ssleval.features.probe import IMAGES
from ssleval.run.estimate import Estimate, estimate
from ssleval.run.measure import silent
from ssleval.run.sweep import Sweep, sweep

CARD = BackboneCard("counting:tiny", "counting", "tiny", embed_dim=8, patch_size=32)
LIMIT = 40
EVERY = Sweep(
    models="counting:tiny",
    tasks="knn,linear,logreg,fewshot,spectrum",
    datasets="digits",
    limit=LIMIT,
    settings=(
        "knn.ks=5",
        "linear.iterations=3",
        "logreg.count=3",
        "fewshot.shots=2",
        "fewshot.tries=2",
        "fewshot.count=2",
        "spectrum.first=2",
        "spectrum.last=5",
    ),
)
SEEN: Counter[bytes] = Counter()


class Counting(Backbone):
    """Four blocks of linear patches; remembers every image that it sees."""

    def __init__(self) -> None:
        super().__init__(CARD, num_blocks=4)
        torch.manual_seed(0)
        self.embed = nn.Conv2d(3, 8, 32, 32)

    def extract(self, images: Tensor, blocks: Sequence[int], *, norm: bool) -> Features:
        SEEN.update(image.numpy().tobytes() for image in images)
        patches = self.embed(images).permute(0, 2, 3, 1)
        token = patches.mean((1, 2))
        return Features(token, tuple(Tokens(patches * (1 + block), token) for block in blocks))


def _build(card: BackboneCard, weights: WeightsFrom) -> Backbone:
    return Counting()


backbones.register("counting")(Loader(lambda _: CARD, _build))


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(cache=tmp_path, progress=False)


def black() -> bytes:
    """Return the image that asks what a model has and costs; it is normalised like all others."""
    return ((torch.zeros(3, 224, 224) - Counting().mean) / Counting().std).numpy().tobytes()


def test_five_tasks_make_one_forward_pass_per_image_and_say_so(context: Context) -> None:
    (price,) = estimate(EVERY, context, None, force=False, note=silent)
    assert isinstance(price, Estimate)
    assert price.images == 2 * LIMIT
    assert f"({EVERY.tasks.replace(',', ', ')}): 80 images in 4 forward passes" in str(price)

    SEEN.clear()
    said: list[str] = []
    found = list(sweep(EVERY, context, None, note=said.append))
    assert not [one for one in found if isinstance(one, SslevalError)]
    assert len(found) == 5
    # Is there a class token, and what does an image cost?
    assert SEEN.pop(black()) == 2
    assert len(SEEN) == 2 * LIMIT
    # Some images of each pass are shown again, to compare.
    assert Counter(SEEN.values()) == {1: 2 * (LIMIT - IMAGES), 2: 2 * IMAGES}
    assert said == ["counting:tiny: 80 images in 4 forward passes, for 5 tasks"]


def test_nothing_but_the_probe_is_sent_through_the_model_again(context: Context) -> None:
    one = replace(EVERY, tasks="knn", settings=("knn.ks=5",))
    list(sweep(one, context, None, note=[].append))
    SEEN.clear()
    said: list[str] = []
    list(sweep(one, context, None, note=said.append))
    SEEN.pop(black(), None)
    assert sorted(SEEN.values()) == [1] * (2 * IMAGES)
    assert said == []
