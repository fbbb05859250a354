import pickle
from pathlib import Path

import numpy as np
import pytest

from ssleval.core import DatasetOptions, datasets
from ssleval.core.targets import Groups, KeyPoints
from ssleval.datasets.scenes.categories import CATEGORIES
from ssleval.datasets.scenes.items import item
from ssleval.datasets.scenes.render import MASK_CLASSES
from ssleval.datasets.scenes.retrieval import exhibit_rows
from ssleval.errors import UnknownNameError
from tests.datasets.scenes.small_copies import rendered, shorten

LABELS = ("", "material", "color", "size", "count")
LENGTHS = {
    "train": 4,
    "test": 4,
    "unlabelled": 2,
    "video": 2,
    "pairs": 10,
    "copies_queries": 2,
    "copies_database": 2,
    "retrieval_queries": 1,
    "retrieval_gallery": 9,
}


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> DatasetOptions:
    """A cache that holds the first items of every split."""
    return rendered(tmp_path_factory.mktemp("cache"), LENGTHS)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch, LENGTHS)


def test_default_is_the_category(options: DatasetOptions) -> None:
    dataset = datasets.get("scenes")("", options)
    split = dataset.split("test")

    assert dataset.card.num_classes == 20
    assert split.targets is not None
    assert split.targets.tolist() == [0, 1, 2, 3]
    assert split.ids[1] == "block/00001"
    assert (np.array(split.image(1)) == item("test", 1)["image"]).all()


def test_unlabelled_has_no_labels(options: DatasetOptions) -> None:
    split = datasets.get("scenes")("", options).split("unlabelled")

    assert split.targets is None
    assert split[0].target is None


@pytest.mark.parametrize(("location", "column"), [("material", 0), ("color", 1), ("size", 2), ("count", 3)])
def test_attributes_are_labels(location: str, column: int, options: DatasetOptions) -> None:
    dataset = datasets.get("scenes")(location, options)
    targets = dataset.split("test").targets

    assert dataset.card.target == "label"
    assert targets is not None
    assert targets.tolist() == [int(item("test", index)["attributes"][column]) for index in range(4)]


def test_things_have_categories_boxes_and_masks(options: DatasetOptions) -> None:
    dataset = datasets.get("scenes")("objects", options)
    assert (dataset.card.target, dataset.card.class_names) == ("objects", CATEGORIES)
    for index in range(4):
        found, made = dataset.split("test")[index].target, item("test", index)
        # The subject, whose category is the label of the picture, comes first.
        assert found.labels[0] == made["label"]
        assert found.masks.shape == (len(found.labels), 96, 96)
        shown = np.unique(made["instances"][made["mask"] < 20])
        numbers = [number for number in shown.tolist() if number]
        for mask, box, number in zip(found.masks, found.boxes, numbers, strict=True):
            np.testing.assert_array_equal(mask, made["instances"] == number)
            rows, columns = np.nonzero(mask)
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert found.difficult.tolist() == [mask.sum() < 8 for mask in found.masks]


def test_dense_targets_come_in_the_units_of_tasks(options: DatasetOptions) -> None:
    opened = {
        name: datasets.get("scenes")(name, options) for name in ("mask", "depth", "normals", "instances")
    }
    mask, depth, normals, instances = (opened[name].split("test")[2].target for name in opened)

    assert [dataset.card.target for dataset in opened.values()] == list(opened)
    assert opened["mask"].card.class_names == MASK_CLASSES
    found = item("test", 2)
    assert (mask == found["mask"]).all()
    assert (instances == found["instances"]).all()
    np.testing.assert_allclose(depth, found["depth"] / 1000, rtol=1e-6)
    known = depth > 0
    np.testing.assert_allclose(np.linalg.norm(normals[known], axis=-1), 1, atol=1e-5)
    assert not normals[~known].any()


def test_queries_know_their_groups(options: DatasetOptions) -> None:
    retrieval = datasets.get("scenes")("retrieval", options)
    copies = datasets.get("scenes")("copies", options)

    groups = retrieval.split("queries")[0].target
    assert isinstance(groups, Groups)
    assert [part.tolist() for part in groups[:3]] == [[0, 1, 2, 3], [4, 5, 6], [7]]
    assert groups.group == 0
    assert copies.split("queries")[1].target.easy.tolist() == [0]
    assert retrieval.split("gallery")[0].target is None
    assert [copies.split("queries")[index].target.group for index in range(2)] == [0, 1]
    assert copies.card.class_names[:2] == ("crop", "blur")
    assert copies.card.test_split == "queries"
    assert copies.split("database").target is copies.split("whitening").target is None


def test_exhibits_are_known_by_one_picture_and_asked_for_by_others(options: DatasetOptions) -> None:
    exhibits = datasets.get("scenes")("exhibits", options)

    assert exhibits.card.target == "open_set"
    assert exhibits.card.lengths == {"database": 1, "val": 3, "test": 5, "whitening": 4}
    splits = {name: exhibits.split(name) for name in exhibits.card.lengths}
    labels = [None if one.targets is None else one.targets.tolist() for one in splits.values()]
    assert labels == [[0], [0, 0, 1], [0] * 5, None]
    assert list(splits["val"].ids) == ["00000", "00004", "00008"]
    assert list(splits["test"].ids) == ["00001", "00002", "00003", "00005", "00006"]
    assert (np.array(splits["test"].image(3)) == item("retrieval_gallery", 5)["image"]).all()
    assert len({one.fingerprint for one in splits.values()}) == 4
    few = exhibits.limited(1)
    assert few.card.lengths == {"database": 1, "val": 1, "test": 1, "whitening": 4}


def test_queries_that_show_no_exhibit_are_shared_out_too() -> None:
    val, test = (exhibit_rows(split, 2000) for split in ("val", "test"))

    assert not set(val) & set(test)
    assert (len(val), len(test)) == (200 + 240, 500 + 960)
    assert sorted({*val, *test}) == [row for row in range(2000) if row >= 800 or row % 8 != 7]
    assert (val >= 800).sum() == 240


def test_a_pair_carries_its_second_view(options: DatasetOptions) -> None:
    dataset = datasets.get("scenes")("pairs", options)
    sample = dataset.split("test")[3]
    pair, (first, second) = sample.target, (item("pairs", index) for index in (6, 7))

    assert isinstance(pair, KeyPoints)
    assert dataset.card.lengths == {"test": 5}
    assert (np.array(sample.image) == first["image"]).all()
    assert (np.array(pair.partner) == second["image"]).all()
    assert pair.names == ("00006", "00007")
    found = np.isfinite(first["points"][:, 0])
    assert (pair.points == first["points"][found]).all()
    assert (pair.partner_points == second["points"][found]).all()
    left, top, right, bottom = pair.box
    assert ((pair.partner_points >= (left, top)) & (pair.partner_points <= (right, bottom))).all()
    assert pair.category == int(first["label"])


def test_a_limit_keeps_pairs_whole(options: DatasetOptions) -> None:
    whole = datasets.get("scenes")("pairs", options)
    few, split = whole.limited(3).split("test"), whole.split("test")
    rows = [split.ids.index(name) for name in few.ids]

    assert len(few) == 3
    assert rows != [0, 1, 2]
    for place, row in enumerate(rows):
        kept, known = few[place], split[row]
        assert (np.array(kept.image) == np.array(known.image)).all()
        assert kept.target.names == known.target.names
        assert (np.array(kept.target.partner) == np.array(known.target.partner)).all()
        assert (kept.target.partner_points == known.target.partner_points).all()


def test_a_limit_leaves_the_rows_that_groups_name(options: DatasetOptions) -> None:
    few = datasets.get("scenes")("copies", options).limited(1)

    assert few.card.lengths == {"queries": 1, "database": 2, "whitening": 4}
    assert few.split("queries")[0].target.easy.tolist() == [0]


def test_video_is_named_by_clip_and_frame(options: DatasetOptions) -> None:
    split = datasets.get("scenes")("video", options).split("test")

    assert list(split.ids) == ["clip00/00000", "clip00/00001"]
    assert (split[1].target == item("video", 1)["instances"]).all()


def test_captions_are_two_texts(options: DatasetOptions) -> None:
    captions = datasets.get("scenes")("captions", options).split("test")[0].target

    assert len(captions) == 2
    assert all("ball" in caption for caption in captions)


def test_splits_survive_pickling(options: DatasetOptions) -> None:
    split = datasets.get("scenes")("mask", options).split("test")
    image, target = pickle.loads(pickle.dumps((split.image, split.target)))

    assert (np.array(image(1)) == np.array(split.image(1))).all()
    assert (target(1) == split[1].target).all()


def test_fingerprints_tell_targets_and_splits_apart(options: DatasetOptions) -> None:
    prints = {
        datasets.get("scenes")(location, options).split(split).fingerprint
        for location in (*LABELS, "mask", "depth")
        for split in ("train", "test")
    }

    assert len(prints) == 14


def test_copy_in_the_data_root_comes_first(options: DatasetOptions, tmp_path: Path) -> None:
    elsewhere = DatasetOptions(data_root=options.cache, cache=tmp_path)

    assert len(datasets.get("scenes")("", elsewhere).split("test")) == 4
    assert not list(tmp_path.iterdir())


def test_unknown_target_is_refused(options: DatasetOptions) -> None:
    with pytest.raises(UnknownNameError, match=r"no target 'deph'; did you mean depth\?"):
        datasets.get("scenes")("deph", options)
