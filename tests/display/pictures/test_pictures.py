"""Every kind of picture, with models that say what must be seen."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.decomposition import PCA
from torch import Tensor

from ssleval.core import BackboneCard, Context, Dataset, DatasetCard, Split
from ssleval.core.backbone import Backbone, Features, Tokens
from ssleval.display.pictures import KINDS, Look, Picture, canvas, draw, pca
from ssleval.display.pictures.matches import _spread
from ssleval.display.pictures.pca import components, otsu
from ssleval.errors import ConfigError, NotApplicableError, UnknownNameError
from ssleval.tasks.depth import Depth


class Colours(Backbone):
    """Patches are mean colours, less grey; the heads look at red and at green."""

    def __init__(self) -> None:
        card = BackboneCard("colours", "test", "colours", embed_dim=3, patch_size=8, image_size=32)
        super().__init__(card, num_blocks=2)

    def extract(self, images: Tensor, blocks: Sequence[int], *, norm: bool) -> Features:
        patches = torch.nn.functional.avg_pool2d(images, 8).permute(0, 2, 3, 1) - 0.5
        means = patches.mean((1, 2))
        return Features(means, tuple(Tokens(patches * (block + 1), means) for block in blocks))

    def attention(self, images: Tensor) -> Tensor:
        looks = torch.nn.functional.avg_pool2d(images, 8)[:, :2].pow(4) + 1e-3
        return looks / looks.sum((2, 3), keepdim=True)


def picture(name: str, left: int, colour: tuple[int, int, int] = (230, 40, 30), width: int = 96) -> Picture:
    """A coloured square on green, with some noise."""
    pixels = np.full((64, width, 3), (60, 120, 70), dtype=np.int64)
    pixels[16:48, left : left + 32] = colour
    pixels[24:32, left : left + 32] //= 2
    pixels += np.random.default_rng(len(name)).integers(-9, 10, pixels.shape)
    target = np.zeros((64, width), np.uint8)
    target[16:48, left : left + 32] = 1
    return Picture(name, Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), target)


TWO = [picture("a", 16), picture("bb", 48)]
LOOK = Look(size=96)


@dataclass
class Drawn:
    """What a kind of picture puts on its page."""

    rows: list[list[Any]]
    legend: dict[str, str]

    def pixels(self, row: int) -> list[np.ndarray]:
        return [np.asarray(tile.image).astype(float) for tile in self.rows[row] if tile is not None]


def drawn(backbone: Backbone, pictures: Sequence[Picture], what: str, look: Look | None = None) -> Drawn:
    pages: list[Drawn] = []

    def record(title: str, rows: Any, notes: Any = (), side: int = 0, legend: Any = None) -> Image.Image:
        pages.append(Drawn(rows, legend or {}))
        return Image.new("RGB", (8, 8))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"ssleval.display.pictures.{what}.page", record)
        draw(backbone, pictures, what, look)
    (page,) = pages
    return page


def inside(one: Picture, shape: tuple[int, ...]) -> np.ndarray:
    mask = Image.fromarray(one.target * np.uint8(255)).resize((shape[1], shape[0]), Image.Resampling.NEAREST)
    return np.asarray(mask) > 0


def test_components_are_those_of_scikit_learn() -> None:
    tokens = torch.randn(200, 12, generator=torch.Generator().manual_seed(0)) @ torch.randn(
        12, 12, generator=torch.Generator().manual_seed(1)
    )
    found = components(tokens, 3).numpy()
    expected = PCA(3).fit(tokens.numpy())
    directions = np.asarray(expected.components_)
    signs = np.sign(directions[np.arange(3), np.abs(directions).argmax(1)])
    np.testing.assert_allclose(found, expected.transform(tokens.numpy()) * signs, rtol=1e-3, atol=1e-3)
    assert torch.equal(components(tokens, 3), components(tokens, 3))
    with pytest.raises(NotApplicableError, match="3 components of 2 channels"):
        components(tokens[:, :2], 3)


def test_the_threshold_leaves_the_least_variance_on_both_sides() -> None:
    drawn = np.random.default_rng(0)
    values = np.concatenate([drawn.normal(0, 1, 60), drawn.normal(4, 0.5, 25)])
    threshold = otsu(torch.from_numpy(values))
    ordered = np.sort(values)
    spread = [ordered[:cut].var() * cut + ordered[cut:].var() * (85 - cut) for cut in range(1, 85)]
    best = int(np.argmin(spread))
    assert ordered[best] < threshold < ordered[best + 1]


def test_pca_paints_the_same_thing_in_the_same_colour_and_the_background_dark() -> None:
    page = drawn(Colours(), TWO, "pca", LOOK)
    means = []
    for row, one in enumerate(TWO):
        seen, everything, foreground = page.pixels(row)
        assert np.array_equal(seen, np.asarray(one.image))
        thing = inside(one, seen.shape)
        assert foreground[thing].mean() > 3 * foreground[~thing].mean()
        assert np.abs(everything[thing].mean(0) - everything[~thing].mean(0)).max() > 60
        means.append(everything[thing].mean(0))
    assert np.abs(means[0] - means[1]).max() < 30


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_foreground_does_not_depend_on_a_sign(monkeypatch: pytest.MonkeyPatch, sign: float) -> None:
    def flipped(tokens: Tensor, count: int) -> Tensor:
        return sign * components(tokens, count)

    before = drawn(Colours(), TWO, "pca", LOOK)
    monkeypatch.setattr(pca, "components", flipped)
    after = drawn(Colours(), TWO, "pca", LOOK)
    dark = [page.pixels(0)[2].max(2) < 60 for page in (before, after)]
    assert (dark[0] == dark[1]).mean() > 0.97


def test_pca_of_one_colour_has_no_foreground() -> None:
    plain = Picture("plain", Image.new("RGB", (96, 64), (9, 9, 9)))
    with pytest.raises(NotApplicableError, match="no foreground"):
        draw(Colours(), [plain], "pca", LOOK)


def test_attention_lights_what_a_head_looks_at() -> None:
    page = drawn(Colours(), [TWO[0]], "attention", LOOK)
    maps, masks = page.pixels(0), page.pixels(1)
    thing = inside(TWO[0], maps[0].shape)
    assert maps[2][thing].mean() > 5 * maps[2][~thing].mean()
    assert maps[3][thing].mean() < maps[3][~thing].mean()
    assert masks[1][thing].sum(1).mean() > masks[2][thing].sum(1).mean()
    assert page.rows[1][0] is None


class Sinks(Colours):
    """Where red is largest, tokens of the second block are far longer, until the final norm."""

    def extract(self, images: Tensor, blocks: Sequence[int], *, norm: bool) -> Features:
        patches = torch.nn.functional.avg_pool2d(images, 8).permute(0, 2, 3, 1) + 1.5
        long = torch.where(patches[..., :1] > 1.9 + patches[..., 1:2] - 1.5, 9 * patches, patches)
        tokens = [[patches, long][block] for block in blocks]
        scale = [one / one.norm(dim=3, keepdim=True) if norm else one for one in tokens]
        return Features(patches.mean((1, 2)), tuple(map(Tokens, scale)))


def test_norms_show_outliers_where_they_are_and_when_they_begin() -> None:
    page = drawn(Sinks(), TWO, "norms", LOOK)
    for row, one in enumerate(TWO):
        seen, before, after, marked = page.pixels(row)
        thing = inside(one, seen.shape)
        assert before[thing].mean() > 5 * before[~thing].mean()
        assert after[thing].mean() == pytest.approx(after[~thing].mean(), rel=0.1)
        red = (marked == (255, 0, 0)).all(axis=2)
        assert (red == thing).mean() > 0.9
        assert page.rows[row][3].caption == f"{round(red.mean() * 96)} of 96 outliers"
    assert "max 1," in page.rows[0][2].caption + ","
    places = page.pixels(2)[0]
    assert places[28, 40:56].mean() > 0
    assert (places[:8] == 0).all()
    first = drawn(Sinks(), TWO, "norms", Look(block=0, size=96))
    assert first.rows[0][3].caption == "0 of 96 outliers"
    assert drawn(Sinks(), [TWO[0], picture("wide", 16, width=64)], "norms", LOOK).rows[2][0] is None


def test_matches_join_what_is_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = [
        np.asarray(draw(Colours(), pair, "matches", LOOK)).astype(int)
        for pair in (TWO, [TWO[0], picture("blue", 48, (20, 30, 240))])
    ]
    assert drawn[0].shape == drawn[1].shape
    assert (drawn[0] != drawn[1]).mean() > 0.02
    assert _spread([(0, 5), (1, 6), (2, 7), (40, 8), (51, 9)], 10) == [(0, 5), (2, 7), (40, 8)]


def test_retrieval_ranks_by_likeness_and_frames_labels() -> None:
    asked = [(230, 40, 30), (20, 30, 240), (220, 60, 40), (200, 200, 60)]
    pictures = [
        Picture(f"p{row}", Image.new("RGB", (40, 40), colour), np.int64(row % 2))
        for row, colour in enumerate(asked)
    ]
    (tiles,) = drawn(Colours(), pictures, "retrieval").rows
    assert [tile.caption.split()[-1] for tile in tiles] == ["p0", "p2", "p3", "p1"]
    assert tiles[1].frame != tiles[2].frame == tiles[3].frame
    assert draw(Colours(), pictures, "retrieval").size[0] > 400


def boxes(target: Any, count: int = 12) -> Dataset:
    def truth(index: int) -> np.ndarray:
        mask = picture("x" * (index + 1), 8 * (index % 8)).target
        return mask if target == "mask" else np.where(mask, 1.5, 4.0).astype(np.float32)

    def image(index: int) -> Image.Image:
        return picture("x" * (index + 1), 8 * (index % 8)).image

    split = Split([f"{index}" for index in range(count)], image, None, f"boxes{target}", truth)
    names = ("ground", "box") if target == "mask" else ()
    card = DatasetCard(
        "boxes", target, class_names=names, lengths={"train": count, "test": count}, max_depth=8.0
    )
    return Dataset(card, lambda _: split)


@pytest.fixture
def look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Look:
    for kind in ("segmentation", "depth"):
        monkeypatch.setattr(
            f"ssleval.display.pictures.{kind}.ITERATIONS", 60 if kind == "segmentation" else 101
        )
    return Look(size=64, context=Context(cache=tmp_path, progress=False), dataset=boxes("mask"), limit=8)


def test_segmentation_colours_what_a_head_was_fitted_on(look: Look) -> None:
    page = drawn(Colours(), TWO, "segmentation", look)
    assert page.legend == {"ground": "#800000", "box": "#008000"}
    for row, one in enumerate(TWO):
        _, predicted, annotated = page.pixels(row)
        assert np.abs(predicted - annotated).max(2).mean() < 25
        thing = inside(one, predicted.shape)
        assert np.abs(predicted[thing].mean(0) - predicted[~thing].mean(0)).max() > 40
    file = Picture("file", TWO[0].image)
    assert len(drawn(Colours(), [file], "segmentation", look).rows[0]) == 2
    assert draw(Colours(), [file], "segmentation", look).width > 400


def test_depth_is_light_where_it_is_near(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = partial(Depth, learning_rate=0.1, pixels=32, bins=16)
    monkeypatch.setattr("ssleval.display.pictures.depth.Depth", quick)
    monkeypatch.setattr("ssleval.heads.dense.depth.UNCENTRED", 10)
    one = Picture("a", TWO[0].image, np.where(TWO[0].target, 1.5, 4.0).astype(np.float32))
    far = Look(size=64, dataset=boxes("depth"), limit=8, context=look.context)
    _, predicted, measured = drawn(Colours(), [one], "depth", far).pixels(0)
    thing = inside(TWO[0], predicted.shape)
    for seen in (predicted, measured):
        assert seen[thing].mean() > seen[~thing].mean() + 30


REFUSED: list[tuple[str, list[Picture], Look, type[Exception], str]] = [
    ("pictures", TWO, LOOK, UnknownNameError, "no picture 'pictures'"),
    ("pca", [], LOOK, ConfigError, "no picture to look at"),
    ("pca", TWO, Look(size=100), ConfigError, "size 100 is not a multiple of its patch size 8; 96 is"),
    ("pca", TWO, Look(block=7, size=96), NotApplicableError, "no block"),
    ("attention", TWO, Look(block=0), ConfigError, "leave out the block"),
    ("matches", TWO[:1], LOOK, ConfigError, "between two images; 1 given"),
    ("retrieval", TWO[:1], Look(), ConfigError, "at least two"),
    ("retrieval", TWO, LOOK, ConfigError, "leave out block and size"),
    ("segmentation", TWO, LOOK, ConfigError, "needs a dataset to fit a head on, such as scenes:mask"),
    ("depth", TWO, Look(dataset=boxes("mask")), NotApplicableError, "boxes has target 'mask'"),
    ("depth", TWO, Look(block=0, dataset=boxes("depth")), ConfigError, "leave out the block"),
]


@pytest.mark.parametrize(
    ("what", "pictures", "look", "error", "message"), REFUSED, ids=lambda one: str(one)[:20]
)
def test_what_cannot_be_drawn_is_refused(
    what: str, pictures: list[Picture], look: Look, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        draw(Colours(), pictures, what, look)


def test_a_model_without_class_attention_is_refused() -> None:
    class Blind(Colours):
        def attention(self, images: Tensor) -> Tensor:
            return Backbone.attention(self, images)

    with pytest.raises(NotApplicableError, match="no class-token attention"):
        draw(Blind(), TWO, "attention", LOOK)


def test_block_and_size_change_what_is_drawn() -> None:
    before = np.asarray(draw(Colours(), TWO, "matches", LOOK))
    assert np.array_equal(before, np.asarray(draw(Colours(), TWO, "matches", LOOK)))
    for look in (Look(size=48), Look(size=96, block=0)):
        assert not np.array_equal(before, np.asarray(draw(Colours(), TWO, "matches", look)))


def test_a_page_puts_tiles_in_rows_under_a_title() -> None:
    red, blue = (canvas.Tile(Image.new("RGB", (60, 40), colour), "name") for colour in ("#f00", "#00f"))
    framed = canvas.Tile(Image.new("RGB", (60, 40), "#f00"), "name", frame="#0f0")
    sheet = canvas.page("title", [[red, blue], [None, framed]], ["a note"])
    pixels = np.asarray(sheet).astype(int)

    def places(*colour: int) -> np.ndarray:
        return np.argwhere((np.abs(pixels - np.array(colour)) < 8).all(2)).T

    down, right = places(0, 0, 255)
    assert np.ptp(right) == pytest.approx(canvas.TILE, rel=0.15)
    assert np.ptp(down) == pytest.approx(canvas.TILE * 40 / 60, rel=0.15)
    (downs, rights), (green_down, green_right) = places(255, 0, 0), places(0, 255, 0)
    assert rights[downs < down.max()].max() < right.min(), "red is left of blue"
    assert green_down.min() > down.max(), "the framed tile is in the second row"
    assert green_right.min() > rights[downs < down.max()].max(), "whose first place is empty"
    assert (pixels[: down.min()] < 100).any(), "the title is above"
    assert (pixels[green_down.max() + 1 :] < 200).any(), "the note is below"


def test_names_are_no_formulas_and_a_missing_letter_is_no_warning() -> None:
    tile = canvas.Tile(Image.new("RGB", (20, 20)), "$_a$.jpg")
    plain = canvas.page("$_$", [[tile]], ["$_$"])
    legend = {f"_class $_{number}$ \u6f22": "#ff0000" for number in range(9)}
    assert canvas.page("$_$", [[tile]], ["$_$"], legend=legend).height > plain.height + 50


def test_long_captions_keep_their_end() -> None:
    caption = "a/very/long/path/that/does/not/fit/into/the/tile/name.jpg"
    assert canvas._shortened(caption, 20) == "...the/tile/name.jpg"
    assert canvas._shortened(caption, len(caption)) == caption


def test_labels_have_the_colours_of_voc() -> None:
    labels = np.array([[0, 1, 255]], np.uint8)
    assert np.asarray(canvas.label_colours(labels))[0].tolist() == [[128, 0, 0], [0, 128, 0], [0, 0, 0]]


def test_heat_rises_from_dark_to_light() -> None:
    ramp = np.asarray(canvas.heat(np.linspace(0, 1, 50)[None], (50, 1))).astype(int)[0].sum(1)
    assert (np.diff(ramp) > 0).all()


def test_every_kind_names_a_dataset() -> None:
    assert list(KINDS) == ["pca", "attention", "norms", "matches", "retrieval", "segmentation", "depth"]
    assert all(kind.dataset.partition(":")[0] == "scenes" and kind.rows for kind in KINDS.values())
