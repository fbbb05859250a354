"""`dino_scenes`, the checkpoint that is part of the package: what it is, and what it must be better than."""

import hashlib
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from ssleval.backbones.weights.weightfile import read_card
from ssleval.backbones.zoo import find_card, load
from ssleval.core.packaged import packaged_weights
from ssleval.results import Result, read_all

NAME = "dino_scenes"
FILE = packaged_weights(f"{NAME}.safetensors")
RESULTS = read_all(Path(__file__).parents[3] / "results")


def stored(model: str, task: str, dataset: str = "scenes") -> Result:
    """Return the committed result at the model's own size."""
    (found,) = (
        one
        for one in RESULTS
        if (one.model, one.task, one.dataset, one.protocol.get("preprocessing"))
        == (model, task, dataset, "card")
    )
    return found


def test_its_file_is_small_and_the_one_of_the_card() -> None:
    assert FILE.stat().st_size < 12e6
    assert hashlib.sha256(FILE.read_bytes()).hexdigest() == find_card(NAME).sha256


def test_the_card_of_the_zoo_is_that_of_the_file() -> None:
    zoo, file = asdict(find_card(NAME)), asdict(read_card(FILE))
    differ = {name for name in zoo if zoo[name] != file[name]}
    # What only the zoo can say: how it is called, where it lies, and what was done to make it.
    assert differ <= {
        "name",
        "arch",
        "weights",
        "sha256",
        "license",
        "family",
        "source",
        "seeded_by",
        "pretraining_data",
    }
    assert all(word in find_card(NAME).source for word in ("ssleval train", "seed 0", "cores"))


def test_it_loads_from_the_package_and_its_untrained_twin_has_its_shape() -> None:
    trained, untrained = load(NAME), load(f"random:{NAME}")
    images = torch.rand(2, 3, 64, 96)
    ours, theirs = (backbone(images, [-1]).blocks[0].patches for backbone in (trained, untrained))
    assert ours.shape == theirs.shape == (2, 4, 6, 192)
    assert trained.weights_sha256 != untrained.weights_sha256


def test_it_knows_the_categories_that_pixels_and_untrained_networks_do_not() -> None:
    ours, *floors = (
        stored(model, "knn").metrics["top1@20"].value for model in (NAME, "pixels", f"random:{NAME}")
    )
    assert ours >= max(floors) + 0.25


def test_its_neighbours_are_nearly_as_good_as_its_linear_probe() -> None:
    linear = stored(NAME, "linear").metrics["top1@heldout"].value
    assert stored(NAME, "knn").metrics["top1@20"].value >= linear - 0.12


@pytest.mark.parametrize("dataset", ["digits"])
def test_it_is_above_its_untrained_twin_on_other_pictures(dataset: str) -> None:
    ours, untrained = (stored(model, "knn", dataset).metrics["top1@20"] for model in (NAME, f"random:{NAME}"))
    assert ours.ci95[0] > untrained.ci95[1]
