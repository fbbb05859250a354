from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ssleval.core import BackboneCard, Context, Dataset, DatasetCard, Samples, Split
from ssleval.core.backbone import Backbone, Features, Tokens
from ssleval.core.targets import KeyPoints, Views
from ssleval.errors import ConfigError, DataError, NotApplicableError
from ssleval.features import FeatureSource
from ssleval.heads.matching import most_distinct, upsampled_at
from ssleval.metrics.intervals import estimates
from ssleval.metrics.reprojection import known_points
from ssleval.run.jobs import Job
from ssleval.run.measure import evaluate, measure
from ssleval.tasks import correspondence
from ssleval.tasks.correspondence import Correspondence
from tests.tasks.feature_tables import evaluated, same_in_ranks

ROOM = Path(__file__).parents[3] / "shared" / "data" / "rgbd_7scenes"
SMALL = Correspondence(size=64)
STEP = {"step": 4}
WIDTH, HEIGHT = 80, 64


class Colours(Backbone):
    """Patches are the mean colour around them, of which the second block sees the red alone."""

    def __init__(self) -> None:
        card = BackboneCard("colours", "test", "colours", embed_dim=3, patch_size=4, image_size=16)
        super().__init__(card, num_blocks=2)
        self.seen = 0

    def extract(self, images: Tensor, blocks: Sequence[int], *, norm: bool) -> Features:
        self.seen += len(images)
        patches = torch.nn.functional.avg_pool2d(images, 4).permute(0, 2, 3, 1)
        red = patches * torch.tensor([1.0, 0.1, 0.1])
        return Features(patches.mean((1, 2)), tuple(Tokens([red, patches][block]) for block in blocks))


def picture(shift: int, noise: float, seed: int) -> Image.Image:
    """Colours whose direction says where a point is, moved by some pixels to the right."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    clean = np.stack([30 + 2.2 * (columns - shift), 30 + 3.0 * rows, np.full_like(rows, 128)], axis=2)
    drawn = np.random.default_rng(seed).normal(size=(HEIGHT, WIDTH, 3)) * noise
    return Image.fromarray((clean + drawn).clip(0, 255).astype(np.uint8))


SHIFT = 8


def key_points(index: int, noise: float) -> KeyPoints:
    drawn = np.random.default_rng(index + 100)
    points = np.stack([drawn.uniform(4, WIDTH - 24, 9), drawn.uniform(4, HEIGHT - 4, 9)], 1)
    points = points[: 0 if index == 3 else 9 - index].astype(np.float32)
    second = picture(SHIFT, noise, 2 * index + 1)
    names = (f"{index}a", f"{index}b")
    return KeyPoints(
        names, second, points, points + np.array([SHIFT, 0], np.float32), (20, 10, 60, 50), category=index % 2
    )


def views(index: int, noise: float) -> Views:
    """A wall two metres away, in front of which the camera has moved to the left; no depth at the top."""
    depth = np.full((HEIGHT, WIDTH), 2.0, np.float32)
    depth[:8] = 0
    near = depth.copy()
    near[30:50, 30:50] = 1.97
    motion = np.eye(4)
    motion[0, 3] = SHIFT * 2 / 50
    camera = np.array([[50.0, 0, WIDTH / 2], [0, 50.0, HEIGHT / 2], [0, 0, 1]])
    names = (f"{index}a", f"{index}b")
    return Views(names, picture(SHIFT, noise, 2 * index + 1), (depth, near), (camera, camera), motion)


def drawn(kind: Any = "pairs", noise: float = 0.0, count: int = 5) -> Dataset:
    make = key_points if kind == "pairs" else views

    def image(index: int) -> Image.Image:
        return picture(0, noise, 2 * index)

    def target(index: int) -> Any:
        return make(index, noise)

    split = Split([f"p{index}" for index in range(count)], image, None, f"{kind}{noise}", target)
    return Dataset(DatasetCard("drawn", kind, lengths={"test": count}), lambda _: split)


Measure = Callable[..., Samples]


@pytest.fixture
def run(tmp_path: Path) -> Measure:
    def measured(dataset: Dataset, **settings: Any) -> Samples:
        source = FeatureSource(Colours(), Context(cache=tmp_path, progress=False))
        step = STEP if dataset.card.target == "views" else {}
        return evaluated(replace(SMALL, **{**step, **settings}), source, dataset, source.context)

    return measured


@pytest.mark.parametrize("kind", ["pairs", "views"])
def test_processes_share_the_pairs(run: Measure, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(correspondence, "PART", 2)
    same_in_ranks(lambda: run(drawn(kind)), monkeypatch)


def test_points_that_can_be_told_apart_are_found(run: Measure) -> None:
    samples = run(drawn())
    assert list(samples.ids) == ["p0", "p1", "p2", "p4"]
    assert samples["points"].tolist() == [9, 8, 7, 5]
    assert samples["category"].tolist() == [0, 1, 0, 0]
    assert (samples["pck@0.2"] > 0.9).all()


def test_points_are_averaged_by_pair_by_point_and_by_category(run: Measure) -> None:
    samples = run(drawn(noise=40.0))
    task = SMALL.resolved(drawn())
    scores = {metric.name: metric.score(samples) for metric in task.metrics}
    assert list(scores)[:3] == ["pck@0.1", "pck@0.05", "pck@0.2"]
    assert scores["pck@0.05"] < scores["pck@0.1"] <= scores["pck@0.2"]
    assert scores["pck@0.1"] == pytest.approx(samples["pck@0.1"].mean())
    assert scores["pck_point@0.1"] == pytest.approx(samples["right@0.1"].sum() / 29)
    means = [samples["pck@0.1"][[0, 2, 3]].mean(), samples["pck@0.1"][1]]
    assert scores["pck_macro@0.1"] == pytest.approx(np.mean(means))


def test_points_in_noise_are_lost(run: Measure) -> None:
    assert run(drawn(noise=3000.0))["pck@0.1"].mean() < 0.2


def test_views_of_a_wall_are_matched(run: Measure) -> None:
    samples = run(drawn("views"))
    task = SMALL.resolved(drawn("views"))
    names = [metric.name for metric in task.metrics]
    assert names == [f"recall_{n}" for n in ("px@10", "px@5", "px@20", "cm@5", "cm@2", "cm@10")]
    assert len(samples) == 5
    assert samples["degrees"].tolist() == [0] * 5
    # Every fourth pixel below the rows without depth, but for the columns that move out of the image.
    assert samples["points"].tolist() == [14 * 18] * 5
    assert (samples["recall_px@5"] > 0.6).all()
    # At two metres and a focal length of 50 pixels, a pixel is four centimetres.
    assert (samples["recall_cm@2"] <= samples["recall_px@5"]).all()


def test_five_pixels_are_twenty_centimetres_on_a_flat_wall(run: Measure) -> None:
    samples = run(drawn("views", noise=60.0), pixels=(5.0,), centimetres=(20.0,), tolerance=0.01)
    assert samples["recall_cm@20"] == pytest.approx(samples["recall_px@5"], abs=0.05)
    assert 0.1 < samples["recall_px@5"].mean() < 0.9


SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("pairs", {"block": 0}),
    ("pairs", {"size": 32}),
    ("pairs", {"interpolation": "nearest"}),
    ("pairs", {"positions": "patches"}),
    ("pairs", {"normalise": "image"}),
    ("pairs", {"alphas": (0.11, 0.01)}),
    ("views", {"step": 5}),
    ("views", {"tolerance": 0.02}),
    ("views", {"pixels": (3.0,)}),
    ("views", {"centimetres": (30.0,)}),
]


@pytest.mark.parametrize(("kind", "settings"), SETTINGS, ids=str)
def test_every_setting_changes_the_answer(run: Measure, kind: str, settings: dict[str, Any]) -> None:
    dataset = drawn(kind, noise=60.0)
    before, after, again = run(dataset), run(dataset, **settings), run(dataset)
    columns = {name: column.tolist() for name, column in before.columns.items()}
    assert columns != {name: column.tolist() for name, column in after.columns.items()}
    assert columns == {name: column.tolist() for name, column in again.columns.items()}


def test_images_pass_the_model_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = drawn()
    split = made.split("test")
    assert split.target is not None
    target = split.target

    def shared(index: int) -> KeyPoints:
        return target(index)._replace(names=(f"{index}a", "same"), partner=target(0).partner)

    several = Dataset(made.card, lambda _: replace(split, target=shared))
    context = Context(cache=tmp_path, progress=False)
    for kept, passes in ((64, 6), (1, 10)):
        monkeypatch.setattr(correspondence, "KEPT", kept)
        source = FeatureSource(Colours(), context)
        samples = evaluated(SMALL, source, several, context)
        assert source.backbone.seen == passes
        apart = evaluated(SMALL, source, made, context)
        assert samples["pck@0.1"][0] == pytest.approx(apart["pck@0.1"][0])


def test_nothing_is_stored_and_the_data_decide_the_key(tmp_path: Path) -> None:
    context = Context(cache=tmp_path, progress=False)
    keys: set[str] = set()
    for noise in (0.0, 1.0, 0.0):
        job = Job("correspondence", SMALL.resolved(drawn()), "drawn", drawn(noise=noise))
        (result,) = measure(Colours(), [job], context, None)
        keys.add(result.key)
    assert len(keys) == 2
    assert not list(tmp_path.rglob("*.bin"))


def test_what_has_no_pairs_is_refused(run: Measure) -> None:
    other = drawn()
    with pytest.raises(NotApplicableError, match="has target 'depth'"):
        run(Dataset(replace(other.card, target="depth"), other.open))
    empty = replace(other.split("test").subset(np.array([3])))
    with pytest.raises(DataError, match="no pair has a point"):
        run(Dataset(replace(other.card, lengths={"test": 1}), lambda _: empty))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alphas": (0.1, 0.1)}, r"alphas=0\.1,0\.1: expected different entries"),
        ({"pixels": (0.0,)}, r"pixels=0\.0: expected a number > 0"),
        ({"centimetres": (-1.0,)}, r"centimetres=-1\.0: expected a number > 0"),
        ({"step": 0}, "step=0: expected a whole number >= 1"),
        ({"tolerance": 0.0}, r"tolerance=0\.0: expected a number > 0"),
        ({"alphas": ()}, "no score of pairs is left"),
        ({"size": 3}, "size=3 holds no patch of 4"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(run: Measure, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(drawn(), **settings)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("pairs", "step", 8),
        ("pairs", "tolerance", 0.1),
        ("pairs", "pixels", (3.0,)),
        ("pairs", "centimetres", (3.0,)),
        ("views", "normalise", "image"),
        ("views", "alphas", (0.3,)),
    ],
)
def test_settings_without_effect_are_refused(kind: str, name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{name}=.* has no effect on drawn, whose target is {kind}"):
        replace(SMALL, **{name: value}).resolved(drawn(kind))
    task = SMALL.resolved(drawn(kind))
    assert task.resolved(drawn(kind)) == task, "a recorded protocol can be run again"


@pytest.mark.skipif(not ROOM.is_dir(), reason="needs the frames of ../shared/data/rgbd_7scenes")
def test_a_real_room(tmp_path: Path) -> None:
    (result,) = evaluate(
        "pixels",
        "correspondence",
        dataset=f"rgbd_pairs:{ROOM}",
        settings={"correspondence": {"size": 128, "positions": "patches", "step": 32}},
        limit=4,
        context=Context(cache=tmp_path, progress=False),
    )
    assert result.metrics["recall_px@10"].n == 4
    assert 0 <= result.metrics["recall_px@10"].value < result.metrics["recall_px@20"].value < 0.5


def test_pairs_of_a_category_are_one_cluster(run: Measure) -> None:
    assert run(drawn()).cluster == "category"
    assert run(drawn(count=1)).cluster == "", "of one category alone nothing says how much categories differ"
    assert run(drawn("views")).cluster == ""


PROBE3D: dict[str, Any] = {"protocol": "probe3d"}


def test_probe3d_averages_categories_in_which_all_points_count_alike(run: Measure) -> None:
    samples = run(drawn(noise=40.0), **PROBE3D)
    task = replace(SMALL, **PROBE3D).resolved(drawn())
    scores = {metric.name: metric.score(samples) for metric in task.metrics}
    assert list(scores) == ["recall@0.1", "recall@0.05", "recall@0.2"]
    right, points, category = (samples[name] for name in ("right@0.1", "points", "category"))
    shares = [right[category == own].sum() / points[category == own].sum() for own in (0, 1)]
    assert scores["recall@0.1"] == pytest.approx(np.mean(shares))
    assert samples.cluster == "category"
    (interval,) = estimates([task.metrics[0]], samples).values()
    assert interval.low < scores["recall@0.1"] < interval.high


def test_probe3d_pads_images_with_white_to_squares() -> None:
    square = correspondence.squared(Image.new("RGB", (6, 4), (10, 20, 30)))
    pixels = np.array(square)
    assert pixels.shape == (6, 6, 3)
    assert (pixels[:4] == (10, 20, 30)).all()
    assert (pixels[4:] == 255).all()


def test_probe3d_finds_points_up_to_the_corner_of_a_patch(run: Measure) -> None:
    # A patch of 4 in 64 pixels of a square of 80 is 5 pixels; its corner is at most 5 * 2**0.5 away.
    assert run(drawn(), alphas=(0.2,), **PROBE3D)["right@0.2"].sum() > 20


def test_probe3d_has_key_points_of_both_images_in_whole_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    # A square of 80 pixels is seen at 64: pixel 7 is 5.6, and 5 there, which is 6.25 here.
    asked: list[np.ndarray] = []

    def corners(points: np.ndarray, _: Any) -> np.ndarray:
        asked.append(points)
        return np.full((1, 2), 5 / 64)

    monkeypatch.setattr(correspondence, "match_corners", corners)
    seven = np.full((1, 2), 7.5, np.float32)
    pair = KeyPoints(("a", "b"), Image.new("RGB", (80, 80)), seven, seven, (0, 0, 10, 10))
    found = replace(SMALL, **PROBE3D)._probe3d(pair, [], [(80, 80), (80, 80)])
    np.testing.assert_allclose(asked[0], 5 / 64)
    assert found["pck@0.05"] == 1


def test_probe3d_upsamples_tokens_of_views_to_every_fourth_pixel() -> None:
    """The same lines as estimate_correspondence_xyz of probe3d."""
    random = torch.Generator().manual_seed(0)
    grid, depth = torch.randn(5, 6, 3, generator=random), torch.rand(30, 41, generator=random)
    depth[depth < 0.3] = 0
    small = functional.interpolate(depth[None, None], scale_factor=0.25, mode="nearest")[0, 0]
    fine = functional.interpolate(grid.permute(2, 0, 1)[None], size=small.shape, mode="bicubic")[0]
    expected = fine.permute(1, 2, 0)[small > 0]
    points, _ = known_points(depth.numpy(), 4, corner=True)
    cells = (points // 4).astype(int)
    assert torch.allclose(upsampled_at(grid, (7, 10), cells), expected)
    grids, sizes = [grid, torch.randn(5, 6, 3, generator=random)], [(41, 30)] * 2
    few = correspondence._distinct(points, points, grids, sizes, 4, 6)
    theirs = most_distinct(expected, upsampled_at(grids[1], (7, 10), cells), 6)
    assert [rows.tolist() for rows in few] == [rows.tolist() for rows in theirs]


def test_probe3d_counts_the_matches_it_trusts_most(run: Measure) -> None:
    few, all_of_them = (run(drawn("views"), matches=count, step=8, **PROBE3D) for count in (5, 1000))
    assert few["points"].tolist() == [5] * 5
    assert all_of_them["points"].tolist() == [7 * 10] * 5
    task = replace(SMALL, **PROBE3D).resolved(drawn("views"))
    names = [metric.name for metric in task.metrics]
    assert names == [f"recall_{n}" for n in ("cm@5", "cm@2", "cm@10", "px@10", "px@5", "px@20")]


def test_probe3d_gives_recall_by_the_rotation_of_the_camera(run: Measure) -> None:
    found = run(drawn("views"), degrees=(0.0, 30.0), centimetres=(40.0, 2.0), **PROBE3D)
    np.testing.assert_array_equal(found["recall_cm_0_30@40"], found["recall_cm@40"])
    assert found["recall_cm@40"].mean() > 0.3
    with pytest.raises(DataError, match="no camera turns by 30 to 60 degrees; set other degrees"):
        run(drawn("views"), degrees=(0.0, 30.0, 60.0), **PROBE3D)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("pairs", {"positions": "patches"}),
        ("pairs", {"normalise": "image"}),
        ("pairs", {"matches": 10}),
        ("views", {"tolerance": 0.1}),
        ("views", {"positions": "patches"}),
    ],
    ids=str,
)
def test_settings_that_probe3d_does_not_read_are_refused(kind: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"whose target is {kind}, by protocol=probe3d; leave it out"):
        replace(SMALL, **PROBE3D, **settings).resolved(drawn(kind))


def test_ranges_of_rotation_increase() -> None:
    for degrees in ((30.0, 0.0), (30.0,)):
        with pytest.raises(ConfigError, match="expected two or more, increasing"):
            replace(SMALL, degrees=degrees)
    with pytest.raises(ConfigError, match=r"degrees=.* has no effect on drawn"):
        replace(SMALL, degrees=(0.0, 30.0)).resolved(drawn("views"))


def test_results_by_our_protocol_are_recorded_as_before_there_was_another() -> None:
    later = {"protocol", "matches", "degrees"}
    assert not later & set(SMALL.recorded())
    assert set(replace(SMALL, **PROBE3D).recorded()) - set(SMALL.recorded()) == later
