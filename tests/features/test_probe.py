import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ssleval.core import Geometry, RandomView, Readout
from ssleval.core.backbone import Features
from ssleval.errors import ContractError, DataError
from ssleval.features import FeatureSource
from ssleval.features.probe import difference
from tests.features.feature_fakes import (
    CLS,
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

HIDDEN = {"shift": 0.0}
"""What no key can hold: a state outside of the model."""


class Altered(Tiny):
    """Changes the rows of all that it returns."""

    def change(self, rows: Tensor) -> Tensor:
        return rows

    def extract(self, images: Tensor, blocks: Sequence[int], *, norm: bool) -> Features:
        found = super().extract(images, blocks, norm=norm)
        tokens = tuple(replace(block, patches=self.change(block.patches)) for block in found.blocks)
        return Features(self.change(found.pooled), tokens)


class Shifted(Altered):
    def change(self, rows: Tensor) -> Tensor:
        return rows + HIDDEN["shift"]


class Random(Altered):
    def change(self, rows: Tensor) -> Tensor:
        return torch.nn.functional.dropout(rows, 0.1)


class Centred(Altered):
    def change(self, rows: Tensor) -> Tensor:
        return rows - rows.mean(0) / 2


class Reversed(Altered):
    def change(self, rows: Tensor) -> Tensor:
        return rows.flip(0)


class Sorted(Altered):
    def change(self, rows: Tensor) -> Tensor:
        return rows[rows.flatten(1)[:, 0].argsort()]


class FirstOnly(Altered):
    def change(self, rows: Tensor) -> Tensor:
        return torch.cat([rows[:1], rows[:1].expand_as(rows[1:]) + 0.1 * rows[1:]])


class Learning(Altered):
    """Its weights move while it sees the images of a pass."""

    def extract(self, images: Tensor, blocks: Sequence[int], *, norm: bool) -> Features:
        if len(self.calls) < 5:
            self.embed.weight.data.mul_(0.8)
        return super().extract(images, blocks, norm=norm)


class Constant(Altered):
    def change(self, rows: Tensor) -> Tensor:
        return torch.ones_like(rows)


class Zero(Altered):
    def change(self, rows: Tensor) -> Tensor:
        return torch.zeros_like(rows)


@pytest.fixture(autouse=True)
def unshifted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HIDDEN, "shift", 0.0)


def prepare(
    backbone: Tiny,
    folder: Path,
    *readouts: Readout,
    image: Noise | None = None,
    n: int = 10,
    geometry: Geometry | RandomView = SQUARE,
    **context: object,
) -> FeatureSource:
    source = FeatureSource(backbone, context_of(folder, **context))
    source.prepare([request_of(dataset_of(split_of(n, image)), *readouts, geometry=geometry)])
    return source


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (Random, "other features each time"),
        (Centred, "in another batch"),
        (Reversed, "in another batch"),
        (Sorted, "in another batch"),
        (FirstOnly, "in another batch"),
        (Learning, "changed while its features were extracted"),
    ],
)
@pytest.mark.parametrize("readout", [POOLED, PATCHES], ids=str)
def test_a_model_that_gives_an_image_no_features_of_its_own_is_refused(
    tmp_path: Path, model: type[Tiny], why: str, readout: Readout
):
    for reason in (why, ""):  # what is stored of it stays refused
        message = rf"^tiny on noise/train: {readout.kind}.* differs by .*{reason}"
        with pytest.raises(ContractError, match=message):
            prepare(model(), tmp_path, readout, n=40, batch_size=8)


@pytest.mark.parametrize("readout", [POOLED, PATCHES, MEAN], ids=str)
def test_a_model_that_changed_under_its_key_is_refused_until_forced(tmp_path: Path, readout: Readout):
    prepare(Shifted(), tmp_path, readout)
    HIDDEN["shift"] = 0.05
    request = request_of(dataset_of(split_of(10)), readout)
    with pytest.raises(ContractError, match=r"of image_0.jpg differs by \d+\.\d% .*--force extracts anew"):
        prepare(Shifted(), tmp_path, readout)
    with pytest.raises(ContractError, match="--force"):
        FeatureSource(Shifted(), context_of(tmp_path)).load(request)
    source = prepare(Shifted(), tmp_path, readout, since=time.time())
    assert sum(count.images for count in source.counts.values()) == 10
    assert source.load(request)[readout].shape[0] == 10
    HIDDEN["shift"] = 0.0
    with pytest.raises(ContractError, match="--force"):
        prepare(Shifted(), tmp_path, readout)


def test_anew_is_once_for_all_that_share_a_pass(tmp_path: Path):
    prepare(Tiny(), tmp_path, MEAN, CLS)
    since = time.time()
    first, second = (prepare(Tiny(), tmp_path, readout, since=since) for readout in (MEAN, CLS))
    assert [sum(count.images for count in one.counts.values()) for one in (first, second)] == [10, 10]
    assert prepare(Tiny(), tmp_path, MEAN, CLS, since=since).counts == {}


def test_other_images_under_one_fingerprint_are_refused(tmp_path: Path):
    prepare(Tiny(), tmp_path, POOLED)
    with pytest.raises(ContractError, match="that image is another now"):
        prepare(Tiny(), tmp_path, POOLED, image=Noise(seed=1))
    with pytest.raises(DataError, match=r"image_3.jpg: truncated; it could be decoded when"):
        prepare(Tiny(), tmp_path, POOLED, image=Noise(corrupt=(3,)))


@pytest.mark.parametrize(("model", "same"), [(Constant, "the same"), (Zero, "zero")])
def test_features_that_tell_nothing_are_refused(tmp_path: Path, model: type[Tiny], same: str):
    with pytest.raises(ContractError, match=rf"^tiny on noise/train: pooled is {same} for all 10 images"):
        prepare(model(), tmp_path, POOLED)


def test_equal_images_may_have_equal_features(tmp_path: Path):
    def black(_: int) -> object:
        return Noise()(0)

    split = replace(split_of(10), image=black)  # pyright: ignore[reportArgumentType]
    for model, n in ((Constant, 10), (Zero, 1)):
        source = FeatureSource(model(), context_of(tmp_path / str(n)))
        source.prepare([request_of(dataset_of(split.subset(np.arange(n))), POOLED)])


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("geometry", [SQUARE, Geometry(16), RandomView(0, 16)], ids=["square", "any", "view"])
@pytest.mark.parametrize("n", [1, 2, 3, 10])
def test_a_sound_model_passes(tmp_path: Path, precision: str, geometry: Geometry, n: int):
    image = Noise((16, 16), vary=True)
    for size in (4, 7):  # the second finds everything stored
        source = prepare(
            Tiny(), tmp_path, POOLED, MEAN, Readout("mean", 0, norm=False), n=n, geometry=geometry,
            precision=precision, batch_size=size, image=image,
        )  # fmt: skip
    assert source.counts == {}


def test_the_probe_looks_at_four_images_once_a_readout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()  # count its forward passes too
    backbone, dataset = Tiny(), dataset_of(split_of(10))
    prepare(Tiny(), tmp_path, POOLED, MEAN)
    source = FeatureSource(backbone, context_of(tmp_path))
    for _ in range(2):
        source.load(request_of(dataset, POOLED))
        assert [size for size, _ in backbone.calls] == [1, 3]
    source.load(request_of(dataset, POOLED, MEAN))
    assert [size for size, _ in backbone.calls] == [1, 3, 1, 3]


def test_left_out_images_are_not_shown(tmp_path: Path):
    broken = Noise(corrupt=(0, 9))
    for _ in range(2):
        prepare(Tiny(), tmp_path, POOLED, image=broken, skip_corrupt=True)


def test_differences_are_by_length():
    one = np.array([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]])
    other = np.array([[3.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    assert difference(one, other).tolist() == [0.8, 0.0, 1.0]
    assert np.isnan(difference(one, one * np.nan)).all()
