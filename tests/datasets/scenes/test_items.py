"""What the splits hold; pixels that must never change; sizes that the cards promise."""

import hashlib
from math import isfinite

import numpy as np
import pytest

from ssleval.datasets.scenes import pairs, retrieval
from ssleval.datasets.scenes.categories import CATEGORIES
from ssleval.datasets.scenes.clips import CLIPS, FRAMES
from ssleval.datasets.scenes.compose import Scene
from ssleval.datasets.scenes.draw import Draw
from ssleval.datasets.scenes.edits import EDITS, ORIGINALS
from ssleval.datasets.scenes.items import SPLITS, item
from ssleval.datasets.scenes.render import IGNORE, MASK_CLASSES, Frame, render
from ssleval.datasets.scenes.store import golden

FIRST = {
    "train": "6b61b5703167afbc",
    "test": "78f0c54ff9981f31",
    "unlabelled": "5233e480db494cba",
    "retrieval_queries": "394164e9f57234f3",
    "retrieval_gallery": "f53a6ce78c7d302e",
    "copies_queries": "8d6c10673e3a3e3b",
    "copies_database": "9b8204436cf3e08a",
    "video": "b0dd1ff1196e4038",
    "actions": "600d5fdf24dffd0a",
    "pairs": "fc28550ec29bcaeb",
}


@pytest.mark.parametrize("split", SPLITS)
def test_first_items_have_the_bytes_of_this_version(split: str) -> None:
    total = hashlib.sha256()
    for index in range(2):
        for name, value in sorted(item(split, index).items()):
            total.update(f"{name}:{value.dtype.str}:{value.shape}".encode())
            total.update(np.ascontiguousarray(value).tobytes())

    assert total.hexdigest()[:16] == FIRST[split]


def test_every_split_has_a_golden_hash() -> None:
    assert set(golden()) == set(SPLITS)


def test_labelled_splits_are_balanced() -> None:
    for split, each in (("train", 200), ("test", 50)):
        assert SPLITS[split].length == each * len(CATEGORIES)
        assert [int(item(split, index)["label"]) for index in (0, 21, 39)] == [0, 1, 19]


def test_targets_of_one_item_agree() -> None:
    found = item("test", 12)
    thing = found["mask"] < len(CATEGORIES)

    assert set(np.unique(found["mask"])) <= {*range(len(MASK_CLASSES)), IGNORE}
    assert (found["mask"][(found["instances"] == 1) & (found["mask"] != IGNORE)] == found["label"]).all()
    assert (found["instances"][thing] > 0).all()
    assert ((found["depth"] > 0) == (found["normals"] != 0).any(-1)).all()
    lengths = np.linalg.norm(found["normals"][found["depth"] > 0].astype(float), axis=-1)
    assert np.abs(lengths - 127).max() < 1.8  # each coordinate is rounded
    material, color, size, count = found["attributes"]
    assert 0 <= material < 3
    assert 0 <= color < 8
    assert 0 <= size < 3
    assert count == len(set(np.unique(found["instances"])) - {0}) - 1


def test_subject_is_seen_well_in_most_pictures() -> None:
    shares = [(item("test", index)["instances"] == 1).mean() for index in range(0, 60, 9)]

    assert np.median(shares) > 0.05
    assert min(shares) > 0.008


def test_gallery_shows_every_instance_as_its_role_says() -> None:
    found = [item("retrieval_gallery", 8 * 4 + sighting) for sighting in (0, 4, 7)]

    assert [retrieval.ROLES[int(one["role"])] for one in found] == ["easy", "hard", "junk"]
    assert {int(one["instance"]) for one in found} == {4}
    assert SPLITS["retrieval_gallery"].length > 8 * SPLITS["retrieval_queries"].length
    assert SPLITS["retrieval_queries"].length == retrieval.INSTANCES
    distractor = item("retrieval_gallery", 1999)
    assert (int(distractor["instance"]), retrieval.ROLES[int(distractor["role"])]) == (-1, "distractor")


def test_copies_are_of_their_original() -> None:
    source = item("copies_database", 3)["image"].astype(float)
    copies = [item("copies_queries", 3 * len(EDITS) + edit) for edit in range(len(EDITS))]

    assert [int(copy["original"]) for copy in copies] == [3] * len(EDITS)
    assert [int(copy["edit"]) for copy in copies] == list(range(len(EDITS)))
    assert SPLITS["copies_queries"].length == ORIGINALS * len(EDITS)
    other = item("copies_database", 4)["image"].astype(float)
    overlaid = copies[list(EDITS).index("overlay")]["image"]
    assert np.abs(overlaid - source).mean() < np.abs(overlaid - other).mean()


@pytest.mark.parametrize("clip", [0, 1, 5])
def test_clips_move_and_start_with_every_object(clip: int) -> None:
    first, second, last = (item("video", clip * FRAMES + frame) for frame in (0, 1, FRAMES - 1))

    count = 2 + clip % 2
    assert set(np.unique(first["instances"])) == set(range(count + 1))
    assert all((first["instances"] == thing).sum() > 20 for thing in range(1, count + 1))
    still = (first["instances"] == second["instances"]).mean()
    assert 0.9 < still < 1
    assert (first["instances"] == last["instances"]).mean() < still
    assert SPLITS["video"].length == CLIPS * FRAMES


def test_key_points_lift_to_the_same_points_of_the_world() -> None:
    scenes, frames, points = pairs._matched(Draw("scenes@1", "pair", 7), 7)
    found = np.isfinite(points[0][:, 0])
    worlds = []
    for scene, frame, own in zip(scenes, frames, points, strict=True):
        camera, lifted = scene.camera, []
        for x, y in own[found].astype(float):
            depth = frame.depth[int(y), int(x)] / 1000
            ray = np.array([(x / 96 - 0.5) / camera.focal, (y / 96 - 0.5) / camera.focal, 1.0])
            lifted.append(np.array(camera.position) + camera.turn.T @ (ray * depth))
        worlds.append(np.array(lifted))

    assert found.sum() >= 4
    assert all(
        frame.instances[int(y), int(x)] == 1
        for frame, own in zip(frames, points, strict=True)
        for x, y in own[found]
    )
    # The pixel under a point of the second view is up to 3 cm nearer or farther.
    assert np.linalg.norm(worlds[0] - worlds[1], axis=1).max() < 0.045
    assert np.abs(points[0][found] - points[1][found]).max() > 3


def test_pair_items_are_two_views_with_rows_in_step() -> None:
    first, second = item("pairs", 4), item("pairs", 5)

    assert (np.isfinite(first["points"]) == np.isfinite(second["points"])).all()
    assert (first["image"] != second["image"]).mean() > 0.5
    assert all(isfinite(value) for value in first["points"][0])


@pytest.mark.parametrize("label", [0, 1])
def test_a_clip_is_called_by_the_side_its_thing_moves_to(monkeypatch: pytest.MonkeyPatch, label: int) -> None:
    masks: list[np.ndarray] = []

    def rendered(scene: Scene) -> Frame:
        frame = render(scene)
        masks.append(frame.instances == 1)
        return frame

    monkeypatch.setattr("ssleval.datasets.scenes.clips.render", rendered)
    for clip in (label + 6, label + 8):
        masks.clear()
        assert [int(item("actions", 8 * clip + frame)["label"]) % 2 for frame in (2, 5)] == [label] * 2
        first, last = (np.nonzero(mask)[1].mean() for mask in masks)
        assert bool(last > first) is bool(label)
