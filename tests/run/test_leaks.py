"""Near-duplicates: the threshold and its error, planted copies, and scores without them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy.stats import beta
from typer.testing import CliRunner

from ssleval.backbones.zoo import load
from ssleval.cli.app import app
from ssleval.core import Context, DatasetOptions, FeatureRequest, Metric, Samples
from ssleval.datasets.catalog import open_dataset
from ssleval.errors import ConfigError, DataError
from ssleval.features import FeatureSource, current_shard
from ssleval.features.shard import Shard
from ssleval.metrics.stats import mean_of
from ssleval.results import record
from ssleval.results.record import read_all
from ssleval.run import measure as measuring
from ssleval.run.duplicates import best_among, best_in, descriptors, held_out, matches_above, threshold_at
from ssleval.run.jobs import make_job
from ssleval.run.leaks import (
    Leaks,
    Side,
    find_leaks,
    known_of,
    leak_requests,
    read_known,
    refuse_answers,
    sides_of,
    without,
)
from ssleval.run.sweep import Sweep, sweep
from ssleval.tasks.knn import Knn
from tests.features.rank_threads import in_ranks


def test_the_threshold_holds_its_rate_as_often_as_its_interval_says() -> None:
    """Of uniform similarities, the share above the threshold is known."""
    draws = np.random.default_rng(0).random((400, 199))
    limits = [threshold_at(best, 0.05) for best in draws]
    true = np.array([1 - limit.value for limit in limits])
    assert abs(true.mean() - 0.05) < 0.003
    covered = np.mean([limit.low <= rate <= limit.high for limit, rate in zip(limits, true, strict=True)])
    assert 0.92 < covered < 0.98
    assert (limits[0].low, limits[0].high) == pytest.approx(beta.interval(0.95, 10, 190))


@pytest.mark.parametrize(("count", "rate", "place"), [(99, 0.01, 1), (199, 0.01, 2), (150, 0.01, 1)])
def test_as_many_known_non_copies_lie_above_as_the_rate_allows(count: int, rate: float, place: int) -> None:
    limit = threshold_at(np.arange(count, dtype=float), rate)
    assert limit.value == count - place
    assert limit.rate == place / (count + 1) <= rate


@pytest.mark.parametrize("count", [0, 98])
def test_a_rate_that_so_few_images_cannot_show_is_refused(count: int) -> None:
    with pytest.raises(ConfigError, match=f"in 99 images .* here are {count}"):
        threshold_at(np.zeros(count), 0.01)


def test_best_matches_are_those_of_a_full_search() -> None:
    random = np.random.default_rng(1)
    train, queries = (random.normal(size=(n, 6)).astype(np.float32) for n in (90, 40))
    train[7] = train[80]
    train, queries = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (train, queries))
    products, own = queries @ train.T, train @ train.T
    np.fill_diagonal(own, -2)
    np.testing.assert_allclose(best_in(train, queries), products.max(axis=1), atol=1e-6)
    np.testing.assert_allclose(best_among(train, np.arange(90)), own.max(axis=1), atol=1e-6)
    assert best_among(train, np.array([7, 80])) == pytest.approx(1)
    pairs = matches_above(train, queries, 0.9, 10)
    assert {pair[:2] for pair in pairs} == set(zip(*np.nonzero(products > 0.9), strict=True))
    assert [pair[2] for pair in pairs] == sorted((pair[2] for pair in pairs), reverse=True)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve classes of noise images; of the test images six are edited copies and one is the same file."""
    root, random = tmp_path_factory.mktemp("planted"), np.random.default_rng(0)
    for split, each in (("train", 20), ("test", 10)):
        for name in range(12):
            folder = root / split / f"{name:02}"
            folder.mkdir(parents=True)
            for item in range(each):
                small = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8))
                small.resize((48, 48), Image.Resampling.BICUBIC).save(folder / f"{item}.png")
    for name in range(6):
        original = Image.open(root / "train" / f"{name:02}" / "3.png")
        ImageEnhance.Brightness(original).enhance(0.9).save(root / "test" / f"{name:02}" / "0.png")
    (root / "test" / "11" / "9.png").write_bytes((root / "train" / "11" / "0.png").read_bytes())
    return root


COPIES = [*(f"{name:02}/0.png" for name in range(6)), "11/9.png"]


@pytest.fixture(scope="module")
def found(planted: Path, tmp_path_factory: pytest.TempPathFactory) -> Leaks:
    cache = tmp_path_factory.mktemp("cache")
    dataset = open_dataset(f"folder:{planted}", DatasetOptions(cache=cache))
    source = FeatureSource(load("pixels"), Context(device="cpu", num_workers=0, cache=cache, progress=False))
    return find_leaks(source, *sides_of("planted", dataset), size=32)


def test_planted_copies_are_found_and_few_others(found: Leaks) -> None:
    assert set(COPIES) <= set(found.leaked)
    assert len(found.leaked) - len(COPIES) <= 5
    assert found.identical == [(119, 220)]
    best = {one: other for one, other, _ in reversed(found.to_dict()["pairs"])}
    assert [best[name] for name in COPIES] == [*(f"{name:02}/3.png" for name in range(6)), "11/0.png"]


def test_one_split_is_no_leak_of_itself(found: Leaks) -> None:
    source = FeatureSource(load("pixels"), Context(device="cpu", num_workers=0, progress=False))
    with pytest.raises(ConfigError, match="copy of itself"):
        find_leaks(source, found.train, found.train)


@pytest.mark.parametrize(("copies", "width"), [(0, 12), (120, 12), (0, 250)])
def test_the_rate_holds_within_classes_and_near_duplicates_only_lower_it(copies: int, width: int) -> None:
    """Also where a whitening has hardly more images than channels: it is learnt on others than the rate."""
    random = np.random.default_rng(3)
    centres = random.normal(size=(8, width))

    def draw(count: int) -> np.ndarray:
        return centres[random.integers(0, 8, count)] + 0.4 * random.normal(size=(count, width))

    train = draw(600)
    train[:copies] = train[copies : 2 * copies] + 0.001 * random.normal(size=(copies, width))
    held = held_out(600, 10_000)
    assert len(held) == 300
    (searched, queries), whitened = descriptors(held, train, draw(2_000))
    assert whitened
    limit = threshold_at(best_among(searched, held), 0.05)
    rate = float((best_in(searched, queries) > limit.value).mean())
    assert rate < 0.1
    assert (rate > 0.02) is (copies == 0)


def test_a_set_known_to_have_no_copy_gives_the_threshold(found: Leaks, planted: Path, tmp_path: Path) -> None:
    source = FeatureSource(
        load("pixels"), Context(device="cpu", num_workers=0, progress=False, cache=tmp_path)
    )
    known = Side("part", found.test.dataset.limited(110), "test")
    again = find_leaks(source, found.train, found.test, non_copies=known, size=32, rate=0.1)
    assert again.non_copies == "part/test"
    assert again.threshold.n == 110
    ids = {found.test.split.ids[row] for row, *_ in again.pairs}
    assert len(ids & set(known.split.ids)) == 10
    for side in (found.train, found.test):
        again = Side("again", side.dataset, side.split_name)
        with pytest.raises(ConfigError, match="whose images may be copies; name another set"):
            find_leaks(source, found.train, found.test, non_copies=again, size=32, rate=0.1)


def test_a_file_is_of_data_as_run_opens_them(planted: Path, tmp_path: Path) -> None:
    path, data = tmp_path / "leaks.json", f"folder:{planted}"
    command = ["leaks", data, "--model=pixels", "--size=32", f"--out={path}", "--full-hash", "--exif"]
    asked = [*command, "--device=cpu", "--num-workers=0", f"--cache={tmp_path}", "--quiet"]
    assert CliRunner().invoke(app, asked).exit_code == 0
    opened = open_dataset(data, DatasetOptions(full_hash=True, exif=True, cache=tmp_path))
    assert list(read_known(path)) == [opened.split("test").fingerprint]


def test_the_picture_is_of_the_pairs(found: Leaks) -> None:
    from ssleval.display.pictures.leaks import draw_leaks

    assert draw_leaks(found, 3).width > 300
    with pytest.raises(DataError, match="no pair"):
        draw_leaks(replace(found, pairs=(), identical=()), 3)


def test_samples_without_some_images() -> None:
    samples = Samples(["a", "b", "c"], {"right": np.array([1, 0, 1])})
    left = without(samples, ["b"], ["a", "b", "c"], "knn")
    assert list(left.ids) == ["a", "c"]
    assert left["right"].tolist() == [1, 1]
    with pytest.raises(ConfigError, match="single images"):
        without(samples, ["b"], ["a", "b"], "knn")
    with pytest.raises(DataError, match="all 3 images"):
        without(samples, ["a", "b", "c"], ["a", "b", "c"], "knn")


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"leaked": 3}'])
def test_other_files_are_refused(tmp_path: Path, found: Leaks, content: str) -> None:
    path = tmp_path / "leaks.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match="leaks"):
        known_of(read_known(path), found.test)


def test_lines_of_several_files_may_not_contradict_each_other(tmp_path: Path, found: Leaks) -> None:
    path, line = tmp_path / "leaks.json", found.to_dict()
    other = {**line, "test_fingerprint": "0" * 64, "leaked": []}
    path.write_text("\n".join(json.dumps(one) for one in (line, other, line)))
    leaked, said = known_of(read_known(path), found.test)
    assert leaked == found.leaked
    assert said["false_alarms"] == line["false_alarms"]
    path.write_text("\n".join(json.dumps(one) for one in (line, {**line, "leaked": []})))
    with pytest.raises(ConfigError, match=r"two lines on planted/test that differ; keep one"):
        read_known(path)


@pytest.mark.parametrize("change", [{"value": "much"}, {"ci95": [0.1]}, {"non_copies": {}}, {"n": 1.5}])
def test_a_rate_of_a_file_is_of_numbers(tmp_path: Path, found: Leaks, change: dict[str, Any]) -> None:
    line = found.to_dict()
    path = tmp_path / "leaks.json"
    path.write_text(json.dumps({**line, "false_alarms": {**line["false_alarms"], **change}}))
    with pytest.raises(ConfigError, match="not a file of"):
        read_known(path)


@pytest.mark.parametrize("how", ["file", "own"])
def test_both_scores_are_in_the_result_and_the_first_is_as_without_the_option(
    planted: Path, tmp_path: Path, found: Leaks, how: str
) -> None:
    leaks = tmp_path / "leaks.json"
    leaks.write_text(json.dumps(found.to_dict()))
    folders = [f"--{name}={tmp_path / name}" for name in ("results", "cache")]
    asked = ["--model=pixels", f"--dataset=folder:{planted}", "--set=knn.ks=1", "--num-workers=0"]
    command = ["run", *asked, *folders, "--device=cpu"]
    plain = CliRunner().invoke(app, [*command, "--quiet"])
    assert "identical files: 1 image" in plain.stderr
    (before,) = read_all(tmp_path / "results")
    chosen = str(leaks) if how == "file" else "own"
    both = CliRunner().invoke(app, [*command, "--drop-leaks", chosen])
    assert both.exit_code == 0, both.output
    (after,) = read_all(tmp_path / "results")
    assert replace(after, leaks={}) == before
    assert after.leaks["dropped"] >= len(COPIES)
    samples = record.read_samples(after)
    lost = set(found.leaked) if how == "file" else None
    if lost is not None:
        kept = [name not in lost for name in samples.ids]
        column = after.metrics[after.headline].statistic["columns"]["column"]
        right = samples[column][kept].mean()
        assert after.leaks["metrics"][after.headline]["value"] == pytest.approx(right)
        assert after.leaks["metrics"][after.headline]["n"] == sum(kept)
    assert f"without {after.leaks['dropped']} leaked" in both.stdout


def test_answers_are_no_leaks_and_a_rate_must_be_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="what is looked for"):
        refuse_answers(open_dataset("scenes:retrieval", DatasetOptions(cache=tmp_path)), ())
    with pytest.raises(ConfigError, match="between 0 and 1"):
        threshold_at(np.zeros(9), 0.0)


def test_a_file_of_other_data_is_refused_before_anything_is_measured(tmp_path: Path, found: Leaks) -> None:
    leaks = tmp_path / "leaks.json"
    leaks.write_text(json.dumps(found.to_dict()))
    command = ["run", "--model", "pixels", "--dataset", "digits", "--drop-leaks", str(leaks)]
    outcome = CliRunner().invoke(app, [*command, "--results", str(tmp_path / "results")])
    assert outcome.exit_code == 2
    assert "and not of digits/test" in outcome.stderr


def swept(planted: Path, tmp_path: Path, world: int = 1, **more: Any) -> list[Any]:
    """Return what every rank has of a sweep with near-duplicates by the model's own descriptors."""

    def work(shard: Shard) -> list[Any]:
        context = Context(device="cpu", num_workers=0, cache=tmp_path / f"cache{world}", progress=False)
        asked: dict[str, Any] = {"tasks": "knn", "datasets": f"folder:{planted}", "settings": ("knn.ks=1",)}
        asked |= {"models": "pixels", "drop_leaks": "own", **more}
        sweeping = Sweep(**asked)
        return list(sweep(sweeping, context, tmp_path / f"results{world}-{shard.rank}", note=lambda _: None))

    return in_ranks(world, work)


def of_domains(root: Path) -> Path:
    """Three domains of noise; one image of the first is in the third as well, another of the second too."""
    for place, domain in enumerate(("art", "clip", "photo")):
        for number in range(6):
            path = root / domain / "ab"[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng([place, number]).integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(path)
    (root / "photo" / "a" / "0.png").write_bytes((root / "art" / "b" / "1.png").read_bytes())
    (root / "photo" / "a" / "2.png").write_bytes((root / "clip" / "a" / "4.png").read_bytes())
    return root


REFUSED = {
    "spectrum/images:{}/photo": "no split that heads are fitted on",
    "shift/domains:{}": "every domain is scored",
}


def test_what_leaks_cannot_be_dropped_from_is_refused_at_once_and_the_rest_measured(
    planted: Path, tmp_path: Path
) -> None:
    where, suite = of_domains(tmp_path / "domains"), tmp_path / "suite.yaml"
    lines = [*(name.format(where) for name in REFUSED), f"knn/folder:{planted}"]
    pairs = [line.split("/", 1) for line in lines]
    suite.write_text(json.dumps({"measurements": [{"task": task, "dataset": data} for task, data in pairs]}))
    ((*errors, measured),) = swept(planted, tmp_path, suite=str(suite))
    assert measured.leaks["dropped"] >= len(COPIES)
    for error, why in zip(errors, REFUSED.values(), strict=True):
        assert isinstance(error, ConfigError)
        assert why in str(error)


def test_a_set_without_leaks_takes_down_no_other_model(tmp_path: Path) -> None:
    """Several models are prepared together."""
    more: dict[str, Any] = {"tasks": "spectrum", "settings": (), "models": "pixels,random:vit_tiny"}
    data = f"images:{of_domains(tmp_path / 'domains')}"
    (outcomes,) = swept(tmp_path, tmp_path, datasets=data, **more)
    assert len(outcomes) == 2
    assert all("no split that heads are fitted on" in str(outcome) for outcome in outcomes)


def test_scores_of_another_set_s_images_are_refused(found: Leaks, planted: Path, tmp_path: Path) -> None:
    outside = open_dataset(f"images:{planted}/test/00", DatasetOptions(cache=tmp_path))
    inside = found.test.dataset
    asked = [FeatureRequest(inside, "test", None, ()), FeatureRequest(outside, "train", None, ())]
    refuse_answers(inside, asked[:1])
    with pytest.raises(ConfigError, match="test/00 are scored beside"):
        refuse_answers(inside, asked)


def test_pairs_have_no_split_to_search(tmp_path: Path) -> None:
    source = FeatureSource(load("pixels"), Context(device="cpu", num_workers=0, cache=tmp_path))
    pairs = open_dataset("scenes:pairs", DatasetOptions(cache=tmp_path))
    job = make_job("correspondence", "scenes:pairs", pairs, None, None)
    assert not leak_requests(source, job)
    with pytest.raises(ConfigError, match="no split that heads are fitted on"):
        leak_requests(source, replace(job, drop_leaks="own"))


@pytest.mark.slow
def test_several_processes_drop_the_same_leaks_as_one(planted: Path, tmp_path: Path) -> None:
    ((alone,),) = swept(planted, tmp_path)
    for _ in ("measured", "read back"):
        for (outcome,) in swept(planted, tmp_path, 2):
            assert outcome.leaks == alone.leaks
    assert alone.leaks["dropped"] >= len(COPIES)


def test_a_result_of_before_some_statistics_has_no_scores_of_those(
    planted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((plain,),) = swept(planted, tmp_path, drop_leaks="")
    of_now = Knn.metrics.fget
    assert of_now is not None
    later = Metric("nll", mean_of("nll"))
    monkeypatch.setattr(Knn, "metrics", property(lambda task: (*of_now(task), later)))
    ((outcome,),) = swept(planted, tmp_path)
    assert outcome.leaks["metrics"].keys() == plain.metrics.keys()


def test_files_that_any_two_domains_share_are_said(tmp_path: Path) -> None:
    said: list[str] = []
    context = Context(device="cpu", num_workers=0, cache=tmp_path, progress=False)
    asked = Sweep("pixels", tasks="shift", datasets=f"domains:{of_domains(tmp_path / 'domains')}")
    list(sweep(asked, context, None, note=said.append))
    lines = [line for line in said if "identical files" in line]
    assert len(lines) == 2
    assert "1 image of" in lines[0]
    assert all("--drop-leaks" not in line for line in lines)
    assert [("/photo lie in art" in line, "/photo lie in clip" in line) for line in lines] == [
        (True, False),
        (False, True),
    ]


def test_a_file_that_cannot_be_compared_makes_a_job_an_error_and_no_result(
    planted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In all processes, where one meets it."""

    def compared(*_: object) -> str:
        if current_shard().rank == current_shard().world - 1:
            raise DataError("1.png: Input/output error")
        return ""

    monkeypatch.setattr(measuring, "identical_note", compared)
    for world in (1, 2):
        for outcomes in swept(planted, tmp_path, world):
            assert [type(outcome) for outcome in outcomes] == [DataError]
