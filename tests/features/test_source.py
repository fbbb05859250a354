import importlib
import json
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ssleval.core import Dataset, DatasetCard, DatasetOptions, FeatureRequest, Geometry, RandomView, Split
from ssleval.datasets.catalog import open_dataset
from ssleval.datasets.files import index, listing
from ssleval.errors import DataError
from ssleval.features import FeatureSource, passes
from tests.features.feature_fakes import (
    CARD,
    CLS,
    GEM,
    MEAN,
    PATCHES,
    POOLED,
    SQUARE,
    Noise,
    Tiny,
    context_of,
    dataset_of,
    request_of,
    split_of,
)

BASE: dict[str, Any] = {
    "backbone": {},
    "card": {},
    "context": {},
    "request": {},
    "split": {},
    "name": "noise",
}


def calls(cache: Path, **changed: Any) -> int:
    """Return how many forward passes features take after those of the unchanged setting were stored."""
    given = {**BASE, **changed}
    backbone = Tiny(replace(CARD, **given["card"]), **given["backbone"])
    split = replace(split_of(10), **given["split"])
    dataset = dataset_of(split, given["name"], names=("train", "test"))
    request = request_of(dataset, POOLED, **given["request"])
    FeatureSource(backbone, context_of(cache, **given["context"])).prepare([request])
    return len(backbone.calls)


CHANGES: dict[str, dict[str, Any]] = {
    "weights": {"backbone": {"seed": 1}},
    "mean": {"card": {"mean": (0.4, 0.5, 0.5)}},
    "std": {"card": {"std": (0.4, 0.5, 0.5)}},
    "loader": {"card": {"loader": "other"}},
    "arch": {"card": {"arch": "other"}},
    "pooling": {"card": {"pooling": "mean"}},
    "position embedding": {"card": {"position_embedding": "dino"}},
    "image size": {"card": {"image_size": 20}},
    "resize": {"request": {"geometry": Geometry(20, "square")}},
    "mode and crop": {"request": {"geometry": Geometry(16, "short", 16)}},
    "augmented": {"request": {"geometry": RandomView(0, 16)}},
    "interpolation": {"request": {"geometry": Geometry(16, "square", interpolation="bilinear")}},
    "precision": {"context": {"precision": "bf16"}},
    "content": {"split": {"fingerprint": "g"}},
    "dataset": {"name": "other"},
    "split": {"request": {"split": "test"}},
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_decides_features_is_part_of_their_key(tmp_path: Path, change: str):
    assert calls(tmp_path) == 3
    assert calls(tmp_path) == 0
    assert calls(tmp_path, **CHANGES[change]) == 3
    assert calls(tmp_path) == 0


def test_the_extractor_version_is_part_of_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert calls(tmp_path) == 3
    monkeypatch.setattr(passes, "EXTRACTOR_VERSION", passes.EXTRACTOR_VERSION + 1)
    assert calls(tmp_path) == 3


def test_the_code_of_a_foreign_model_is_part_of_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plug = tmp_path / "plug_one.py"
    plug.write_text("from tests.features.feature_fakes import Tiny\n\nclass Mine(Tiny):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    backbone = importlib.import_module("plug_one").Mine()
    before = passes.model_identity(backbone, "fp32")
    assert before == passes.model_identity(backbone, "fp32")
    plug.write_text(plug.read_text().replace("pass", "scale = 2.0"))
    backbone.forget_hashes()
    assert before != passes.model_identity(backbone, "fp32")


@pytest.mark.parametrize(
    "same",
    [
        {"card": {"name": "alias"}},
        {"card": {"license": "MIT"}},
        {"context": {"batch_size": 2}},
        {"context": {"num_workers": 1}},
        {"context": {"seed": 5}},
    ],
)
def test_what_cannot_move_features_is_not_part_of_their_key(tmp_path: Path, same: dict[str, Any]):
    assert calls(tmp_path) == 3
    assert calls(tmp_path, **same) == 0


def test_one_more_readout_extracts_only_that_one(tmp_path: Path):
    dataset, backbone = dataset_of(split_of(10)), Tiny()
    FeatureSource(backbone, context_of(tmp_path)).prepare([request_of(dataset, MEAN, PATCHES)])
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.glob("features/*/patches-2.npy")}
    backbone.calls.clear()
    FeatureSource(backbone, context_of(tmp_path)).prepare([request_of(dataset, MEAN, PATCHES, GEM)])
    assert len(backbone.calls) == 3
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_requests_of_all_tasks_share_passes(tmp_path: Path):
    dataset, backbone = dataset_of(split_of(10), names=("train", "test")), Tiny()
    other = Geometry(20, "square")
    requests = [
        request_of(dataset, MEAN),
        request_of(dataset, POOLED, MEAN),
        request_of(dataset.evaluated_on("train"), PATCHES),
        request_of(dataset, MEAN, split="test"),
        request_of(dataset, MEAN, geometry=other),
    ]
    source = FeatureSource(backbone, context_of(tmp_path))
    source.prepare(requests)
    assert len(backbone.calls) == 3 * 3
    assert len(source.counts) == 3
    for request in requests:
        source.load(request)
    assert len(backbone.calls) == 3 * 3


def test_load_extracts_what_nobody_prepared_and_maps_it_read_only(tmp_path: Path):
    source = FeatureSource(Tiny(), context_of(tmp_path))
    dataset = dataset_of(split_of(10))
    found = source.load(request_of(dataset, CLS))
    assert list(found.ids) == [f"image_{row}.jpg" for row in range(10)]
    assert found.targets is not None
    assert found.targets.tolist() == found.rows.tolist() == list(range(10))
    assert isinstance(found[CLS], np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        found[CLS][0] = 0


def test_a_split_is_opened_once_and_its_pass_identified_once(tmp_path: Path):
    opened: list[str] = []
    split = split_of(10)

    def open_split(name: str) -> Split:
        opened.append(name)
        return split

    dataset = Dataset(DatasetCard("d", target="none", lengths={"train": 10, "test": 10}), open_split)
    source = FeatureSource(Tiny(), context_of(tmp_path))
    for name in ("train", "train", "test"):
        source.load(FeatureRequest(dataset, name, SQUARE, (POOLED,)))
    assert opened == ["train", "test"]
    first, again = (source.passes([FeatureRequest(dataset, "train", SQUARE, (POOLED,))]) for _ in range(2))
    assert first[0].identity is again[0].identity


def test_a_shorter_copy_of_a_dataset_is_another(tmp_path: Path):
    source, dataset = FeatureSource(Tiny(), context_of(tmp_path)), dataset_of(split_of(10))
    assert len(source.load(request_of(dataset)).rows) == 10
    assert len(source.load(request_of(dataset.limited(3))).rows) == 3


def test_timings_tell_extracted_from_reused(tmp_path: Path):
    dataset = dataset_of(split_of(10), names=("train", "test"))
    train, test = (request_of(dataset, POOLED, split=name) for name in ("train", "test"))
    first = FeatureSource(Tiny(), context_of(tmp_path))
    first.prepare([train])
    found = first.timings(first.passes([train]))
    assert found["images_extracted"] == 10
    assert found["images_reused"] == 0
    assert found["extract_seconds"] > 0
    assert found["images_per_second"] == pytest.approx(10 / found["extract_seconds"], rel=0.2)
    second = FeatureSource(Tiny(), context_of(tmp_path))
    second.prepare([train, test])
    assert second.timings(second.passes([train, test]))["images_extracted"] == 10
    assert second.timings(second.passes([train, test]))["images_reused"] == 10
    assert second.timings(second.passes([train]))["images_per_second"] == 0
    assert second.skipped(second.passes([train, test])) == {}


def test_a_plan_prices_what_is_left(tmp_path: Path):
    dataset, backbone = dataset_of(split_of(10)), Tiny()
    source = FeatureSource(backbone, context_of(tmp_path))
    request = request_of(dataset, POOLED, PATCHES)
    (price,) = source.prices(source.passes([request]))
    assert (price.images_left, price.forward_passes, price.batch_size) == (10, 3, 4)
    assert price.bytes_total == price.bytes_left == 10 * (8 * 4 + 16 * 8 * 2)
    assert list(map(str, price.priced.readouts)) == ["pooled", "patches[2]"]
    assert source.calibrate(source.prices(source.passes([request]))) > 0
    assert not (tmp_path / "features").exists()
    source.prepare([request_of(dataset, POOLED)])
    (price,) = source.prices(source.passes([request]))
    assert (price.images_left, price.bytes_left) == (10, 10 * 16 * 8 * 2)
    source.prepare([request])
    (price,) = source.prices(source.passes([request]))
    assert (price.images_left, price.forward_passes, price.bytes_left) == (0, 0, 0)
    assert source.calibrate(source.prices(source.passes([request]))) == 0
    assert price.bytes_total == 10 * (8 * 4 + 16 * 8 * 2)


def test_calibration_grows_with_the_work(tmp_path: Path):
    def seconds(delay: float, n: int) -> float:
        source = FeatureSource(Tiny(delay=delay), context_of(tmp_path))
        return source.calibrate(source.prices(source.passes([request_of(dataset_of(split_of(n)), POOLED)])))

    # A sleep lasts at least as long as it says, so only lower bounds hold on every machine.
    assert seconds(0.05, 1000) >= 0.05 * 250
    assert seconds(0.05, 2000) >= 0.05 * 500


def test_the_store_says_what_it_holds(tmp_path: Path):
    FeatureSource(Tiny(), context_of(tmp_path)).prepare([request_of(dataset_of(split_of(10)), MEAN)])
    (path,) = tmp_path.glob("features/*/pass.json")
    said = json.loads(path.read_text())
    assert (said["model"], said["dataset"], said["split"]) == ("tiny", "noise", "train")
    assert (said["images"], said["batch_size"]) == (10, 4)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT.*", said["created"])
    assert np.load(path.with_name("mean-2.npy"), mmap_mode="r").shape == (10, 8)
    assert np.load(path.with_name("valid.npy")).all()


def test_another_batch_size_midway_is_said_and_not_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    dataset = dataset_of(split_of(10))
    FeatureSource(Tiny(), context_of(tmp_path)).prepare([request_of(dataset, MEAN)])
    backbone = Tiny()
    FeatureSource(backbone, context_of(tmp_path, batch_size=5)).prepare([request_of(dataset, GEM)])
    assert [size for size, _ in backbone.calls] == [4, 4, 2]
    assert "batches of 4, as this pass began, not 5" in capsys.readouterr().err


def test_identity_changes_with_the_cards_native_geometry(tmp_path: Path):
    def key(**card: Any) -> object:
        return FeatureSource(Tiny(replace(CARD, **card)), context_of(tmp_path)).identity

    assert key() == key()
    assert key() != key(resize=24)


def test_dropout_never_runs(tmp_path: Path):
    backbone = Tiny()
    assert backbone.drop.training
    FeatureSource(backbone, context_of(tmp_path))
    assert not backbone.drop.training
    torch.testing.assert_close(backbone.drop(torch.ones(4)), torch.ones(4))


def test_views_are_passes_of_their_own_extracted_once(tmp_path: Path):
    dataset, backbone = dataset_of(split_of(10)), Tiny()
    source = FeatureSource(backbone, context_of(tmp_path))
    plain, *views = (
        request_of(dataset, POOLED, geometry=geometry)
        for geometry in (SQUARE, RandomView(0, 16), RandomView(1, 16), RandomView(0, 16, seed=1))
    )
    source.prepare([plain, *views, *views])
    assert len(backbone.calls) == 4 * 3
    found = [source.load(one)[POOLED] for one in (plain, *views)]
    assert len({one.tobytes() for one in found}) == 4
    source.prepare([plain, *views])
    assert len(backbone.calls) == 4 * 3


def test_a_view_of_an_image_is_the_same_whatever_else_is_extracted(tmp_path: Path):
    request = request_of(dataset_of(split_of(10)), POOLED, geometry=RandomView(0, 16))
    whole = FeatureSource(Tiny(), context_of(tmp_path / "a")).load(request)
    some = replace(request, dataset=request.dataset.limited(4))
    context = context_of(tmp_path / "b", batch_size=3)
    part = FeatureSource(Tiny(), context).load(some)
    rows = [list(whole.ids).index(one) for one in part.ids]
    np.testing.assert_allclose(part[POOLED], whole[POOLED][rows], rtol=1e-5, atol=1e-6)


def test_sets_with_other_targets_of_the_same_pictures_share_their_features(tmp_path: Path):
    one = replace(split_of(10, fingerprint="labels"), pictures="p")
    two = replace(split_of(10, fingerprint="masks"), targets=np.arange(10) * 2, pictures="p")
    other = replace(split_of(10, fingerprint="masks"), pictures="q")
    source = FeatureSource(Tiny(), context_of(tmp_path))
    requests = [request_of(dataset_of(split, name)) for split, name in ((one, "a"), (two, "b"))]
    source.prepare(requests)
    assert sum(count.images for count in source.counts.values()) == 10
    first, second = (source.load(request) for request in requests)
    np.testing.assert_array_equal(first[POOLED], second[POOLED])
    assert first.targets is not None
    assert second.targets is not None
    np.testing.assert_array_equal(second.targets, first.targets * 2)
    source.prepare([request_of(dataset_of(other, "b"))])
    assert sum(count.images for count in source.counts.values()) == 20
    assert one.subset(np.arange(3)).pictures == two.subset(np.arange(3)).pictures
    assert one.subset(np.arange(3)).pictures not in {one.pictures, one.subset(np.arange(4)).pictures}
    assert not split_of(10).subset(np.arange(3)).pictures


def test_stored_features_count_only_while_files_are_those_that_were_listed(tmp_path: Path):
    def refuse() -> None:
        raise DataError("a.jpg: changed in place")

    split, context = split_of(10), context_of(tmp_path)
    FeatureSource(Tiny(), context).prepare([request_of(dataset_of(split))])
    changed = dataset_of(replace(split, refuse_changed=refuse))
    for dataset in (changed, changed.limited(4)):
        request, source = request_of(dataset), FeatureSource(Tiny(), context)
        with pytest.raises(DataError, match="changed in place"):
            source.prepare([request])
        with pytest.raises(DataError, match="changed in place"):
            FeatureSource(Tiny(), context).load(request)
        # A task that runs the model itself stores no features, but a result.
        for readouts in (request.readouts, ()):
            with pytest.raises(DataError, match="changed in place"):
                source.confirm([replace(request, readouts=readouts)])


@pytest.mark.parametrize("when", ["before features are stored", "after"])
def test_an_image_rewritten_in_place_never_counts_under_the_old_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
):
    monkeypatch.setattr(index, "LEAST", 1)
    monkeypatch.setattr(index, "now", lambda: time.time_ns() + 10**10)
    # Without this, an opening compares the sizes of so small a set.
    monkeypatch.setattr(listing, "_LOOKED_AT", 1)
    for split, row in ((split, row) for split in ("train", "test") for row in range(6)):
        path = tmp_path / "set" / split / "a" / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Noise(seed=row)(row).save(path)

    def extracted() -> tuple[str, np.ndarray]:
        dataset = open_dataset(f"folder:{tmp_path / 'set'}", DatasetOptions(cache=tmp_path))
        backbone = Tiny()
        source = FeatureSource(backbone, context_of(tmp_path))
        source.prepare([request_of(dataset)])
        return dataset.split("train").fingerprint, source.load(request_of(dataset))[POOLED]

    opened = open_dataset(f"folder:{tmp_path / 'set'}", DatasetOptions(cache=tmp_path)).split("train")
    before = extracted()[1] if when == "after" else None
    Image.new("RGB", (40, 30), (9, 90, 200)).save(tmp_path / "set" / "train" / "a" / "4.png")
    with pytest.raises(DataError, match=r"4\.png: changed in place since it was listed; run again"):
        extracted()
    fingerprint, features = extracted()
    assert fingerprint != opened.fingerprint
    if before is not None:
        assert (np.abs(features - before).max(1) > 1e-3).tolist() == [False] * 4 + [True, False]
    # The first file again: nothing of the second is stored for it.
    Noise(seed=4)(4).save(tmp_path / "set" / "train" / "a" / "new.png")
    (tmp_path / "set" / "train" / "a" / "new.png").replace(tmp_path / "set" / "train" / "a" / "4.png")
    again, features = extracted()
    assert again == opened.fingerprint
    fresh = FeatureSource(Tiny(), context_of(tmp_path / "fresh"))
    dataset = open_dataset(f"folder:{tmp_path / 'set'}", DatasetOptions(cache=tmp_path / "fresh"))
    assert np.array_equal(features, fresh.load(request_of(dataset))[POOLED])
