from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ssleval.core import Dataset, DatasetCard, FeatureTable, Geometry, Readout
from ssleval.core.backbone import Features
from ssleval.core.geometry import apply
from ssleval.errors import ConfigError, ContractError, DataError, NotApplicableError
from ssleval.features import FeatureSource
from ssleval.features.extract import choose_batch_size, forward
from ssleval.run.settings import build_task
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

ALL = (POOLED, CLS, MEAN, GEM, PATCHES, Readout("cls", 0), Readout("mean", 1, norm=False))


def table(
    folder: Path,
    *readouts: Readout,
    backbone: Tiny | None = None,
    n: int = 10,
    image: Noise | None = None,
    geometry: Geometry | None = SQUARE,
    **context: object,
) -> FeatureTable:
    source = FeatureSource(backbone or Tiny(), context_of(folder, **context))
    return source.load(request_of(dataset_of(split_of(n, image)), *readouts, geometry=geometry))


def same(one: FeatureTable, other: FeatureTable) -> None:
    assert one.arrays.keys() == other.arrays.keys()
    for readout, array in one.arrays.items():
        np.testing.assert_array_equal(array, other[readout], err_msg=str(readout))


def test_every_readout_equals_the_model_called_by_hand(tmp_path: Path):
    found = table(tmp_path, *ALL)
    backbone = Tiny().eval()
    pixels = np.stack([apply(SQUARE, Noise()(index)) for index in range(10)])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    first, second, last = backbone(images, (0, 1, 2)).blocks
    raw = backbone(images, (1,), norm=False).blocks[0]
    expected = {
        POOLED: backbone(images).pooled,
        CLS: last.cls,
        MEAN: last.patches.mean((1, 2)),
        GEM: last.patches.clamp(min=1e-6).pow(4).mean((1, 2)) ** 0.25,
        PATCHES: last.patches,
        ALL[5]: first.cls,
        ALL[6]: raw.patches.mean((1, 2)),
    }
    assert not torch.allclose(second.patches, raw.patches)
    for readout, values in expected.items():
        assert values is not None
        tolerance = 2e-3 if readout == PATCHES else 1e-6
        np.testing.assert_allclose(found[readout], values.detach().numpy(), atol=tolerance)
    assert found[PATCHES].shape == (10, 4, 4, 8)
    assert found[PATCHES].dtype == np.float16
    assert found[GEM].dtype == np.float32


def test_one_pass_for_all_readouts_of_one_norm(tmp_path: Path):
    backbone = Tiny()
    table(tmp_path, POOLED, CLS, MEAN, PATCHES, backbone=backbone)
    assert backbone.calls == [(1, True), (4, True), (4, True), (2, True)]  # the first asks for a class token
    backbone.calls.clear()
    table(tmp_path, Readout("mean", 0), Readout("mean", norm=False), backbone=backbone)
    assert backbone.calls == [(4, True), (4, False)] * 2 + [(2, True), (2, False)]


def test_workers_do_not_change_a_bit(tmp_path: Path):
    same(table(tmp_path / "a", *ALL), table(tmp_path / "b", *ALL, num_workers=2))


def test_batch_size_changes_nothing_but_rounding(tmp_path: Path):
    alone, together = (table(tmp_path / str(size), *ALL, batch_size=size) for size in (1, 7))
    for readout, array in alone.arrays.items():
        tolerance = 2e-3 if readout == PATCHES else 1e-5
        np.testing.assert_allclose(array, together[readout], atol=tolerance)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_reduced_precision_on_the_cpu(tmp_path: Path, precision: str):
    exact, rough = table(tmp_path, POOLED, MEAN), table(tmp_path, POOLED, MEAN, precision=precision)
    for readout, array in exact.arrays.items():
        assert rough[readout].dtype == np.float32
        assert 0 < np.abs(array - rough[readout]).max() < 0.1


def test_images_of_varying_sizes_go_one_by_one(tmp_path: Path):
    backbone, image = Tiny(), Noise((16, 16), vary=True)
    found = table(tmp_path, POOLED, MEAN, backbone=backbone, image=image, geometry=Geometry(16))
    assert backbone.calls == [(1, True)] * 10
    assert found[MEAN].shape == (10, 8)
    with pytest.raises(ConfigError, match="one size"):
        table(tmp_path, PATCHES, image=image, geometry=Geometry(16))


def test_a_corrupt_image_stops_the_run_in_one_line(tmp_path: Path):
    for workers in (0, 1):
        with pytest.raises(DataError, match=r"^image_5.jpg: truncated; --skip-corrupt") as caught:
            table(tmp_path / str(workers), image=Noise(corrupt=(5,)), num_workers=workers)
        assert "\n" not in str(caught.value)


def test_corrupt_images_are_left_out_and_counted(tmp_path: Path):
    whole = table(tmp_path / "whole", MEAN, PATCHES)
    source = FeatureSource(Tiny(), context_of(tmp_path, skip_corrupt=True))
    request = request_of(dataset_of(split_of(10, Noise(corrupt=(0, 5, 8, 9)))), MEAN, PATCHES)
    found = source.load(request)
    assert found.rows.tolist() == [1, 2, 3, 4, 6, 7]
    assert found.targets is not None
    assert found.targets.tolist() == found.rows.tolist()
    assert found.ids == [f"image_{row}.jpg" for row in found.rows]
    assert source.skipped(source.passes([request])) == {
        "noise/train": [f"image_{row}.jpg" for row in (0, 5, 8, 9)]
    }
    for readout in (MEAN, PATCHES):
        np.testing.assert_allclose(found[readout], whole[readout][found.rows], atol=2e-3)
        assert not found[readout].flags.writeable


@pytest.mark.parametrize(
    ("task", "settings", "target"),
    [
        ("attention", {}, "instances"),
        ("correspondence", {}, "pairs"),
        ("video_segmentation", {}, "video"),
        ("segmentation", {"protocol": "paper"}, "mask"),
    ],
)
def test_tasks_that_run_the_model_themselves_leave_no_image_out(
    tmp_path: Path, task: str, settings: dict[str, Any], target: Any
):
    card = DatasetCard("d", target, ("a", "b"), lengths={"train": 1, "test": 1})
    requests = build_task(task, settings).requests(Dataset(card, dataset_of(split_of(1)).open))
    FeatureSource(Tiny(), context_of(tmp_path)).check(requests)
    with pytest.raises(ConfigError, match=r"^--skip-corrupt: a task runs the model on d itself and cannot"):
        FeatureSource(Tiny(), context_of(tmp_path, skip_corrupt=True)).check(requests)


def test_another_readout_lacks_the_same_images(tmp_path: Path):
    table(tmp_path, MEAN, image=Noise(corrupt=(5,)), skip_corrupt=True)
    found = table(tmp_path, MEAN, GEM, image=Noise(), skip_corrupt=True)
    assert len(found[MEAN]) == len(found[GEM]) == len(found.rows) == 9


def test_without_skip_corrupt_left_out_images_are_tried_again(tmp_path: Path):
    table(tmp_path, MEAN, image=Noise(corrupt=(5,)), skip_corrupt=True)
    with pytest.raises(DataError, match="image_5"):
        table(tmp_path, MEAN, image=Noise(corrupt=(5,)))
    backbone = Tiny()
    found = table(tmp_path, MEAN, backbone=backbone)
    assert backbone.calls == [(4, True)]
    same(found, table(tmp_path / "whole", MEAN))


@pytest.mark.parametrize(
    ("scale", "readout", "message"),
    [
        (float("nan"), MEAN, r"image_0.jpg: mean-2 has a feature that is not finite"),
        (1e5, PATCHES, r"image_0.jpg: patches-2 has a feature beyond the range of float16"),
    ],
)
def test_features_that_cannot_be_stored_are_refused(
    tmp_path: Path, scale: float, readout: Readout, message: str
):
    with pytest.raises(ContractError, match=message):
        table(tmp_path, readout, backbone=Tiny(scale=scale))


def test_the_first_bad_image_is_named(tmp_path: Path):
    class Spoilt(Tiny):
        def extract(self, images: Tensor, blocks: Sequence[int], *, norm: bool) -> Features:
            features = super().extract(images, blocks, norm=norm)
            features.pooled[1] = torch.inf if len(self.calls) == 2 else 0
            return features

    with pytest.raises(ContractError, match=r"image_5.jpg: pooled has a feature that is not finite"):
        table(tmp_path, POOLED, backbone=Spoilt())


def test_a_model_without_class_token_is_refused_before_anything_is_read(tmp_path: Path):
    source = FeatureSource(Tiny(cls=False), context_of(tmp_path))
    request = request_of(dataset_of(split_of(10, Noise(corrupt=tuple(range(10))))), CLS)
    for call in (source.check, source.prepare):
        with pytest.raises(NotApplicableError, match=r"tiny has no class token for cls\[-1\]"):
            call([request])


def test_a_partial_patch_is_refused_before_anything_is_read(tmp_path: Path):
    with pytest.raises(ConfigError, match="18 pixels is not a multiple of its patch size 4"):
        table(tmp_path, geometry=Geometry(18, "square"))


def test_batch_size_is_as_asked_or_fixed_on_the_cpu(tmp_path: Path):
    backbone = Tiny()
    assert choose_batch_size(backbone, (POOLED,), SQUARE, context_of(tmp_path, batch_size=0)) == 32
    assert choose_batch_size(backbone, (POOLED,), SQUARE, context_of(tmp_path, batch_size=5)) == 5
    assert choose_batch_size(backbone, (POOLED,), Geometry(16), context_of(tmp_path, batch_size=5)) == 1
    assert backbone.calls == []


def test_forward_divides_by_255(tmp_path: Path):
    white = torch.full((1, 16, 16, 3), 255, dtype=torch.uint8)
    backbone = Tiny().eval()
    got = forward(backbone, white, (POOLED,), context_of(tmp_path))[POOLED]
    torch.testing.assert_close(got, backbone(torch.ones(1, 3, 16, 16)).pooled, rtol=0, atol=0)


def test_the_cards_own_geometry_where_none_is_pinned(tmp_path: Path):
    found = table(tmp_path, PATCHES, geometry=None)
    same(found, table(tmp_path / "b", PATCHES, geometry=CARD.native_geometry()))


def test_an_empty_split_has_no_rows(tmp_path: Path):
    assert table(tmp_path, POOLED, PATCHES, n=0)[PATCHES].shape == (0, 4, 4, 8)
